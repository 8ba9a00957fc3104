"""Plots as SVG: numbers in, one picture out, for a page and for files beside a document.

A picture has its text inside, so that it means the same wherever it is shown; colours come from
variables, so that a page's dark side is a picture's too.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tfcompress_ops.demo.page import fill

_WIDTH = 716
_LEFT, _TOP, _BOTTOM = 82, 18, 52
# Room for the names of the lines, at their right ends.
_NAMES = 190
_HEIGHT = 430
_LINE = 17.0
# Rows of dots: room for their names, and between them.
_ROW_NAMES, _ROW = 240, 27
_STYLES = 8
_DECIMAL_TICKS = (1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Mark:
    """A point of a series.

    Attributes:
        x: Its value across.
        y: Its value upwards.
        text: What a reader who points at it is told.
        hollow: Whether it is drawn as a ring.
    """

    x: float
    y: float
    text: str = ""
    hollow: bool = False


@dataclass(frozen=True)
class Series:
    """Points of one name and colour.

    Attributes:
        name: Its name.
        marks: Its points.
        style: Number of its colour; below 0: one of other engines', grey.
        line: Whether its points are joined.
    """

    name: str
    marks: Sequence[Mark]
    style: int = 0
    line: bool = True

    @property
    def css(self) -> str:
        """Its classes: of this package's the colour, of others the dashes."""
        if self.style >= 0:
            return f"ours s{self.style % _STYLES}"
        return f"other d{-self.style % 4}"


@dataclass(frozen=True)
class Guide:
    """A line to measure points by, such as a limit.

    Attributes:
        points: Its (x, y).
        name: What it is; empty: it says nothing.
    """

    points: Sequence[tuple[float, float]]
    name: str = ""


@dataclass(frozen=True)
class Scale:
    """An axis.

    Attributes:
        label: What it shows, with its unit.
        ticks: Values that are marked, and their text.
        low: Where it begins.
        high: Where it ends.
        logarithmic: Whether equal distances are equal ratios.
    """

    label: str
    ticks: Sequence[tuple[float, str]]
    low: float
    high: float
    logarithmic: bool = True

    def share(self, value: float) -> float:
        """Where `value` stands, 0 at `low` to 1 at `high`."""
        low, high, at = (
            (math.log10(v) if self.logarithmic else v) for v in (self.low, self.high, value)
        )
        return (at - low) / (high - low)


@dataclass(frozen=True)
class Plot:
    """Lines or points over two axes.

    Attributes:
        title: What it shows, for those who do not see it.
        x: The axis across.
        y: The axis upwards.
        series: The points.
        guides: Lines to measure them by.
    """

    title: str
    x: Scale
    y: Scale
    series: Sequence[Series]
    guides: Sequence[Guide] = field(default_factory=tuple)


@dataclass(frozen=True)
class Rows:
    """Dots on one axis, a row for each subject.

    Attributes:
        title: What it shows, for those who do not see it.
        x: The axis.
        names: The rows.
        series: Of each mark, `y` is the number of its row.
        one: Value that dots are measured from by a line, if any.
    """

    title: str
    x: Scale
    names: Sequence[str]
    series: Sequence[Series]
    one: float | None = None


def logarithmic(label: str, values: Iterable[float], kind: Literal["number", "times"]) -> Scale:
    """A logarithmic axis around `values`, which are positive, with ticks at 1, 2 and 5.

    Where that is many decades, ticks are at powers of ten alone.
    """
    found = list(values)
    low, high = min(found), max(found)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    wide = high / low > 1e3
    digits = (1.0,) if wide else _DECIMAL_TICKS
    marks = [digit * 10.0**decade for decade, digit in itertools.product(decades, digits)]
    first = max(mark for mark in marks if mark <= low * 1.0001)
    last = min(mark for mark in marks if mark >= high * 0.9999 and mark > first)
    ticks = [mark for mark in marks if first <= mark <= last]
    sign = "\N{MULTIPLICATION SIGN}" if kind == "times" else ""
    return Scale(label, [(tick, f"{tick:,.10g}{sign}") for tick in ticks], first, last)


def draw(picture: Plot | Rows, standalone: bool = False) -> str:
    """Draws a picture.

    Args:
        picture: What to draw.
        standalone: Whether it is a file of its own, which brings its colours along.

    Returns:
        SVG.
    """
    if isinstance(picture, Rows):
        return _draw_rows(picture, standalone)
    return _draw_plot(picture, standalone)


def _draw_plot(plot: Plot, standalone: bool) -> str:
    width, height = _WIDTH - _LEFT - _NAMES, _HEIGHT - _TOP - _BOTTOM

    def x(value: float) -> float:
        return round(_LEFT + width * plot.x.share(value), 1)

    def y(value: float) -> float:
        return round(_TOP + height * (1 - plot.y.share(value)), 1)

    lines = [
        {
            "css": series.css,
            "name": series.name,
            "path": _path([(x(mark.x), y(mark.y)) for mark in series.marks]) if series.line else "",
            "marks": [
                {"x": x(mark.x), "y": y(mark.y), "text": mark.text, "hollow": mark.hollow}
                for mark in series.marks
            ],
        }
        for series in plot.series
    ]
    return fill(
        "plot.svg.j2",
        "tfcompress_ops.bench",
        standalone=standalone,
        title=plot.title,
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_LEFT + width,
        top=_TOP,
        bottom=_TOP + height,
        x_label=plot.x.label,
        y_label=plot.y.label,
        x_ticks=[(x(value), text) for value, text in plot.x.ticks],
        y_ticks=[(y(value), text) for value, text in plot.y.ticks],
        guides=[_guide([(x(a), y(b)) for a, b in guide.points], guide) for guide in plot.guides],
        lines=lines,
        names=_names(plot, x, y, _LEFT + width),
    )


def _guide(points: Sequence[tuple[float, float]], guide: Guide) -> dict[str, object]:
    """A guide's line, and its name along it: near its end, or in the middle of a steep one."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    share = 1.0 if y0 == y1 else 0.6
    return {
        "path": _path(points),
        "name": guide.name,
        "x": round(x0 + share * (x1 - x0) - 6, 1),
        "y": round(y0 + share * (y1 - y0), 1),
        "angle": round(math.degrees(math.atan2(y1 - y0, x1 - x0)), 1),
    }


def _names(plot: Plot, x: object, y: object, right: float) -> list[dict[str, object]]:
    """Where the names of the series stand: at the ends of lines, or else in a list."""
    assert callable(x)
    assert callable(y)
    wanted = [
        (y(series.marks[-1].y) if series.line else _TOP + _LINE * index, index)
        for index, series in enumerate(plot.series)
    ]
    places = spread([place for place, _ in wanted], _LINE, _TOP + 6, _HEIGHT - _BOTTOM)
    return [
        {
            "css": plot.series[index].css,
            "name": plot.series[index].name,
            "y": round(place, 1),
            "x": right + 26,
            "from_x": x(plot.series[index].marks[-1].x) if plot.series[index].line else None,
            "from_y": y(plot.series[index].marks[-1].y) if plot.series[index].line else None,
        }
        for (_, index), place in zip(wanted, places, strict=True)
    ]


def spread(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in their order, at least `distance` apart.

    Args:
        wanted: Where names would stand if each were alone.
        distance: Least distance between two.
        low: Least place.
        high: Greatest place; exceeded only if they do not fit at all.

    Returns:
        One place for each of `wanted`.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    places: list[float] = []
    for index in order:
        least = places[-1] + distance if places else low
        places.append(max(least, wanted[index]))
    limit = high
    for position in reversed(range(len(places))):
        places[position] = max(low + distance * position, min(places[position], limit))
        limit = places[position] - distance
    found = [0.0] * len(wanted)
    for position, index in enumerate(order):
        found[index] = places[position]
    return found


def _draw_rows(rows: Rows, standalone: bool) -> str:
    width = _WIDTH - _ROW_NAMES - 30
    key = [{"css": series.css, "name": series.name} for series in rows.series]
    top = 30 + 18 * math.ceil(len(key) / 4)
    bottom = top + _ROW * len(rows.names)

    def x(value: float) -> float:
        return round(_ROW_NAMES + width * rows.x.share(value), 1)

    def y(row: float) -> float:
        return round(top + _ROW * (row + 0.5), 1)

    return fill(
        "rows.svg.j2",
        "tfcompress_ops.bench",
        standalone=standalone,
        title=rows.title,
        width=_WIDTH,
        height=bottom + _BOTTOM,
        left=_ROW_NAMES,
        right=_ROW_NAMES + width,
        top=top,
        bottom=bottom,
        x_label=rows.x.label,
        x_ticks=[(x(value), text) for value, text in rows.x.ticks],
        one=None if rows.one is None else x(rows.one),
        names=[(y(index), name) for index, name in enumerate(rows.names)],
        key=[
            {**entry, "x": 14 + (index % 4) * (_WIDTH - 20) / 4, "y": 14 + 18 * (index // 4)}
            for index, entry in enumerate(key)
        ],
        series=[
            {
                "css": series.css,
                "marks": [
                    {"x": x(mark.x), "y": y(mark.y), "text": mark.text} for mark in series.marks
                ],
            }
            for series in rows.series
        ],
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
