"""Results of a benchmark: what was measured, and the figures that follow from it."""

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from tfcompress_ops.bench.timing import Timing

# Of results files, so that a reader can tell one layout from the next.
# The measured peak of each arithmetic, as `kernels.measure_peaks` names it.
_PEAKS = {"float32": "float32_gflops", "int8": "int8_gops", "binary": "binary_gops"}
_JSON_VERSION = 1


@dataclass(frozen=True)
class Measurement:
    """The time of one layer in one engine.

    Attributes:
        case: Name of the case.
        arithmetic: "float32", "int8" or "binary": which peak bounds it.
        in_features: K.
        out_features: N.
        batch: Rows of x.
        state: "hot" or "cold".
        mode: "bursts" or "alternating".
        layer: Time of one layer: of one call, divided by `layers`. Nothing is subtracted.
        layers: Layers that one call runs.
        distinct: Distinct layers among them.
        weight_bytes: Bytes of one layer's weights in this engine.
        call_overhead_us: What a call of this engine costs without layers, in microseconds.
        density: Share of the weights that are multiplied, 0 to 1; below 1 where zeros are not.
    """

    case: str
    arithmetic: str
    in_features: int
    out_features: int
    batch: int
    state: str
    mode: str
    layer: Timing
    layers: int
    distinct: int
    weight_bytes: int
    call_overhead_us: float
    density: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        return self.in_features, self.out_features

    @property
    def point(self) -> tuple[tuple[int, int], int, str, str]:
        """Where it was measured: shape, batch, state and mode, which cases have in common."""
        return self.shape, self.batch, self.state, self.mode

    @property
    def gops(self) -> float:
        """Billions of operations of the dense layer per second: a multiply-add counts as two."""
        operations = 2 * self.batch * self.in_features * self.out_features
        return operations / (1e3 * self.layer.median_us)

    @property
    def overhead_share(self) -> float:
        """The call's own part of the measured time, 0 to 1."""
        return self.call_overhead_us / (self.layer.median_us * self.layers)


@dataclass(frozen=True)
class Results:
    """One run of a suite.

    Attributes:
        suite: Name of the suite.
        baseline: Case that is the dense baseline.
        reference: Peer that tables show a ratio to.
        measurements: In the order of measurement.
        peaks: The machine's measured peaks, as `tfcompress_ops.kernels.measure_peaks` names them.
        missing: Case to the command that would install it.
        machine: What the run was on.
        versions: Package to version.
        settings: What was asked for.
    """

    suite: str
    baseline: str
    reference: str
    measurements: list[Measurement]
    peaks: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def find(self, case: str, like: Measurement) -> Measurement | None:
        """The measurement of `case` at the same shape, batch, state and mode as `like`."""
        for other in self.measurements:
            if other.case == case and other.point == like.point:
                return other
        return None

    def speed_up(self, measurement: Measurement, over: str) -> float | None:
        """How many times faster `measurement` is than case `over` beside it; None without it."""
        other = self.find(over, measurement)
        return None if other is None else speed_up(measurement.layer, other.layer)

    def share_of_peak(self, measurement: Measurement) -> float | None:
        """Rate over the measured peak of its arithmetic, 0 to 1; None if that was not measured.

        Only the weights that are multiplied count: the padding that a format may multiply as well
        is not work, and zeros that it leaves out were not done.
        """
        peak = self.peaks.get(_PEAKS[measurement.arithmetic])
        return measurement.density * measurement.gops / peak if peak else None

    def mean_speed_up(
        self, case: str, over: str, batch: int, state: str, mode: str
    ) -> tuple[float, float] | None:
        """Geometric mean of `speed_up` over all shapes, and the worst of them; None without any."""
        ratios = [
            ratio
            for measurement in self.measurements
            if (measurement.case, measurement.batch) == (case, batch)
            and (measurement.state, measurement.mode) == (state, mode)
            and (ratio := self.speed_up(measurement, over)) is not None
        ]
        return (geometric_mean(ratios), min(ratios)) if ratios else None

    def to_json(self) -> str:
        """Everything, raw samples too, as JSON with the derived figures beside each measurement."""
        document = {"version": _JSON_VERSION, **asdict(self)}
        for entry, measurement in zip(document["measurements"], self.measurements, strict=True):
            entry["derived"] = {
                "gops": measurement.gops,
                "overhead_share": measurement.overhead_share,
                "share_of_peak": self.share_of_peak(measurement),
                "speed_up_over_baseline": self.speed_up(measurement, self.baseline),
                "speed_up_over_reference": self.speed_up(measurement, self.reference),
            }
        return json.dumps(document, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Results":
        """Reads what `to_json` wrote.

        Raises:
            ValueError: If `text` is of another version.
        """
        document = json.loads(text)
        version = document.pop("version", None)
        if version != _JSON_VERSION:
            raise ValueError(f"`version` must be {_JSON_VERSION}; received {version}.")
        measurements = []
        for entry in document.pop("measurements"):
            entry.pop("derived", None)
            layer = entry.pop("layer")
            timing = Timing(**{**layer, "samples": tuple(layer["samples"])})
            measurements.append(Measurement(**entry, layer=timing))
        return cls(**document, measurements=measurements)


def speed_up(timing: Timing, over: Timing) -> float:
    """How many times faster `timing` is than `over`.

    Samples of one round were taken next to each other, so the ratio is taken within each round and
    the median over rounds: a phase in which the whole machine is slow drops out. Timings of
    different runs are compared by their medians.
    """
    if len(timing.samples) != len(over.samples):
        return over.median_us / timing.median_us
    return statistics.median(
        slow / fast for fast, slow in zip(timing.samples, over.samples, strict=True)
    )


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean of positive numbers.

    Raises:
        ValueError: If there are none.
    """
    logarithms = [math.log(value) for value in values]
    if not logarithms:
        raise ValueError("`values` must hold at least one number; received none.")
    return math.exp(math.fsum(logarithms) / len(logarithms))
