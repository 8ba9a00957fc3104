"""Results of a benchmark: what was measured, and the figures that follow from it."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tfcompress_ops.bench.cases import CaseFacts
from tfcompress_ops.bench.timing import Timing

# The measured peak of each arithmetic, as `kernels.measure_peaks` names it.
PEAKS = {"float32": "float32_gflops", "int8": "int8_gops", "binary": "binary_gops"}
# Of results files, so that a reader can tell one layout from the next.
_JSON_VERSION = 2

Point = tuple[str, int, str, str]


@dataclass(frozen=True)
class Measurement:
    """The time of one layer, or of one model, in one engine.

    Attributes:
        subject: What was run: "1024 x 1024" for a product with weights [K, N], a layer with its
            inputs, or a model.
        case: Name of the case: how it was run.
        arithmetic: "float32", "int8" or "binary": which peak bounds it.
        batch: Rows of x.
        state: "hot" or "cold".
        mode: "bursts" or "alternating".
        layer: Time of one layer: of one call, divided by `layers`. Nothing is subtracted.
        layers: Layers that one call runs.
        distinct: Distinct layers among them.
        weight_bytes: Bytes of one layer's weights in this engine.
        call_overhead_us: What a call of this engine costs without layers, in microseconds.
        operations: Multiplications and additions of one dense layer; 0 where they are not counted.
        activation_bytes: Bytes of the inputs and outputs of one layer.
        density: Share of the weights that are multiplied, 0 to 1; below 1 where zeros are not.
        error: Largest error of an output, relative to the largest output, where it was measured.
        profile_us: Microseconds of a call by types of its ops, where they were measured.
    """

    subject: str
    case: str
    arithmetic: str
    batch: int
    state: str
    mode: str
    layer: Timing
    layers: int
    distinct: int
    weight_bytes: int
    call_overhead_us: float
    operations: int = 0
    activation_bytes: int = 0
    density: float = 1.0
    error: float | None = None
    profile_us: Mapping[str, float] = field(default_factory=dict)

    @property
    def point(self) -> Point:
        """Where it was measured: subject, batch, state and mode, which cases have in common."""
        return self.subject, self.batch, self.state, self.mode

    @property
    def gops(self) -> float:
        """Billions of operations of the dense layer per second: a multiply-add counts as two."""
        return self.operations / (1e3 * self.layer.median_us)

    @property
    def useful_gops(self) -> float:
        """`gops` of the weights that are multiplied alone."""
        return self.density * self.gops

    @property
    def intensity(self) -> float:
        """Operations on weights that are multiplied, per byte of weights, inputs and outputs."""
        return self.density * self.operations / (self.weight_bytes + self.activation_bytes)

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
        cases: Case to what it is.
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
    cases: dict[str, CaseFacts] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def threads(self) -> int | None:
        """Threads of every engine; None where that is not known."""
        threads: int | None = self.settings.get("threads")
        return threads

    def facts(self, case: str) -> CaseFacts:
        """What `case` is."""
        return self.cases.get(case, CaseFacts())

    def find(self, case: str, like: Measurement) -> Measurement | None:
        """The measurement of `case` at the same subject, batch, state and mode as `like`."""
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
        peak = self.peaks.get(PEAKS[measurement.arithmetic])
        return measurement.useful_gops / peak if peak and measurement.operations else None

    def mean_speed_up(
        self, case: str, over: str, batch: int, state: str, mode: str
    ) -> tuple[float, float] | None:
        """Geometric mean of `speed_up` over all subjects, and the worst; None without any."""
        ratios = [
            ratio
            for measurement in self.measurements
            if (measurement.case, measurement.batch) == (case, batch)
            and (measurement.state, measurement.mode) == (state, mode)
            and (ratio := self.speed_up(measurement, over)) is not None
        ]
        return (geometric_mean(ratios), min(ratios)) if ratios else None

    def _document(self) -> dict[str, Any]:
        """Everything, raw samples too, with the derived figures beside each measurement."""
        document = asdict(self)
        for entry, measurement in zip(document["measurements"], self.measurements, strict=True):
            entry["derived"] = {
                "gops": measurement.gops,
                "overhead_share": measurement.overhead_share,
                "share_of_peak": self.share_of_peak(measurement),
                "speed_up_over_baseline": self.speed_up(measurement, self.baseline),
                "speed_up_over_reference": self.speed_up(measurement, self.reference),
            }
        return document

    @classmethod
    def _from_document(cls, document: Mapping[str, Any]) -> "Results":
        """The run that `_document` tells of."""
        fields = dict(document)
        measurements = []
        for entry in fields.pop("measurements"):
            values = {name: value for name, value in entry.items() if name != "derived"}
            layer = values.pop("layer")
            timing = Timing(**{**layer, "samples": tuple(layer["samples"])})
            if not all(math.isfinite(us) and us > 0 for us in (*timing.samples, timing.median_us)):
                raise ValueError(f"a time of {values['case']} is not a positive number")
            measurements.append(Measurement(**values, layer=timing))
        cases = {name: CaseFacts(**facts) for name, facts in fields.pop("cases").items()}
        return cls(**fields, measurements=measurements, cases=cases)


def to_json(runs: Sequence[Results], **derived: Any) -> str:
    """A results file: everything that runs measured.

    Args:
        runs: The runs.
        **derived: What else to write beside them, for other readers: `from_json` passes it over.

    Returns:
        JSON.
    """
    documents = [run._document() for run in runs]
    return json.dumps({"version": _JSON_VERSION, **derived, "runs": documents}, indent=1)


def from_json(text: str) -> list[Results]:
    """Reads a results file.

    Args:
        text: What `to_json` wrote.

    Returns:
        The runs.

    Raises:
        ValueError: If `text` is something else, or of another version.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"`text` must be JSON; received something else: {error}.") from error
    if not isinstance(document, dict) or "version" not in document:
        raise ValueError(
            "`text` must be what `tfcompress bench --json` writes; received other JSON."
        )
    if document["version"] != _JSON_VERSION:
        raise ValueError(
            f"`version` must be {_JSON_VERSION}; received {document['version']}. Measure again, "
            "with this version of the package."
        )
    try:
        return [Results._from_document(run) for run in document["runs"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "`text` must be what `tfcompress bench --json` writes; received a file that is damaged "
            f"({type(error).__name__}: {error})."
        ) from error


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
