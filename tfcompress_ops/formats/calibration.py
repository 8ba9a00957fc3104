"""The range of a layer's inputs, for formats that quantise them by one scale."""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

_LARGEST = 127
# Inputs below this count as zero, as they do with dynamic activations; 1 / x_scale stays finite.
_SMALLEST_RANGE = 2.0**-100


def largest_magnitude(state: float | None, x: tf.Tensor) -> float:
    """The largest magnitude of a layer's inputs so far.

    Args:
        state: The largest so far, `None` at first.
        x: Tensor `[..., in_features]`.

    Returns:
        The largest with this batch, NaN once an input is NaN.
    """
    magnitudes = tf.abs(tf.cast(x, tf.float32))
    largest = float(tf.reduce_max(magnitudes)) if int(tf.size(magnitudes)) else 0.0
    return float(np.maximum(largest, 0.0 if state is None else state))


def x_scale_of(largest: float | None) -> npt.NDArray[np.float32]:
    """The step that puts the largest magnitude of the inputs at 127.

    Args:
        largest: What `largest_magnitude` returned last.

    Returns:
        float32 array `[1]`.

    Raises:
        ValueError: If `largest` is missing, negative or not finite.
    """
    if largest is None or not np.isfinite(largest) or largest < 0:
        raise ValueError(
            "`calibration` must be the largest magnitude of the inputs, finite and >= 0, for "
            f"activations='static'; received {largest}. Pass `calibration_data` to tfc.compress."
        )
    return np.array([max(largest, _SMALLEST_RANGE) / _LARGEST], np.float32)


def range_of(x_scale: npt.NDArray[np.float32]) -> float:
    """The largest magnitude that a step stands for: what `x_scale_of` takes."""
    return float(x_scale[0]) * _LARGEST
