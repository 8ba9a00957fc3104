"""The range of a layer's inputs, for formats that quantise them by one scale."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

_LARGEST = 127
# Inputs below this count as zero, as they do with dynamic activations; 1 / x_scale stays finite.
_SMALLEST_RANGE = 2.0**-100
# Of which the inverse is finite and no product is a denormal (csrc/base/quantize.h).
_X_SCALES = (2.0**-110, 2.0**100)


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
        ValueError: If `largest` is missing, negative, not finite or beyond what kernels take.
    """
    if largest is None or not np.isfinite(largest) or largest < 0:
        raise ValueError(
            "`calibration` must be the largest magnitude of the inputs, finite and >= 0, for "
            f"activations='static'; received {largest}. Pass `calibration_data` to tfc.compress."
        )
    x_scale = np.array([max(largest, _SMALLEST_RANGE) / _LARGEST], np.float32)
    check_x_scale(x_scale)
    return x_scale


def check_x_scale(x_scale: npt.NDArray[np.float32]) -> None:
    """Compares a step with what kernels take, so that a model fails as it is loaded.

    Raises:
        ValueError: If it is no such number.
    """
    if not (np.asarray(x_scale) >= _X_SCALES[0]).all() or (x_scale > _X_SCALES[1]).any():
        raise ValueError(f"`x_scale` must be from 2^-110 to 2^100; received {x_scale}.")


def range_of(x_scale: npt.NDArray[np.float32]) -> float:
    """The largest magnitude that a step stands for: what `x_scale_of` takes."""
    return float(x_scale[0]) * _LARGEST


class LargestMagnitude:
    """What a format's own `observe` gathers."""

    def __init__(self, format: Any) -> None:
        self._format = format
        self._state: Any = None
        self.seen = False

    def observe(self, x: Any) -> None:
        """Takes in a batch of a layer's inputs."""
        self._state = self._format.observe(self._state, x)
        self.seen = True

    def calibration(self) -> Any:
        """What the format's `pack` takes."""
        return self._state


class Histogram:
    """How often magnitudes occur, and the range that clips the rare ones.

    2,048 equal bins from 0 to a power of two, which doubles as larger inputs come.
    """

    _BINS = 2048

    def __init__(self, format: Any = None) -> None:
        self._counts = np.zeros(self._BINS)
        self._range = 0.0
        self._largest = 0.0
        self.seen = False

    def observe(self, x: Any) -> None:
        """Takes in a batch of a layer's inputs."""
        self.seen = True
        self._largest = largest_magnitude(self._largest, x)
        if not np.isfinite(self._largest) or self._largest == 0:
            return
        needed = 2.0 ** np.ceil(np.log2(self._largest))
        self._range = self._range or needed
        while self._range < needed:
            pairs = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.concatenate([pairs, np.zeros_like(pairs)])
            self._range *= 2
        magnitudes = np.abs(tf.cast(x, tf.float32).numpy())
        self._counts += np.histogram(magnitudes, self._BINS, (0, self._range))[0]

    def calibration(self) -> float:
        """The largest magnitude that is not clipped; NaN where an input was not finite."""
        if not np.isfinite(self._largest) or not self._counts.sum():
            return float(self._largest) if np.isfinite(self._largest) else float("nan")
        return min(self._clip(), self._largest)

    def _clip(self) -> float:
        raise NotImplementedError


class Percentile(Histogram):
    """The magnitude that 99.99 % of the inputs do not exceed."""

    _SHARE = 0.9999

    def _clip(self) -> float:
        share = np.cumsum(self._counts) / self._counts.sum()
        last = int(np.searchsorted(share, self._SHARE))
        return float((last + 1) * self._range / self._BINS)


class MeanSquaredError(Histogram):
    """The range for which the squared error of int8 inputs, rounded and clipped, is least."""

    _CANDIDATES = 128

    def _clip(self) -> float:
        centers = (np.arange(self._BINS) + 0.5) * self._range / self._BINS
        clips = self._largest * np.arange(1, self._CANDIDATES + 1) / self._CANDIDATES
        steps = clips[:, np.newaxis] / _LARGEST
        rounded = np.minimum(np.round(centers / steps), _LARGEST) * steps
        errors = np.square(centers - rounded) @ self._counts
        return float(clips[np.argmin(errors)])


# How the range of a layer's inputs is found, by name.
METHODS: dict[str, Any] = {
    "max": LargestMagnitude,
    "percentile": Percentile,
    "mse": MeanSquaredError,
}
