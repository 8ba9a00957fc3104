"""Results as tables: made once, shown in a terminal, on a page and in a document."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import rich.console
import rich.table
import rich.text

from tfcompress_ops.bench.results import Measurement, Results
from tfcompress_ops.bench.sparsity import Curve, grouped
from tfcompress_ops.cli import console

_T = TypeVar("_T")

# A call's own share of the measured time that is worth a note.
_NOTED_OVERHEAD = 0.05
# Ops of a profile.
_SHOWN_OPS = 6
# A share of the peak that measurement errors do not explain.
_NOTED_SHARE = 1.05


@dataclass
class Grid:
    """A table, before it is drawn.

    Attributes:
        title: What it shows.
        headings: One a column.
        rows: Cells of text, one a column.
        sections: Indices of the rows that begin a new group.
        left: Indices of the columns, besides the first, that are text.
        ours: Indices of the rows that are this package's.
    """

    title: str
    headings: list[str]
    rows: list[list[str]] = field(default_factory=list)
    sections: set[int] = field(default_factory=set)
    left: set[int] = field(default_factory=set)
    ours: set[int] = field(default_factory=set)

    def add(self, *cells: str, ours: bool = False) -> None:
        """Adds a row."""
        if ours:
            self.ours.add(len(self.rows))
        self.rows.append(list(cells))

    def begin_section(self) -> None:
        """Lets the next row begin a new group."""
        if self.rows:
            self.sections.add(len(self.rows))

    def without_empty_columns(self) -> "Grid":
        """The same without the columns that no row has anything in."""
        kept = [
            column
            for column in range(len(self.headings))
            if any(row[column] for row in self.rows) or not self.rows
        ]
        return Grid(
            title=self.title,
            headings=[self.headings[column] for column in kept],
            rows=[[row[column] for column in kept] for row in self.rows],
            sections=self.sections,
            left={new for new, column in enumerate(kept) if column in self.left},
            ours=self.ours,
        )

    def to_rich(self) -> rich.table.Table:
        """The table for a terminal."""
        table = console.table(*self.headings, title=self.title)
        for column in self.left:
            table.columns[column].justify = "left"
        for index, row in enumerate(self.rows):
            if index in self.sections:
                table.add_section()
            table.add_row(*row)
        return table


def tables(results: Results) -> Iterator[rich.console.RenderableType]:
    """Everything that `tfcompress bench` prints of a run: details, means over subjects, notes."""
    for grid in grids(results):
        yield grid.to_rich()
    yield rich.text.Text("\n".join(notes(results)))


def break_even_tables(
    results: Results, curves: Sequence[Curve]
) -> Iterator[rich.console.RenderableType]:
    """What `--break-even` prints: where the curves cross 1, all their points, notes."""
    for grid in break_even_grids(curves):
        yield grid.to_rich()
    lines = [BREAK_EVEN_NOTE, *_machine(results)]
    lines += _long_overheads(results, "A call's own cost, which is part of the times,")
    yield rich.text.Text("\n".join(lines))


BREAK_EVEN_NOTE = (
    "Break-even: the least share of zeros from which on a layer is faster, between two measured "
    "ones by linear interpolation of the time."
)


def grids(results: Results) -> Iterator[Grid]:
    """The tables of a run: every measurement, op overheads, means over subjects."""
    yield from detail_grids(results)
    yield from overhead_grids(results)
    yield from summary_grids(results)


def detail_grids(results: Results) -> Iterator[Grid]:
    """Every subject, batch and case, one table a state and mode."""
    for state in _distinct(m.state for m in results.measurements):
        for mode in _distinct(m.mode for m in results.measurements):
            grid = _details(results, state, mode)
            if grid.rows:
                yield grid
    profile = _profile(results)
    if profile.rows:
        yield profile


def _profile(results: Results) -> Grid:
    """Where the time of each case goes, by types of ops."""
    grid = Grid("Share of the time of all ops", ["model", "batch", "case", "ops"], left={2, 3})
    seen: set[tuple[str, int]] = set()
    for m in results.measurements:
        if not m.profile_us:
            continue
        total = sum(m.profile_us.values())
        longest = sorted(m.profile_us.items(), key=lambda item: -item[1])[:_SHOWN_OPS]
        first = (m.subject, m.batch) not in seen
        seen.add((m.subject, m.batch))
        if first:
            grid.begin_section()
        shares = ", ".join(f"{op} {us / total:.0%}" for op, us in longest)
        grid.add(*((m.subject, str(m.batch)) if first else ("", "")), m.case, shares)
    return grid


def break_even_grids(curves: Sequence[Curve]) -> Iterator[Grid]:
    """Where the curves of a sweep cross 1, and all their points."""
    for group in grouped(curves).values():
        yield _crossings(group)
        yield _points(group)


def _crossings(curves: Sequence[Curve]) -> Grid:
    """Break-even sparsities of one subject, state and mode."""
    batches = _distinct(curve.batch for curve in curves)
    grid = Grid(
        f"{curves[0].title}: break-even",
        ["weights", "over", *(f"batch {batch}" for batch in batches)],
        left={1},
    )
    found = {(curve.family, curve.over, curve.batch): curve for curve in curves}
    for family in _distinct(curve.family for curve in curves):
        for index, over in enumerate(_distinct(curve.over for curve in curves)):
            cells = [found[family, over, batch].break_even_text for batch in batches]
            grid.add("" if index else family, over, *cells)
    return grid


def _points(curves: Sequence[Curve]) -> Grid:
    """Speed-ups of one subject, state and mode at each share of zeros."""
    grid = Grid(
        f"{curves[0].title}: speed-up by share of zeros",
        ["weights", "over", "batch", *(f"{100 * zeros:g} %" for zeros in curves[0].sparsities)],
        left={1},
    )
    rows: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        rows.setdefault((curve.family, curve.over), []).append(curve)
    for (family, over), batches in rows.items():
        grid.begin_section()
        for index, curve in enumerate(batches):
            grid.add(
                "" if index else family,
                "" if index else over,
                str(curve.batch),
                *(_ratio(value) for value in curve.speed_ups),
            )
    return grid


def _details(results: Results, state: str, mode: str) -> Grid:
    """Every subject, batch and case of one state and mode."""
    grid = Grid(
        f"{results.suite}: {state}, {mode}",
        [
            "layer",
            "batch",
            "case",
            "us a layer",
            "quartiles",
            "dense-equivalent\nGOP/s" if _has_zeros(results) else "GOP/s",
            "of peak",
            "call",
            "weights",
            "error",
            f"vs {results.baseline}",
            f"vs {results.reference}",
        ],
        left={2},
    )
    previous = None
    for measurement in results.measurements:
        if (measurement.state, measurement.mode) != (state, mode):
            continue
        first = previous != measurement.point
        if first:
            grid.begin_section()
        previous = measurement.point
        layer = measurement.layer
        grid.add(
            measurement.subject if first else "",
            str(measurement.batch) if first else "",
            measurement.case,
            time_text(layer.median_us),
            f"{time_text(layer.q1_us)} - {time_text(layer.q3_us)}",
            f"{measurement.gops:,.1f}" if measurement.operations else "",
            _percent(results.share_of_peak(measurement)),
            _percent(measurement.overhead_share if measurement.call_overhead_us else None),
            _bytes(measurement.weight_bytes),
            "" if measurement.error is None else f"{measurement.error:.0e}",
            _ratio(results.speed_up(measurement, results.baseline)),
            _ratio(results.speed_up(measurement, results.reference)),
            ours=is_ours(results, measurement),
        )
    return grid.without_empty_columns()


@dataclass(frozen=True)
class Overhead:
    """One product in three views, in microseconds.

    Attributes:
        op: The op in a graph.
        kernel_us: The kernel called from Python, less what such a call costs by itself.
        eager_us: The op called eagerly.
    """

    op: Measurement
    kernel_us: float
    eager_us: float

    @property
    def graph_overhead_us(self) -> float:
        """What TensorFlow and the op add to the kernel in a graph."""
        return self.op.layer.median_us - self.kernel_us

    @property
    def eager_overhead_us(self) -> float:
        """What Python, TensorFlow and the op add to the kernel outside graphs."""
        return self.eager_us - self.kernel_us


def overheads(results: Results) -> list[Overhead]:
    """The products of a run that were measured in all three views."""
    views: dict[tuple[str, str], str] = {}
    for name, facts in results.cases.items():
        if facts.of:
            views[facts.of, facts.view] = name
    found = []
    for op in results.measurements:
        kernel = results.find(views.get((op.case, "kernel"), ""), op)
        eager = results.find(views.get((op.case, "eager"), ""), op)
        if kernel is None or eager is None:
            continue
        call_us = kernel.call_overhead_us / kernel.layers
        # A kernel of less than a call's own spread is no time, not a negative one.
        kernel_us = max(0.0, kernel.layer.median_us - call_us)
        found.append(Overhead(op, kernel_us, eager.layer.median_us))
    return found


def overhead_grids(results: Results) -> Iterator[Grid]:
    """What the op adds to its kernel, where `--kernel` had both measured."""
    found = overheads(results)
    if not found:
        return
    grid = Grid(
        "What an op adds to its kernel, in us",
        [
            *("layer", "batch", "case", "state", "mode", "kernel"),
            *("op in a graph", "adds", "op called eagerly", "adds"),
        ],
        left={2, 3, 4},
    )
    for overhead in found:
        op = overhead.op
        grid.add(
            op.subject,
            str(op.batch),
            op.case,
            op.state,
            op.mode,
            time_text(overhead.kernel_us),
            time_text(op.layer.median_us),
            time_text(overhead.graph_overhead_us),
            time_text(overhead.eager_us),
            time_text(overhead.eager_overhead_us),
        )
    yield grid


def common_batches(results: Results, state: str) -> list[int]:
    """The batches, in order, that means are taken at: those of the most subjects in a state."""
    subjects: dict[int, set[str]] = {}
    for m in results.measurements:
        if m.state == state:
            subjects.setdefault(m.batch, set()).add(m.subject)
    most = max(map(len, subjects.values()), default=0)
    return sorted(batch for batch, found in subjects.items() if len(found) == most)


def summary_grids(results: Results) -> Iterator[Grid]:
    """Geometric means over the subjects, one table a state and a reference."""
    modes = _distinct(m.mode for m in results.measurements)
    names = _distinct(m.case for m in results.measurements)
    names = [name for name in names if results.facts(name).view == "op"]
    for over in (results.baseline, results.reference):
        if over not in names:
            continue
        for state in _distinct(m.state for m in results.measurements):
            batches = common_batches(results, state)
            grid = Grid(
                f"Speed-up over {over}, {state}: geometric mean over layers (worst layer)",
                ["case", "mode", *(f"batch {batch}" for batch in batches)],
                left={1},
            )
            for name in names:
                if name == over:
                    continue
                for mode in modes:
                    means = [
                        results.mean_speed_up(name, over, batch, state, mode) for batch in batches
                    ]
                    cells = ["" if m is None else f"{m[0]:.2f}x ({m[1]:.2f})" for m in means]
                    grid.add(
                        name if mode == modes[0] else "",
                        mode,
                        *cells,
                        ours=bool(results.facts(name).group),
                    )
            yield grid.without_empty_columns()


def is_ours(results: Results, measurement: Measurement) -> bool:
    """Whether a measurement is of this package's."""
    return bool(results.facts(measurement.case).group)


def remarks(results: Results) -> list[str]:
    """What a reader has to know besides the machine and its limits: what to mistrust, and why."""
    return [
        *_machine(results)[1:],
        *_beyond_peaks(results),
        *_long_overheads(results, "A call's own cost, which is part of the times,"),
        *_missing(results),
    ]


def notes(results: Results) -> list[str]:
    """What a reader of the tables has to know, line by line."""
    lines = _machine(results)
    if _has_zeros(results):
        lines.append(
            "Dense-equivalent GOP/s count zeros as if they were multiplied; shares of the peak "
            "count the other weights only."
        )
    if results.peaks:
        peaks = ", ".join(f"{name} {value:,.0f}" for name, value in results.peaks.items())
        lines.append(f"Measured peaks: {peaks}")
    lines += _beyond_peaks(results)
    overheads = _overheads(results)
    if overheads:
        lines.append(
            'A call\'s own cost is part of the times (column "call": its share): '
            + ", ".join(f"{case} {low:.1f} - {high:.1f} us" for case, (low, high) in overheads)
        )
    lines += _long_overheads(results, "It")
    return [*lines, *_missing(results)]


def _beyond_peaks(results: Results) -> list[str]:
    if not any((results.share_of_peak(m) or 0) > _NOTED_SHARE for m in results.measurements):
        return []
    return [
        "Above 100 % of the peak: the int8 peak is that of exact sums, and of the instruction "
        "set in force; kernels that may saturate, or use another set, can exceed it."
    ]


def _missing(results: Results) -> list[str]:
    return [f"{case}: not installed: {command}" for case, command in results.missing.items()]


def _machine(results: Results) -> list[str]:
    """What ran where, and what else ran there."""
    lines = [
        f"Machine: {results.machine.get('processor')}, {results.settings.get('threads')} threads, "
        f"kernels: {results.machine.get('kernels', {}).get('tier')}; "
        + ", ".join(f"{name} {version}" for name, version in results.versions.items()),
    ]
    load = results.machine.get("other_load")
    if load is not None:
        lines.append(f"Other processes used {load:.0%} of the CPUs during the run.")
    return lines


def _long_overheads(results: Results, subject: str) -> list[str]:
    """How many measurements a call's own cost weighs on, if any."""
    counted = [m for m in results.measurements if results.facts(m.case).view == "op"]
    long = sum(m.overhead_share > _NOTED_OVERHEAD for m in counted)
    if not long:
        return []
    return [
        f"{subject} is more than {_NOTED_OVERHEAD:.0%} in {long} of {len(counted)} measurements."
    ]


def _has_zeros(results: Results) -> bool:
    """Whether some case leaves zeros out."""
    return any(measurement.density < 1 for measurement in results.measurements)


def _overheads(results: Results) -> list[tuple[str, tuple[float, float]]]:
    """Case to the least and the greatest cost of an empty call, in microseconds."""
    found: dict[str, list[float]] = {}
    for measurement in results.measurements:
        if measurement.call_overhead_us:
            found.setdefault(measurement.case, []).append(measurement.call_overhead_us)
    return [(case, (min(values), max(values))) for case, values in found.items()]


def _distinct(values: Iterable[_T]) -> list[_T]:
    """The different values, in order of appearance."""
    return list(dict.fromkeys(values))


def time_text(microseconds: float) -> str:
    """Three digits at least, no digit more than the measurement is worth."""
    digits = 0 if microseconds >= 1000 else 1 if microseconds >= 10 else 2
    return f"{microseconds:,.{digits}f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 999_500 else f"{size / 1e3:,.0f} kB"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"
