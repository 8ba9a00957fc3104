"""Calls the TensorFlow ops with random arguments, right and wrong: docs/reliability.md."""
