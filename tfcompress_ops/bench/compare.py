"""Two results files against each other: what became slower, what faster, what cannot be told.

A measurement counts as changed if its median moved by more than the threshold, the middle halves of
its samples in the two files do not overlap, and the medians are four standard errors apart: a file
has hundreds of measurements, of which chance moves some beyond their quartiles. Whatever slows the
whole machine down moves all of them; `relative=True` compares times as shares of the dense
baseline's, which was measured in the same rounds.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from tfcompress_ops.bench.results import Measurement, Results
from tfcompress_ops.bench.timing import Timing

Verdict = Literal["slower", "faster", "unclear", "same"]

_MACHINE = ("processor", "architecture", "cpus", "environment")
# Enough for a median that says something.
_LEAST_OTHERS = 3
_NOTED_LOAD = 0.1
_STANDARD_ERRORS = 4.0
# Of normal samples: standard deviation over distance of the quartiles, and standard error of a
# median over that of a mean.
_DEVIATION, _MEDIAN_ERROR = 1 / 1.349, 1.2533


class Key(NamedTuple):
    """What a measurement is of, in any file."""

    suite: str
    threads: int | None
    subject: str
    batch: int
    state: str
    mode: str
    case: str

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} threads"
        where = f"{self.subject}, batch {self.batch}, {self.state}, {self.mode}"
        return f"{self.suite}: {self.case}, {where}{threads}"


@dataclass(frozen=True)
class Change:
    """One measurement in both files.

    Attributes:
        key: What it is of.
        old: Its time in the older file, in microseconds, or as a share of the baseline's.
        new: Its time in the newer file, likewise.
        verdict: "slower" or "faster": beyond threshold and spread. "unclear": beyond the threshold
            but not the spread. "same": neither.
    """

    key: Key
    old: Timing
    new: Timing
    verdict: Verdict

    @property
    def ratio(self) -> float:
        """The new time over the old one."""
        return self.new.median_us / self.old.median_us


@dataclass(frozen=True)
class Comparison:
    """Two results files against each other.

    Attributes:
        changes: The measurements that both hold, the most slowed down first.
        threshold: Change of a time that counts, as a share of the old one.
        relative: Whether times are shares of the baseline's.
        gone: Measurements that the newer file lacks.
        added: Measurements that the older file lacks.
        drift: Median ratio of new to old times of other engines, whose code is not this package's;
            None where there are too few.
        warnings: What makes the two files hard to compare, one line each.
    """

    changes: list[Change]
    threshold: float
    relative: bool = False
    gone: list[Key] = field(default_factory=list)
    added: list[Key] = field(default_factory=list)
    drift: float | None = None
    warnings: list[str] = field(default_factory=list)

    def of(self, verdict: Verdict) -> list[Change]:
        """The changes with this verdict."""
        return [change for change in self.changes if change.verdict == verdict]

    @property
    def regressions(self) -> list[Change]:
        """What became slower."""
        return self.of("slower")

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain dicts, lists and numbers."""
        changes = [
            {
                **change.key._asdict(),
                "old": asdict(change.old),
                "new": asdict(change.new),
                "ratio": change.ratio,
                "verdict": change.verdict,
            }
            for change in self.changes
        ]
        return {
            "threshold": self.threshold,
            "relative": self.relative,
            "drift": self.drift,
            "warnings": self.warnings,
            "changes": changes,
            "gone": [key._asdict() for key in self.gone],
            "added": [key._asdict() for key in self.added],
        }


def compare(
    old: Sequence[Results],
    new: Sequence[Results],
    threshold: float = 0.05,
    relative: bool = False,
) -> Comparison:
    """Compares two results files.

    Args:
        old: The runs of the older one.
        new: The runs of the newer one.
        threshold: Change of a time that counts, as a share of the old one, >= 0.
        relative: Whether times are taken as shares of the dense baseline's at the same point.
            The baseline itself is then left out.

    Returns:
        The comparison.

    Raises:
        ValueError: If `threshold` is negative or not finite, or nothing was measured in both.
    """
    if not 0 <= threshold < float("inf"):
        raise ValueError(f"`threshold` must be 0 or more; received {threshold}.")
    before, after = (dict(_timings(runs, relative)) for runs in (old, new))
    common = [key for key in before if key in after]
    if not common:
        raise ValueError(
            "`new` must hold measurements that `old` holds too; received none. Measure with the "
            "same suite, layers, batches and threads."
        )
    changes = [
        Change(key, before[key], after[key], _verdict(before[key], after[key], threshold))
        for key in common
    ]
    return Comparison(
        changes=sorted(changes, key=lambda change: -change.ratio),
        threshold=threshold,
        relative=relative,
        gone=[key for key in before if key not in after],
        added=[key for key in after if key not in before],
        drift=_drift(old, changes),
        warnings=list(_warnings(old, new)),
    )


def _timings(runs: Sequence[Results], relative: bool) -> Iterator[tuple[Key, Timing]]:
    for run in runs:
        for measurement in run.measurements:
            timing = measurement.layer
            if relative:
                baseline = run.find(run.baseline, measurement)
                if baseline is None or baseline is measurement:
                    continue
                timing = _share(timing, baseline.layer)
            yield _key(run, measurement), timing


def _key(run: Results, measurement: Measurement) -> Key:
    return Key(run.suite, run.threads, *measurement.point, measurement.case)


def _share(timing: Timing, of: Timing) -> Timing:
    """`timing` as a share of `of`: round by round, as they were taken, or else of its median."""
    if len(timing.samples) != len(of.samples):
        return timing.scaled(1 / of.median_us)
    return Timing.from_samples(
        [sample / other for sample, other in zip(timing.samples, of.samples, strict=True)],
        timing.burst,
    )


def _verdict(old: Timing, new: Timing, threshold: float) -> Verdict:
    change = new.median_us / old.median_us - 1
    if abs(change) <= threshold:
        return "same"
    error = math.hypot(_standard_error(old), _standard_error(new))
    apart = abs(new.median_us - old.median_us) > _STANDARD_ERRORS * error
    if apart and new.q1_us > old.q3_us:
        return "slower"
    if apart and new.q3_us < old.q1_us:
        return "faster"
    return "unclear"


def _standard_error(timing: Timing) -> float:
    """Standard error of the median, from the quartiles: a few samples far out do not count."""
    deviation = _DEVIATION * (timing.q3_us - timing.q1_us)
    return _MEDIAN_ERROR * deviation / math.sqrt(len(timing.samples))


def _drift(old: Sequence[Results], changes: Sequence[Change]) -> float | None:
    ours = {name for run in old for name, facts in run.cases.items() if facts.group or facts.of}
    others = [change.ratio for change in changes if change.key.case not in ours]
    return statistics.median(others) if len(others) >= _LEAST_OTHERS else None


def _warnings(old: Sequence[Results], new: Sequence[Results]) -> Iterator[str]:
    before, after = old[0], new[0]
    tiers = [run.machine.get("kernels", {}).get("tier") for run in (before, after)]
    if tiers[0] != tiers[1]:
        yield f"Other instruction sets: {tiers[0]} before, {tiers[1]} now."
    for name in _MACHINE:
        values = [run.machine.get(name) for run in (before, after)]
        if values[0] != values[1]:
            yield f"Another machine: {name} was {_text(values[0])}, is {_text(values[1])}."
    for name in dict.fromkeys([*before.versions, *after.versions]):
        versions = [run.versions.get(name, "not installed") for run in (before, after)]
        if versions[0] != versions[1] and name != "tfcompress-ops":
            yield f"Other versions: {name} was {versions[0]}, is {versions[1]}."
    for when, runs in (("older", old), ("newer", new)):
        loads = [load for run in runs if (load := run.machine.get("other_load")) is not None]
        if loads and max(loads) > _NOTED_LOAD:
            yield f"Other processes used {max(loads):.0%} of the CPUs during the {when} run."


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={one}" for name, one in value.items() if one is not None) or "-"
    return str(value)
