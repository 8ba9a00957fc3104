"""Where the marks of the page's plots stand: numbers in, positions and SVG paths out."""

from __future__ import annotations

import base64
import dataclasses
import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tfcompress_ops.demo.results import VariantResult, WeightPlot

_HISTOGRAM_WIDTH, _HISTOGRAM_HEIGHT = 600, 240
_STAIRS_WIDTH, _STAIRS_HEIGHT = 400, 260
_STAIRS_MAX_LEVELS = 40
# Two-sided 95 % quantile of the normal distribution.
_Z = 1.96


@dataclasses.dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high`, positions in CSS percent."""

    low: float
    high: float
    ticks: list[float]

    def percent(self, value: float) -> float:
        """Returns where `value` stands, 0 at `low` to 100 at `high`."""
        return 100 * (value - self.low) / (self.high - self.low)

    def place(self, value: float) -> str:
        """Returns where `value` stands, from the left."""
        return f"{self.percent(value):.2f}%"

    def width(self, low: float, high: float) -> str:
        """Returns how wide the stretch from `low` to `high` is."""
        return f"{100 * (high - low) / (self.high - self.low):.2f}%"


@dataclasses.dataclass(frozen=True)
class HistogramPaths:
    """SVG path data of the two histograms, drawn over each other."""

    before: str
    after: str


@dataclasses.dataclass(frozen=True)
class Stairs:
    """The scatter plot of weights after over weights before.

    Attributes:
        reach: the plot shows weights from -reach to reach.
        points: (x, y) of the dots.
        levels: y of the values that the compressed weights take.
    """

    reach: float
    points: list[tuple[float, float]]
    levels: list[float]


def accuracy_interval(variant: VariantResult, digits: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of the accuracy measured on `digits` digits."""
    share = variant.accuracy
    spread = 1 + _Z**2 / digits
    centre = (share + _Z**2 / (2 * digits)) / spread
    half = _Z / spread * math.sqrt(share * (1 - share) / digits + _Z**2 / (4 * digits**2))
    return centre - half, centre + half


def accuracy_axis(variants: Sequence[VariantResult], digits: int) -> Axis:
    """Returns an axis of whole percents around all intervals, with about five ticks."""
    intervals = [accuracy_interval(variant, digits) for variant in variants]
    low = math.floor(100 * min(low for low, _ in intervals))
    high = max(low + 2, min(100, math.ceil(100 * max(high for _, high in intervals))))
    step = max(1, math.ceil((high - low) / 6))
    low = max(0, high - step * math.ceil((high - low) / step))
    return Axis(low / 100, high / 100, [tick / 100 for tick in range(low, high + 1, step)])


def histogram_paths(weights: WeightPlot) -> HistogramPaths:
    """Returns both histograms as steps on one scale."""
    tallest = max(*weights.before, *weights.after, 1)
    return HistogramPaths(
        before=_steps(weights.before, tallest) + f"V{_HISTOGRAM_HEIGHT}H0Z",
        after=_steps(weights.after, tallest),
    )


def stairs(weights: WeightPlot) -> Stairs:
    """Returns the dots and levels of the scatter plot."""
    reach = max((abs(before) for before, _ in weights.pairs), default=1.0) or 1.0

    def across(value: float) -> float:
        return round(_STAIRS_WIDTH * (0.5 + 0.5 * value / reach), 1)

    def up(value: float) -> float:
        return round(_STAIRS_HEIGHT * (0.5 - 0.5 * value / reach), 1)

    shown = [(before, after) for before, after in weights.pairs if abs(after) <= reach]
    levels = sorted({up(after) for _, after in shown})
    return Stairs(
        reach=reach,
        points=[(across(before), up(after)) for before, after in shown],
        levels=levels if len(levels) <= _STAIRS_MAX_LEVELS else [],
    )


def ink_png(image: NDArray[np.float32]) -> str:
    """Returns an image, float32 `[height, width]` of 0 (paper) to 1 (ink), as a PNG data URI.

    The image is black, and as opaque as there is ink, so that it stands on any background.
    """
    height, width = image.shape
    pixels = np.zeros((height, width, 2), np.uint8)
    pixels[..., 1] = np.rint(np.clip(image, 0, 1) * 255)
    # Each row of a PNG opens with the number of its filter; 0 is none.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    grey_and_alpha, bits = 4, 8
    header = struct.pack(">2I5B", width, height, bits, grey_and_alpha, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), level=9)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunks).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _steps(counts: Sequence[int], tallest: int) -> str:
    width = _HISTOGRAM_WIDTH / len(counts)
    heights = [_HISTOGRAM_HEIGHT * (1 - count / tallest) for count in counts]
    bars = (f"V{height:.1f}H{(index + 1) * width:.1f}" for index, height in enumerate(heights))
    return f"M0 {_HISTOGRAM_HEIGHT}" + "".join(bars)
