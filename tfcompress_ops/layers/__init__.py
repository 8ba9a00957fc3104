"""Keras layers that hold their weights in a compressed format, or are trained for one."""

from tfcompress_ops.layers.absorbed import Absorbed
from tfcompress_ops.layers.attention import GroupedQueryAttention, MultiHeadAttention
from tfcompress_ops.layers.composite import CompositeLayer
from tfcompress_ops.layers.container import Container
from tfcompress_ops.layers.convolution import Conv1D, Conv2D
from tfcompress_ops.layers.dense import Dense
from tfcompress_ops.layers.depthwise import DepthwiseConv1D, DepthwiseConv2D
from tfcompress_ops.layers.einsum_dense import EinsumDense
from tfcompress_ops.layers.embedding import Embedding
from tfcompress_ops.layers.fused import Add, FusedLayer, LayerNormalization
from tfcompress_ops.layers.layer import CompressedLayer, refusal, replacement
from tfcompress_ops.layers.quantized import QuantConv2D, QuantDense
from tfcompress_ops.layers.recurrent import GRUCell, LSTMCell, SimpleRNNCell
from tfcompress_ops.layers.separable import SeparableConv1D, SeparableConv2D

__all__ = [
    "Absorbed",
    "Add",
    "CompositeLayer",
    "CompressedLayer",
    "Container",
    "Conv1D",
    "Conv2D",
    "Dense",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "EinsumDense",
    "Embedding",
    "FusedLayer",
    "GRUCell",
    "GroupedQueryAttention",
    "LSTMCell",
    "LayerNormalization",
    "MultiHeadAttention",
    "QuantConv2D",
    "QuantDense",
    "SeparableConv1D",
    "SeparableConv2D",
    "SimpleRNNCell",
    "refusal",
    "replacement",
]
