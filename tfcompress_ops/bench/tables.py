"""Results as tables for a terminal."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import rich.console
import rich.table
import rich.text

from tfcompress_ops.bench.results import Results
from tfcompress_ops.bench.sparsity import Curve, grouped
from tfcompress_ops.cli import console

_T = TypeVar("_T")

# A call's own share of the measured time that is worth a note.
_NOTED_OVERHEAD = 0.05
# A share of the peak that measurement errors do not explain.
_NOTED_SHARE = 1.05


def tables(results: Results) -> Iterator[rich.console.RenderableType]:
    """Everything that `tfcompress bench` prints: details, means over shapes, notes."""
    for state in _distinct(m.state for m in results.measurements):
        for mode in _distinct(m.mode for m in results.measurements):
            yield _details(results, state, mode)
    yield from _summaries(results)
    yield _notes(results)


def break_even_tables(
    results: Results, curves: Sequence[Curve]
) -> Iterator[rich.console.RenderableType]:
    """What `--break-even` prints: where the curves cross 1, all their points, notes."""
    for group in grouped(curves).values():
        yield _crossings(group)
        yield _points(group)
    lines = [
        "Break-even: the least share of zeros from which on a layer is faster, between two "
        "measured ones by linear interpolation of the time.",
        *_machine(results),
        *_long_overheads(results, "A call's own cost, which is part of the times,"),
    ]
    yield rich.text.Text("\n".join(lines))


def _crossings(curves: Sequence[Curve]) -> rich.table.Table:
    """Break-even sparsities of one shape, state and mode."""
    batches = _distinct(curve.batch for curve in curves)
    table = console.table(
        "weights",
        "over",
        *(f"batch {batch}" for batch in batches),
        title=f"{curves[0].title}: break-even",
    )
    table.columns[1].justify = "left"
    found = {(curve.family, curve.over, curve.batch): curve for curve in curves}
    for family in _distinct(curve.family for curve in curves):
        for index, over in enumerate(_distinct(curve.over for curve in curves)):
            cells = [found[family, over, batch].break_even_text for batch in batches]
            table.add_row("" if index else family, over, *cells)
    return table


def _points(curves: Sequence[Curve]) -> rich.table.Table:
    """Speed-ups of one shape, state and mode at each share of zeros."""
    table = console.table(
        "weights",
        "over",
        "batch",
        *(f"{100 * sparsity:g} %" for sparsity in curves[0].sparsities),
        title=f"{curves[0].title}: speed-up by share of zeros",
    )
    table.columns[1].justify = "left"
    rows: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        rows.setdefault((curve.family, curve.over), []).append(curve)
    for (family, over), batches in rows.items():
        table.add_section()
        for index, curve in enumerate(batches):
            table.add_row(
                "" if index else family,
                "" if index else over,
                str(curve.batch),
                *(_ratio(value) for value in curve.speed_ups),
            )
    return table


def _details(results: Results, state: str, mode: str) -> rich.table.Table:
    """Every shape, batch and case of one state and mode."""
    table = console.table(
        "K x N",
        "batch",
        "case",
        "us a layer",
        "quartiles",
        "dense-equivalent\nGOP/s" if _has_zeros(results) else "GOP/s",
        "of peak",
        "call",
        f"vs {results.baseline}",
        f"vs {results.reference}",
        title=f"{results.suite}: {state}, {mode}",
    )
    table.columns[2].justify = "left"
    previous = None
    for measurement in results.measurements:
        if (measurement.state, measurement.mode) != (state, mode):
            continue
        group = (measurement.shape, measurement.batch)
        if previous not in (None, group):
            table.add_section()
        first = previous != group
        previous = group
        layer = measurement.layer
        table.add_row(
            f"{measurement.in_features} x {measurement.out_features}" if first else "",
            str(measurement.batch) if first else "",
            measurement.case,
            _time(layer.median_us),
            f"{_time(layer.q1_us)} - {_time(layer.q3_us)}",
            f"{measurement.gops:,.1f}",
            _percent(results.share_of_peak(measurement)),
            _percent(measurement.overhead_share),
            _ratio(results.speed_up(measurement, results.baseline)),
            _ratio(results.speed_up(measurement, results.reference)),
        )
    return table


def _summaries(results: Results) -> Iterator[rich.table.Table]:
    """Geometric means over the shapes, one table a state and a reference."""
    batches = _distinct(m.batch for m in results.measurements)
    modes = _distinct(m.mode for m in results.measurements)
    names = _distinct(m.case for m in results.measurements)
    for over in (results.baseline, results.reference):
        if over not in names:
            continue
        for state in _distinct(m.state for m in results.measurements):
            table = console.table(
                "case",
                "mode",
                *(f"batch {batch}" for batch in batches),
                title=f"Speed-up over {over}, {state}: geometric mean over shapes (worst shape)",
            )
            table.columns[1].justify = "left"
            for name in names:
                if name == over:
                    continue
                for mode in modes:
                    means = [
                        results.mean_speed_up(name, over, batch, state, mode) for batch in batches
                    ]
                    cells = ["" if m is None else f"{m[0]:.2f}x ({m[1]:.2f})" for m in means]
                    table.add_row(name if mode == modes[0] else "", mode, *cells)
            yield table


def _notes(results: Results) -> rich.text.Text:
    """What a reader of the tables has to know."""
    lines = _machine(results)
    if _has_zeros(results):
        lines.append(
            "Dense-equivalent GOP/s count zeros as if they were multiplied; shares of the peak "
            "count the other weights only."
        )
    if results.peaks:
        peaks = ", ".join(f"{name} {value:,.0f}" for name, value in results.peaks.items())
        lines.append(f"Measured peaks: {peaks}")
    if any((results.share_of_peak(m) or 0) > _NOTED_SHARE for m in results.measurements):
        lines.append(
            "Above 100 % of the peak: the int8 peak is that of exact sums, and of the instruction "
            "set in force; kernels that may saturate, or use another set, can exceed it."
        )
    overheads = _overheads(results)
    if overheads:
        lines.append(
            'A call\'s own cost is part of the times (column "call": its share): '
            + ", ".join(f"{case} {low:.1f} - {high:.1f} us" for case, (low, high) in overheads)
        )
    lines += _long_overheads(results, "It")
    lines += [f"{case}: not installed: {command}" for case, command in results.missing.items()]
    return rich.text.Text("\n".join(lines))


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
    long = sum(m.overhead_share > _NOTED_OVERHEAD for m in results.measurements)
    if not long:
        return []
    return [
        f"{subject} is more than {_NOTED_OVERHEAD:.0%} in {long} of {len(results.measurements)} "
        "measurements."
    ]


def _has_zeros(results: Results) -> bool:
    """Whether some case leaves zeros out."""
    return any(measurement.density < 1 for measurement in results.measurements)


def _overheads(results: Results) -> list[tuple[str, tuple[float, float]]]:
    """Case to the least and the greatest cost of an empty call, in microseconds."""
    found: dict[str, list[float]] = {}
    for measurement in results.measurements:
        found.setdefault(measurement.case, []).append(measurement.call_overhead_us)
    return [(case, (min(values), max(values))) for case, values in found.items()]


def _distinct(values: Iterable[_T]) -> list[_T]:
    """The different values, in order of appearance."""
    return list(dict.fromkeys(values))


def _time(microseconds: float) -> str:
    """Three digits at least, no digit more than the measurement is worth."""
    digits = 0 if microseconds >= 1000 else 1 if microseconds >= 10 else 2
    return f"{microseconds:,.{digits}f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"
