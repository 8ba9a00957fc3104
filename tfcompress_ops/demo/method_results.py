"""What the demonstration of the methods finds out: rows of means and spreads over seeds."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

BATCH_SIZES = (1, 128)
PIPELINE, ALONE = "One after the other", "Each by itself"


class Labels:
    """What rows are called."""

    TEACHER = "float32"
    DISTILLED = "distilled into a student"
    REMOVED = "half its neurons removed"
    PRUNED = "87.5 % of weights pruned, balanced"
    INT8 = "packed, sparse int8"
    TRAINED_ON = "pruned: nothing, trained on as long"
    SPARSE_FLOAT = "pruned: balanced 87.5 %, float32"
    SPARSE_INT8 = "pruned: balanced 87.5 %, int8"
    ROUNDED = "quantised: int8"
    TUNED_INT8 = "quantised: int8, fine-tuned"
    TUNED_SIGNS = "binarised: 1 bit, fine-tuned"
    HALF_REMOVED = "neurons: half of both layers removed"
    STUDENT_ALONE = "distilled: a small student without a teacher"
    STUDENT = "distilled: the same with the teacher"
    FEW_ALONE = "distilled: a tenth of the digits, no teacher"
    FEW = "distilled: a tenth of the digits, the teacher"
    BEST_MEMBER = "ensemble: its best member"
    ENSEMBLE = "ensemble: all five"
    BEST_TUNED = "soup: the best of three"
    SOUP = "soup: their mean weights"


@dataclasses.dataclass(frozen=True)
class Measured:
    """One model of one seed.

    Attributes:
        group: `PIPELINE` or `ALONE`.
        label: what its row is called.
        accuracy: share of the test digits that it reads correctly, 0 to 1.
        file_bytes: size of its `.keras` file, without an optimizer.
        call_us: batch size, as text, to microseconds of a `tf.function` call, a median.
        in_graph_us: the same without the call around the model.
    """

    group: str
    label: str
    accuracy: float
    file_bytes: int
    call_us: dict[str, float]
    in_graph_us: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Spread:
    """A number for each seed.

    Attributes:
        mean: their mean.
        deviation: their sample standard deviation, 0 where there is one seed.
        values: the numbers, in the order of the seeds.
    """

    mean: float
    deviation: float
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Returns what `values`, one at least, spread to."""
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), deviation, list(values))


@dataclasses.dataclass(frozen=True)
class MethodRow:
    """One row of the table; ratios compare with the float32 teacher of the same seed.

    Attributes:
        group: `PIPELINE` or `ALONE`.
        label: what it is called.
        accuracy: share of the test digits, 0 to 1.
        points: accuracy less the teacher's, in percentage points.
        file_bytes: size of the `.keras` file.
        smaller: how many times smaller than the teacher's.
        call_us: batch size, as text, to microseconds of one call.
        in_graph_us: the same without the call around the model.
        faster: batch size, as text, to how many times faster one call is.
    """

    group: str
    label: str
    accuracy: Spread
    points: Spread
    file_bytes: Spread
    smaller: Spread
    call_us: dict[str, Spread]
    in_graph_us: dict[str, Spread]
    faster: dict[str, Spread]


@dataclasses.dataclass(frozen=True)
class MethodResults:
    """Everything about the methods.

    Attributes:
        seeds: the seeds.
        layers: widths of the teacher's layers.
        members: how many models the ensemble is of.
        batch_sizes: the batch sizes of the times.
        rows: the rows, the teacher first, the pipeline's in their order.
        calls_of_members: batch size, as text, to how many times faster one call of the ensemble is
            than a call of each of its members.
    """

    seeds: list[int]
    layers: list[int]
    members: int
    batch_sizes: list[int]
    rows: list[MethodRow]
    calls_of_members: dict[str, Spread]

    def row(self, label: str) -> MethodRow:
        """Returns the row called `label`."""
        return next(row for row in self.rows if row.label == label)

    def points_against(self, label: str, other: str) -> Spread:
        """Returns how many percentage points a row is above another, seed by seed."""
        pairs = zip(self.row(label).points.values, self.row(other).points.values, strict=True)
        return Spread.of([one - another for one, another in pairs])

    def group(self, name: str) -> list[MethodRow]:
        """Returns the rows of a group."""
        return [row for row in self.rows if row.group == name]


def summarise(
    found: Sequence[Sequence[Measured]], *, seeds: list[int], layers: list[int], members: int
) -> MethodResults:
    """Takes means and spreads over seeds.

    Args:
        found: for each seed what was measured, `Labels.TEACHER` first.
        seeds: the seeds.
        layers: widths of the teacher's layers.
        members: how many models the ensemble is of.
    """
    by_label = [{one.label: one for one in measured} for measured in found]
    return MethodResults(
        seeds=seeds,
        layers=layers,
        members=members,
        batch_sizes=list(BATCH_SIZES),
        rows=sorted(
            (_row(one.group, one.label, by_label) for one in found[0]),
            key=lambda row: row.group != PIPELINE,
        ),
        calls_of_members=_by_batch(
            by_label,
            lambda of, batch: (
                members * of[Labels.BEST_MEMBER].call_us[batch] / of[Labels.ENSEMBLE].call_us[batch]
            ),
        ),
    )


_ByLabel = Mapping[str, Measured]


def _row(group: str, label: str, seeds: Sequence[_ByLabel]) -> MethodRow:
    teacher = Labels.TEACHER

    def spread(value: Callable[[_ByLabel], float]) -> Spread:
        return Spread.of([value(measured) for measured in seeds])

    return MethodRow(
        group=group,
        label=label,
        accuracy=spread(lambda of: of[label].accuracy),
        points=spread(lambda of: 100 * (of[label].accuracy - of[teacher].accuracy)),
        file_bytes=spread(lambda of: of[label].file_bytes),
        smaller=spread(lambda of: of[teacher].file_bytes / of[label].file_bytes),
        call_us=_by_batch(seeds, lambda of, batch: of[label].call_us[batch]),
        in_graph_us=_by_batch(seeds, lambda of, batch: of[label].in_graph_us[batch]),
        faster=_by_batch(
            seeds, lambda of, batch: of[teacher].call_us[batch] / of[label].call_us[batch]
        ),
    )


def _by_batch(
    seeds: Sequence[_ByLabel], value: Callable[[_ByLabel, str], float]
) -> dict[str, Spread]:
    return {
        batch: Spread.of([value(measured, batch) for measured in seeds])
        for batch in map(str, BATCH_SIZES)
    }
