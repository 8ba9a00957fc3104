"""int8 weights that are given as they are, and the numbers beside them: checks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_LARGEST = 127


def as_quantized(quantized: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """Checks an int8 matrix and gives it as an array.

    Raises:
        TypeError: If it is not int8.
        ValueError: If it is not a matrix, or holds -128.
    """
    values = np.asarray(quantized)
    if values.dtype != np.int8:
        raise TypeError(
            f"`quantized` must be int8; received {values.dtype.name} (shape {values.shape}). "
            "Floating-point weights go through `pack`."
        )
    if values.ndim != 2:
        raise ValueError(
            "`quantized` must be a matrix [in_features, out_features]; received shape "
            f"{values.shape}. Reshape it."
        )
    if (values < -_LARGEST).any():
        raise ValueError(
            "`quantized` must lie in -127 ... 127; received -128. Clip it, or quantise to a "
            "symmetric range."
        )
    return values


def scale_and_mean(
    format: Any, scale: npt.ArrayLike, mean: npt.ArrayLike | None, out_features: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Checks what goes with a matrix that is int8 already.

    Args:
        format: The format that takes them. It stores means where its `center` is true.
        scale: Finite floating-point `[out_features]`.
        mean: Finite floating-point `[out_features]`, or `None`: zeros.
        out_features: Columns of the matrix.

    Returns:
        `(scale, mean)` as float32, the mean `None` where the format stores none.

    Raises:
        ValueError: If a shape does not fit, a number is not finite, or a mean cannot be stored.
    """
    if mean is not None and not format.center:
        raise ValueError(
            f"`mean` must be None for {format}, which stores no mean; received one. Use "
            f"{type(format).__name__}(center=True)."
        )
    if format.center and mean is None:
        mean = np.zeros(out_features)
    found = None if mean is None else _as_vector("mean", mean, out_features)
    return _as_vector("scale", scale, out_features), found


def check_finite(arrays: Mapping[str, Any]) -> None:
    """Refuses NaN and infinities in the floating-point ones of packed arrays.

    Raises:
        ValueError: If there are any.
    """
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"`{name}` must be finite; received NaN or infinite values.")


def _as_vector(name: str, value: npt.ArrayLike, size: int) -> npt.NDArray[np.float32]:
    vector = np.asarray(value).astype(np.float32)
    if vector.shape != (size,):
        raise ValueError(
            f"`{name}` must have shape {(size,)}, one number per output; received shape "
            f"{vector.shape}."
        )
    if not np.isfinite(vector).all():
        raise ValueError(f"`{name}` must be finite; received NaN or infinite values.")
    return vector
