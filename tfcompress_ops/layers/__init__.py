"""Keras layers that hold their weights in a compressed format, or are trained for one."""

from tfcompress_ops.layers.dense import Dense
from tfcompress_ops.layers.layer import CompressedLayer, refusal, replacement
from tfcompress_ops.layers.quantized import QuantConv2D, QuantDense

__all__ = [
    "CompressedLayer",
    "Dense",
    "QuantConv2D",
    "QuantDense",
    "refusal",
    "replacement",
]
