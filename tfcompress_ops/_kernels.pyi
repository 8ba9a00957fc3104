from typing import Any

import numpy as np
import numpy.typing as npt

def int8_packed_size(in_features: int, out_features: int) -> int: ...
def int8_pack(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]: ...
def int8_unpack(
    packed: npt.NDArray[np.uint8], in_features: int, out_features: int
) -> npt.NDArray[np.int8]: ...
def int8_quantize_pack(
    kernel: npt.NDArray[np.float32], center: bool = False
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.float32] | None]: ...
def int8_matmul(
    x: npt.NDArray[np.float32],
    packed: npt.NDArray[np.uint8],
    scale: npt.NDArray[np.float32],
    mean: npt.NDArray[np.float32] | None = None,
    bias: npt.NDArray[np.float32] | None = None,
    x_scale: float | None = None,
    activations: str = "dynamic",
    activation: str = "linear",
    threads: int = 1,
) -> npt.NDArray[np.float32]: ...
def int8_sums(
    x: npt.NDArray[np.float32],
    packed: npt.NDArray[np.uint8],
    out_features: int,
    x_scale: float | None = None,
    threads: int = 1,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]: ...
def sparse_pack(
    weights: npt.NDArray[Any], reach: int = 64
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]: ...
def sparse_unpack(
    structure: npt.NDArray[np.uint8],
    values: npt.NDArray[Any],
    in_features: int,
    reach: int = 64,
) -> npt.NDArray[Any]: ...
def sparse_matmul(
    x: npt.NDArray[np.float32],
    structure: npt.NDArray[np.uint8],
    values: npt.NDArray[Any],
    scale: npt.NDArray[np.float32] | None = None,
    bias: npt.NDArray[np.float32] | None = None,
    x_scale: float | None = None,
    activation: str = "linear",
    reach: int = 64,
    sums: bool = False,
    threads: int = 1,
) -> npt.NDArray[Any]: ...
def sparse_variants() -> list[dict[str, Any]]: ...
def binary_packed_size(in_features: int, out_features: int, levels: str = "binary") -> int: ...
def binary_pack(weights: npt.NDArray[np.int8], levels: str = "binary") -> npt.NDArray[np.uint8]: ...
def binary_unpack(
    packed: npt.NDArray[np.uint8], in_features: int, out_features: int, levels: str = "binary"
) -> npt.NDArray[np.int8]: ...
def binary_quantize_pack(
    kernel: npt.NDArray[np.float32], rule: str = "sign", center: bool = False
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.float32] | None]: ...
def binary_matmul(
    x: npt.NDArray[Any],
    packed: npt.NDArray[np.uint8],
    scale: npt.NDArray[np.float32],
    in_features: int,
    mean: npt.NDArray[np.float32] | None = None,
    bias: npt.NDArray[np.float32] | None = None,
    threshold: npt.NDArray[np.int32] | None = None,
    levels: str = "binary",
    activations: str = "float",
    scale_x: bool = False,
    activation: str = "linear",
    sums: bool = False,
    threads: int = 1,
) -> npt.NDArray[Any]: ...
def binary_variants() -> list[dict[str, Any]]: ...
def cpu_info() -> dict[str, Any]: ...
def int8_variants() -> list[dict[str, Any]]: ...
def measure_peaks(threads: int = 1) -> dict[str, float]: ...
def int8_gpu_plan(
    m: int,
    k: int,
    n: int,
    compute_capability: int,
    multiprocessors: int,
    shared_bytes_per_block: int,
) -> dict[str, Any]: ...
def sparse_gpu_plan(
    m: int,
    k: int,
    n: int,
    steps: int,
    values: str,
    reach: int,
    tensor_float: bool,
    compute_capability: int,
    multiprocessors: int,
    shared_bytes_per_block: int,
) -> dict[str, Any]: ...
def binary_gpu_plan(
    m: int,
    k: int,
    n: int,
    levels: str,
    activations: str,
    compute_capability: int,
    multiprocessors: int,
    shared_bytes_per_block: int,
) -> dict[str, Any]: ...
