"""The kernels of the TensorFlow ops, on NumPy arrays.

Packers, the products themselves, what the CPU offers and what it can reach at best. Nothing here
needs TensorFlow to run, so kernels can be tested and measured on their own.
"""

from tfcompress_ops._kernels import (
    binary_matmul,
    binary_pack,
    binary_packed_size,
    binary_quantize_pack,
    binary_unpack,
    binary_variants,
    cpu_info,
    int8_matmul,
    int8_pack,
    int8_packed_size,
    int8_quantize_pack,
    int8_sums,
    int8_unpack,
    int8_variants,
    measure_peaks,
    sparse_matmul,
    sparse_pack,
    sparse_unpack,
    sparse_variants,
)

__all__ = [
    "binary_matmul",
    "binary_pack",
    "binary_packed_size",
    "binary_quantize_pack",
    "binary_unpack",
    "binary_variants",
    "cpu_info",
    "int8_matmul",
    "int8_pack",
    "int8_packed_size",
    "int8_quantize_pack",
    "int8_sums",
    "int8_unpack",
    "int8_variants",
    "measure_peaks",
    "sparse_matmul",
    "sparse_pack",
    "sparse_unpack",
    "sparse_variants",
]
