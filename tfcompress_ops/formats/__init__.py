"""Compressed formats: how one weight matrix is stored, and which op multiplies by it."""

from tfcompress_ops.formats.binary import Binary, Ternary
from tfcompress_ops.formats.format import Arrays, ArraySpecs, Format, get, names, register_format
from tfcompress_ops.formats.int8 import Int8
from tfcompress_ops.formats.sparse import Sparse

__all__ = [
    "ArraySpecs",
    "Arrays",
    "Binary",
    "Format",
    "Int8",
    "Sparse",
    "Ternary",
    "get",
    "names",
    "register_format",
]
