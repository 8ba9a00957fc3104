"""Keras layers that hold their weights in a compressed format."""

from tfcompress_ops.layers.dense import Dense
from tfcompress_ops.layers.layer import CompressedLayer, refusal, replacement

__all__ = ["CompressedLayer", "Dense", "refusal", "replacement"]
