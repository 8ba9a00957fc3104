"""The page: results in, one self-contained HTML file out."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfcompress_ops.cli.environment import binary_size
from tfcompress_ops.demo import geometry
from tfcompress_ops.demo.digits import SIDE
from tfcompress_ops.demo.method_results import (
    ALONE,
    PIPELINE,
    Labels,
    MethodResults,
    MethodRow,
    Spread,
)
from tfcompress_ops.demo.results import FLOAT32_XLA, Results, VariantResult

_CACHES = {"L1d": "l1d_bytes", "L2": "l2_bytes", "L3": "l3_bytes"}
_TIMES, _MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"


def render(results: Results, test_images: NDArray[np.float32]) -> str:
    """Renders the page.

    Args:
        results: what to show.
        test_images: float32 `[test, 784]`, the images that `results.examples` points into.

    Returns:
        HTML that refers to nothing outside itself.
    """
    digits = results.training.test_digits
    return fill(
        "report.html.j2",
        results=results,
        xla_label=FLOAT32_XLA,
        with_xla=any(variant.label == FLOAT32_XLA for variant in results.variants),
        facts=_facts(results.environment),
        images=[
            geometry.ink_png(test_images[example.index].reshape(SIDE, SIDE))
            for example in results.examples
        ],
        accuracy_axis=geometry.accuracy_axis(results.variants, digits),
        histogram_paths=geometry.histogram_paths(results.weights),
        stairs=geometry.stairs(results.weights),
        method_groups=(PIPELINE, ALONE),
        method_sentences=[] if results.methods is None else method_sentences(results.methods),
    )


def fill(name: str, package: str = "tfcompress_ops.demo", **values: Any) -> str:
    """Fills the template of a page.

    Args:
        name: its file.
        package: where its folder `page` is; the templates and the styles here are found too.
        **values: what the template shows.

    Returns:
        HTML.
    """
    import jinja2

    packages = dict.fromkeys((package, "tfcompress_ops.demo"))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "page") for name in packages]),
        autoescape=lambda name: name is None or name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(_FILTERS)
    text: str = environment.get_template(name).render(**values)
    return text


def microseconds(value: float) -> str:
    """Returns a time with three digits: `87.3 µs`, `412 µs`, `1.18 ms`."""
    if value >= 999.5:
        return f"{_three_digits(value / 1000)} ms"
    return f"{_three_digits(value)} µs"


def size(value: float) -> str:
    """Returns a number of bytes with three digits, in units of a thousand: `5.84 MB`."""
    for unit in ("bytes", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} bytes" if unit == "bytes" else f"{_three_digits(value)} {unit}"
        value /= 1000
    return f"{_three_digits(value)} GB"


def ratio(value: float) -> str:
    """Returns a ratio with two digits or more: 0.38, 4.1 or 12 times, with the sign for it."""
    digits = 2 if value < 0.995 else 1 if value < 9.95 else 0
    return f"{value:.{digits}f}{_TIMES}"


def speed_words(value: float) -> str:
    """Returns a speed-up in words: 4.1 times faster, or 1.2 times slower."""
    return f"{ratio(value)} faster" if value >= 1 else f"{ratio(1 / value)} slower"


def percentage(value: float) -> str:
    """Returns a share as a percentage with one decimal, two where it is small: `96.1 %`."""
    return f"{100 * value:.1f} %" if value >= 0.1 else f"{100 * value:.2f} %"


def points(value: float) -> str:
    """Returns a difference of percentages with one decimal and its sign."""
    text = f"{abs(value):.1f}"
    sign = "±" if text == "0.0" else "+" if value > 0 else _MINUS
    return sign + text


def spread(values: Spread, text: Callable[[float], str]) -> str:
    """Returns a mean and, of several seeds, the standard deviation in the unit of the mean."""
    mean = text(values.mean)
    if len(values.values) < 2:
        return mean
    number, unit = re.fullmatch(r"(\S*\d)(\D*)", mean).groups()  # type: ignore[union-attr]
    digits = len(number.partition(".")[2])
    scale = 100 if "%" in unit else 1
    return f"{number} ± {scale * values.deviation:.{max(digits, 1)}f}{unit}"


def method_sentences(found: MethodResults) -> list[str]:
    """Returns what the rows of the methods come to, in words."""
    last = found.group(PIPELINE)[-1]
    batches = [str(batch) for batch in found.batch_sizes]
    faster = _listed([f"{ratio(last.faster[b].mean)} faster at batch {b}" for b in batches])
    in_graph = _listed([ratio(_in_graph(found, last, b)) for b in batches])
    calls = _listed([f"{ratio(found.calls_of_members[b].mean)} at batch {b}" for b in batches])

    def against(label: str, other: str) -> str:
        return spread(found.points_against(label, other), points)

    return [
        f"One after the other: {ratio(last.smaller.mean)} smaller, {faster} ({in_graph} in graph), "
        f"accuracy {points(last.points.mean)} percentage points.",
        f"Pruned: {against(Labels.SPARSE_INT8, Labels.TRAINED_ON)} points against the same "
        "training without zeros.",
        f"A small student with a teacher: {against(Labels.STUDENT, Labels.STUDENT_ALONE)} points "
        "against the same one without; of a tenth of the digits: "
        f"{against(Labels.FEW, Labels.FEW_ALONE)}.",
        f"The ensemble: {against(Labels.ENSEMBLE, Labels.BEST_MEMBER)} points against its best "
        f"member, and one call is faster than {found.members} calls of members: {calls}.",
        f"The mean of weights: {against(Labels.SOUP, Labels.BEST_TUNED)} points against the best "
        "of what it is the mean of.",
    ]


def _in_graph(found: MethodResults, row: MethodRow, batch: str) -> float:
    """How many times faster than the teacher without the calls around the models."""
    teacher = found.row(Labels.TEACHER).in_graph_us[batch].mean
    return teacher / max(row.in_graph_us[batch].mean, 1.0)


def _listed(words: list[str]) -> str:
    return " and ".join(words)


def _three_digits(value: float) -> str:
    return (
        f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
    )


def _signed(value: float) -> str:
    return f"{value:+.2g}".replace("-", _MINUS)


def _whole_percentage(value: float) -> str:
    return f"{int(100 * value)} %"


def _percent_of(value: float, whole: float) -> str:
    return f"{100 * value / whole:.2f}%"


def _count_words(count: int, singular: str, plural: str) -> str:
    return f"{count or 'no'} {singular if count == 1 else plural}"


def _longest_us(variants: list[VariantResult], batch: str) -> float:
    return max(variant.latency[batch].q3_us for variant in variants)


def _date(iso: str) -> str:
    moment = datetime.datetime.fromisoformat(iso)
    return f"{moment.day} {moment:%B %Y, %H:%M}"


_FILTERS: dict[str, Callable[..., Any]] = {
    "accuracy_interval": geometry.accuracy_interval,
    "bytes": size,
    "count_words": _count_words,
    "date": _date,
    "longest_us": _longest_us,
    "microseconds": microseconds,
    "percent_of": _percent_of,
    "percentage": percentage,
    "points": points,
    "ratio": ratio,
    "signed": _signed,
    "speed_words": speed_words,
    "spread": lambda values, name: spread(values, _FILTERS[name]),
    "whole_percentage": _whole_percentage,
}


def _facts(environment: dict[str, Any]) -> list[tuple[str, str]]:
    versions, cpu, threads = environment["versions"], environment["cpu"], environment["threads"]
    return [
        ("Machine", f"{cpu['model_name']}, {cpu['num_cpus']} logical CPUs"),
        ("Caches", ", ".join(f"{name} {binary_size(cpu[key])}" for name, key in _CACHES.items())),
        ("Kernels", f"tier {environment['isa']['in_force']}"),
        ("Threads", f"{threads['intra_op']} within an op, {threads['inter_op']} between ops"),
        ("TensorFlow", f"{versions['tensorflow']}, Keras {versions['keras']}"),
        ("Python", f"{versions['python']}, NumPy {versions['numpy']}"),
        (
            "tfcompress_ops",
            f"{versions['tfcompress_ops']}, compiled by {environment['build']['compiler']}",
        ),
    ]
