"""The page of `--break-even`: curves in, one self-contained HTML file out."""

import datetime
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tfcompress_ops.bench.results import Results
from tfcompress_ops.bench.sparsity import Curve, grouped
from tfcompress_ops.demo.geometry import Axis
from tfcompress_ops.demo.page import fill

_SPARSITY_TICKS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
_SPEED_UP_TICKS = (1.0, 2.0, 5.0)


@dataclass(frozen=True)
class _Line:
    """One curve in a panel.

    Attributes:
        curve: What it shows.
        path: SVG path data in a square of 100, y downwards.
        crossing: (x, y) in the same square where it crosses 1, if it does.
    """

    curve: Curve
    path: str
    crossing: tuple[float, float] | None


@dataclass(frozen=True)
class _Panel:
    """The curves of one batch size."""

    batch: int
    lines: list[_Line]


@dataclass(frozen=True)
class _Plot:
    """Panels beside each other on the same axes: one dense case, shape, state and mode.

    Attributes:
        over: The dense case.
        title: The shape, the state and the mode.
        sparsity: Across, linear.
        speed_up: Upwards, of logarithms.
        one: y of a speed-up of 1.
        panels: One a batch size.
    """

    over: str
    title: str
    sparsity: Axis
    speed_up: Axis
    one: float
    panels: list[_Panel]


def render(results: Results, curves: Sequence[Curve]) -> str:
    """Renders the page.

    Args:
        results: The run that the curves are of.
        curves: One at least.

    Returns:
        HTML that refers to nothing outside itself.
    """
    now = datetime.datetime.now()
    return fill(
        "break_even.html.j2",
        "tfcompress_ops.bench",
        date=f"{now.day} {now:%B %Y, %H:%M}",
        processor=results.machine.get("processor"),
        facts=_facts(results),
        plots=[
            _plot(over, title, [curve for curve in group if curve.over == over])
            for title, group in grouped(curves).items()
            for over in dict.fromkeys(curve.over for curve in group)
        ],
    )


def _plot(over: str, title: str, curves: Sequence[Curve]) -> _Plot:
    sparsity = Axis(0.0, 1.0, list(_SPARSITY_TICKS))
    speed_up = _logarithmic(value for curve in curves for value in curve.speed_ups)
    panels: dict[int, list[_Line]] = {}
    for curve in curves:
        panels.setdefault(curve.batch, []).append(_line(curve, sparsity, speed_up))
    return _Plot(
        over=over,
        title=title,
        sparsity=sparsity,
        speed_up=speed_up,
        one=100 - speed_up.percent(0.0),
        panels=[_Panel(batch, lines) for batch, lines in panels.items()],
    )


def _logarithmic(speed_ups: Iterable[float]) -> Axis:
    """An axis of log10 around all `speed_ups` and 1, ticks at 1, 2 and 5 of each decade."""
    logarithms = [0.0, *map(math.log10, speed_ups)]
    decades = range(math.floor(min(logarithms)) - 1, math.ceil(max(logarithms)) + 2)
    marks = [
        math.log10(tick) + decade for decade, tick in itertools.product(decades, _SPEED_UP_TICKS)
    ]
    low = max(mark for mark in marks if mark <= min(logarithms))
    high = min(mark for mark in marks if mark >= max(*logarithms, math.log10(2)))
    return Axis(low, high, [mark for mark in marks if low <= mark <= high])


def _line(curve: Curve, sparsity: Axis, speed_up: Axis) -> _Line:
    points = [
        f"{sparsity.percent(zeros):.2f} {100 - speed_up.percent(math.log10(ratio)):.2f}"
        for zeros, ratio in zip(curve.sparsities, curve.speed_ups, strict=True)
    ]
    found = curve.break_even
    crossing = None
    if found is not None and found > curve.sparsities[0]:
        crossing = (sparsity.percent(found), 100 - speed_up.percent(0.0))
    return _Line(curve, "M" + "L".join(points), crossing)


def _facts(results: Results) -> list[tuple[str, str]]:
    load = results.machine.get("other_load")
    facts = [
        ("Machine", str(results.machine.get("processor"))),
        ("Kernels", f"tier {results.machine.get('kernels', {}).get('tier')}"),
        ("Threads", str(results.settings.get("threads"))),
        ("Versions", ", ".join(f"{name} {version}" for name, version in results.versions.items())),
    ]
    if load is not None:
        facts.append(("Other load", f"{100 * load:.0f} % of the CPUs"))
    return facts
