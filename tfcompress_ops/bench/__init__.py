"""Microbenchmarks: every format's op against TensorFlow and other engines on the same layers."""
