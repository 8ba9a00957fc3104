"""What there is to show of a results file: sections of plots and tables, for a page or a document.

A section is made where the results have something for it: growth by batch where one layer was
measured at several, growth by threads where runs of one suite used several numbers of them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tfcompress_ops.bench import layers, model_suite
from tfcompress_ops.bench.plots import Guide, Mark, Plot, Rows, Scale, Series, logarithmic
from tfcompress_ops.bench.results import PEAKS, Measurement, Results
from tfcompress_ops.bench.sparsity import Curve, curves
from tfcompress_ops.bench.tables import (
    BREAK_EVEN_NOTE,
    Grid,
    break_even_grids,
    common_batches,
    detail_grids,
    overhead_grids,
    overheads,
    summary_grids,
    time_text,
)

_WHOLE = (layers.SUITE, model_suite.SUITE)
_PEAK_NAMES = {"float32": "float32", "int8": "int8", "binary": "1 bit"}
_BANDWIDTHS = {"dram_read_gbs": "memory", "l2_read_gbs": "L2"}
_LEAST_LAYERS_TO_GROW = 3
# Colours of batches, where cases are rows: as different as colours get.
_BATCH_STYLES = (0, 3, 1, 2)


@dataclass(frozen=True)
class Figure:
    """A plot and what is to be seen in it.

    Attributes:
        name: Short, for a file.
        title: Its heading.
        picture: The plot.
    """

    name: str
    title: str
    picture: Plot | Rows


@dataclass(frozen=True)
class Section:
    """Part of a page.

    Attributes:
        title: Its heading.
        text: What a reader has to know to read it.
        figures: Its plots.
        grids: Tables that belong to the text.
        numbers: Tables for those who look something up.
    """

    title: str
    text: str
    figures: list[Figure] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    numbers: list[Grid] = field(default_factory=list)


def sections(runs: Sequence[Results]) -> list[Section]:
    """The sections of a page or document about `runs`."""
    found: list[Section] = []
    for run in _products(runs):
        found += _of_products(run)
    found += _growth_by_threads(runs)
    for run in runs:
        if _is_sweep(run):
            found.append(_by_sparsity(run))
    for run in runs:
        if any(True for _ in overhead_grids(run)):
            found.append(_overheads(run))
    for run in runs:
        if run.suite in _WHOLE:
            found.append(_whole(run))
    return found


def typical(runs: Sequence[Results]) -> Results:
    """The run that speaks for a file: that of the most engines, with the most threads."""
    return max(runs, key=lambda run: (len(run.measurements), run.threads or 0))


def _is_sweep(run: Results) -> bool:
    return any(facts.family for facts in run.cases.values())


def _products(runs: Sequence[Results]) -> list[Results]:
    """The runs of products, of those that differ in threads the one with the most."""
    most: dict[str, Results] = {}
    for run in runs:
        if run.suite in _WHOLE or _is_sweep(run) or any(True for _ in overhead_grids(run)):
            continue
        known = most.get(run.suite)
        if known is None or (run.threads or 0) > (known.threads or 0):
            most[run.suite] = run
    return list(most.values())


def _of_products(run: Results) -> list[Section]:
    threads = f"{run.threads} threads" if run.threads != 1 else "one thread"
    shown = [
        Section(
            f"{_capital(run.suite)}: speed-ups",
            f"Ratios are medians over rounds in which all cases ran within moments of each other, "
            f"with {threads}; then the geometric mean over all layers, and in brackets the worst "
            "layer. Hot: weights in the caches; cold: from memory.",
            list(_speed_ups(run)),
            numbers=[*summary_grids(run), *detail_grids(run)],
        )
    ]
    roofline = _roofline(run)
    if roofline is not None:
        shown.append(roofline)
    figures = [*_growth_by_batch(run), *_growth_by_size(run)]
    if figures:
        shown.append(
            Section(
                "How the cost grows with the batch and with the layer",
                "Time of one layer inside a graph or model, bias included; both axes are "
                "logarithmic.",
                figures,
            )
        )
    return shown


def _speed_ups(run: Results) -> Iterator[Figure]:
    """Means over layers, hot: a row for each case, a dot for each batch."""
    hot = _hot(run)
    state, mode = hot[0].state, hot[0].mode
    batches = common_batches(run, state)
    for over in (run.baseline, run.reference):
        names = [name for name in _styles(run) if name != over]
        series = []
        for index, batch in enumerate(batches):
            marks = []
            for row, name in enumerate(names):
                mean = run.mean_speed_up(name, over, batch, state, mode)
                if mean is not None:
                    told = f"{name}, batch {batch}: {mean[0]:.2f} times (worst {mean[1]:.2f})"
                    marks.append(Mark(mean[0], row, told))
            if marks:
                series.append(Series(f"batch {batch}", marks, _BATCH_STYLES[index % 4]))
        if series:
            gains = [mark.x for one in series for mark in one.marks]
            yield Figure(
                f"{run.suite}-over-{'dense' if over == run.baseline else 'reference'}",
                f"Over {over}",
                Rows(
                    f"Speed-up over {over}, geometric mean over layers.",
                    logarithmic(f"times faster than {over}", [1.0, *gains], "times"),
                    names,
                    series,
                    1.0,
                ),
            )


def _roofline(run: Results) -> Section | None:
    points = [m for m in _main(run, run.measurements) if m.operations and _view(run, m) == "op"]
    if not points or not run.peaks:
        return None
    x = logarithmic(
        "operations per byte of weights, inputs and outputs", _of(points, "intensity"), "number"
    )
    peaks = {kind: run.peaks[name] for kind, name in PEAKS.items() if run.peaks.get(name)}
    rates = [*_of(points, "useful_gops"), *peaks.values()]
    y = logarithmic("GOP/s on weights that are not zero", rates, "number")
    guides = [
        Guide([(x.low, peak), (x.high, peak)], f"{_PEAK_NAMES[kind]} peak {peak:,.0f}")
        for kind, peak in peaks.items()
    ]
    top = max(peaks.values())
    for name, text in _BANDWIDTHS.items():
        if bandwidth := run.peaks.get(name):
            low = max(x.low, y.low / bandwidth)
            high = min(x.high, top / bandwidth)
            if low < high:
                ends = [(low, low * bandwidth), (high, high * bandwidth)]
                guides.append(Guide(ends, f"{text} {bandwidth:,.0f} GB/s"))
    plot = Plot(
        "Rate of every case by operations per byte, below the machine's measured limits.",
        x,
        y,
        [
            Series(
                name,
                [
                    Mark(m.intensity, m.useful_gops, _told(run, m), m.state == "cold")
                    for m in points
                    if m.case == name
                ],
                style,
                line=False,
            )
            for name, style in _styles(run).items()
            if any(m.case == name for m in points)
        ],
        guides,
    )
    return Section(
        "Against the machine's limits",
        "The dotted lines were measured on this machine: what its arithmetic can do at best, and "
        "what its memory and caches can deliver. Each point is one layer at one batch; rings are "
        "layers whose weights came from memory. A case is bounded by the peak of its own "
        "arithmetic; zeros that are not multiplied count as no work.",
        [Figure("roofline", "Roofline", plot)],
    )


def _growth_by_batch(run: Results) -> Iterator[Figure]:
    points = _main(run, _hot(run))
    subjects = {m.subject: len({o.batch for o in points if o.subject == m.subject}) for m in points}
    subject = max(subjects, key=lambda name: subjects[name], default=None)
    if subject is None or subjects[subject] < 2:
        return
    chosen = [m for m in points if m.subject == subject]
    batches = sorted({m.batch for m in chosen})
    x = Scale("batch", [(batch, str(batch)) for batch in batches], batches[0], batches[-1])
    yield Figure(
        f"{run.suite}-batch",
        f"By batch: {subject}",
        Plot(
            f"Time of a layer {subject} by batch.",
            x,
            logarithmic("us a layer", [m.layer.median_us for m in chosen], "number"),
            _lines(run, chosen, lambda m: m.batch, lambda m: m.layer.median_us),
        ),
    )


def _growth_by_size(run: Results) -> Iterator[Figure]:
    points = [m for m in _main(run, _hot(run)) if m.operations]
    squares = [m for m in points if len(set(m.subject.split(" x "))) == 1]
    if len({m.subject for m in squares}) >= _LEAST_LAYERS_TO_GROW:
        points = squares  # of which nothing but the size differs
    batches = sorted({m.batch for m in points})
    grown = [
        batch
        for batch in batches
        if len({m.subject for m in points if m.batch == batch}) >= _LEAST_LAYERS_TO_GROW
    ]
    for batch in dict.fromkeys([*grown[:1], *grown[-1:]]):
        sizes: dict[float, str] = {}
        for m in points:
            sizes.setdefault(_weights(m), m.subject)
        # Of layers of equal size the first: a line has one height at each place.
        chosen = [m for m in points if m.batch == batch and m.subject == sizes[_weights(m)]]
        order = sorted({_weights(m) for m in chosen})
        x = Scale(
            "weights of the layer, K x N",
            [(size, sizes[size].replace(" x ", "\N{MULTIPLICATION SIGN}")) for size in order],
            order[0],
            order[-1],
        )
        yield Figure(
            f"{run.suite}-size-{batch}",
            f"By size: batch {batch}",
            Plot(
                f"Time of layers at batch {batch} by their number of weights.",
                x,
                logarithmic("us a layer", [m.layer.median_us for m in chosen], "number"),
                _lines(run, chosen, _weights, lambda m: m.layer.median_us),
            ),
        )


def _growth_by_threads(runs: Sequence[Results]) -> list[Section]:
    figures = []
    by_suite: dict[str, dict[int, Results]] = {}
    for run in runs:
        if run.threads and not _is_sweep(run):
            by_suite.setdefault(run.suite, {}).setdefault(run.threads, run)
    for suite, by_threads in by_suite.items():
        if len(by_threads) > 1:
            figures += list(_thread_figures(suite, by_threads))
    if not figures:
        return []
    text = (
        "Each number of threads ran in a process of its own. Upwards: how many times faster than "
        "with the fewest threads; dotted: as many times as there are threads."
    )
    return [Section("How threads help", text, figures)]


def _thread_figures(suite: str, by_threads: dict[int, Results]) -> Iterator[Figure]:
    counts = sorted(by_threads)
    fewest = by_threads[counts[0]]
    common = [
        m
        for m in _main(fewest, _hot(fewest))
        if all(run.find(m.case, m) is not None for run in by_threads.values())
    ]
    points = dict.fromkeys(m.point for m in common)
    batches = sorted({point[1] for point in points})
    for batch in dict.fromkeys([*batches[:1], *batches[-1:]]):
        point = next(point for point in points if point[1] == batch)
        chosen = [m for m in common if m.point == point]
        series = []
        for m in chosen:
            marks = []
            for count in counts:
                found = by_threads[count].find(m.case, m)
                assert found is not None
                gain = m.layer.median_us / found.layer.median_us
                told = f"{m.case}, {count} threads: {time_text(found.layer.median_us)} us"
                marks.append(Mark(count, gain, told))
            series.append(Series(m.case, marks, _styles(fewest)[m.case]))
        gains = [mark.y for one in series for mark in one.marks]
        ideal = [(count, count / counts[0]) for count in counts]
        x = Scale("threads", [(count, str(count)) for count in counts], counts[0], counts[-1])
        y = logarithmic("times faster", [*gains, *(gain for _, gain in ideal)], "times")
        yield Figure(
            f"{suite}-threads-{batch}",
            f"{_capital(suite)}: {point[0]}, batch {batch}",
            Plot(f"Gain by threads, {point[0]}, batch {batch}.", x, y, series, [Guide(ideal)]),
        )


def _by_sparsity(run: Results) -> Section:
    found = curves(run)
    styles = {name: index for index, name in enumerate(dict.fromkeys(c.family for c in found))}
    figures = []
    groups: dict[tuple[str, int], list[Curve]] = {}
    for curve in found:
        if curve.over == run.baseline:
            groups.setdefault((curve.title, curve.batch), []).append(curve)
    for (title, batch), group in groups.items():
        gains = [gain for curve in group for gain in curve.speed_ups]
        x = Scale(
            "zeros",
            [(zeros, f"{100 * zeros:.0f} %") for zeros in (0.0, 0.25, 0.5, 0.75, 1.0)],
            0.0,
            1.0,
            logarithmic=False,
        )
        series = [
            Series(
                curve.family,
                [
                    Mark(zeros, gain, f"{curve.family}, {100 * zeros:g} % zeros: {gain:.2f} times")
                    for zeros, gain in zip(curve.sparsities, curve.speed_ups, strict=True)
                ],
                styles[curve.family],
            )
            for curve in group
        ]
        figures.append(
            Figure(
                f"zeros-{batch}",
                f"{title.split(',')[0]}, batch {batch}",
                Plot(
                    f"Speed-up over {run.baseline} by share of zeros, {title}, batch {batch}.",
                    x,
                    logarithmic(f"times faster than {run.baseline}", [1.0, *gains], "times"),
                    series,
                    [Guide([(0.0, 1.0), (1.0, 1.0)], "dense")],
                ),
            )
        )
    return Section(
        "From how many zeros on pruned weights pay",
        f"Each line is one kind of pruned weights; above the dotted line it is faster than "
        f"{run.baseline} on the dense layer. {BREAK_EVEN_NOTE}",
        figures,
        numbers=list(break_even_grids(found)),
    )


def _overheads(run: Results) -> Section:
    found = [o for o in overheads(run) if o.op.point == overheads(run)[0].op.point]
    names = ["kernel alone", "op in a graph", "op called eagerly"]
    values = [
        [(o.kernel_us, o.op.layer.median_us, o.eager_us)[view] for o in found] for view in range(3)
    ]
    # A kernel that takes no time that could be told from a call's has no place on this axis.
    least = min(value for view in values for value in view if value > 0.05)
    x = logarithmic("us", [max(least, value) for view in values for value in view], "number")
    rows = Rows(
        "Time of the kernel, of the op in a graph, and of the op called eagerly.",
        x,
        [o.op.case for o in found],
        [
            Series(
                name,
                [
                    Mark(value, row, f"{found[row].op.case}: {name}, {time_text(value)} us")
                    for row, value in enumerate(values[view])
                    if value >= least
                ],
                (0, 1, 3)[view],
            )
            for view, name in enumerate(names)
        ],
    )
    point = found[0].op
    return Section(
        "What an op adds to its kernel",
        "The kernel is called from Python on NumPy arrays, without TensorFlow, and what such a "
        "call costs by itself is taken off. In a graph the op runs in a chain of many. Eagerly it "
        "is called from Python, once a layer. A call of a tf.function costs some "
        f"{min(o.op.call_overhead_us for o in found):.0f} us more, once for all its layers.",
        [Figure("overhead", f"{point.subject}, batch {point.batch}", rows)],
        list(overhead_grids(run)),
    )


def _whole(run: Results) -> Section:
    """Layers or models: how many times faster than the plain one."""
    figures = []
    styles = _styles(run)
    for batch in dict.fromkeys(m.batch for m in run.measurements):
        chosen = [m for m in run.measurements if m.batch == batch]
        names = list(dict.fromkeys(m.subject for m in chosen))
        series: dict[str, list[Mark]] = {}
        for m in chosen:
            gain = run.speed_up(m, run.baseline)
            if gain is not None and m.case != run.baseline:
                told = f"{m.subject}: {m.case}, {time_text(m.layer.median_us)} us, {gain:.2f} times"
                series.setdefault(m.case, []).append(Mark(gain, names.index(m.subject), told))
        gains = [mark.x for marks in series.values() for mark in marks]
        if not gains:
            continue
        figures.append(
            Figure(
                f"{run.suite}-{batch}",
                f"Batch {batch}",
                Rows(
                    f"Speed-up over {run.baseline}, {run.suite} at batch {batch}.",
                    logarithmic(f"times faster than {run.baseline}", [1.0, *gains], "times"),
                    names,
                    [Series(name, marks, styles[name]) for name, marks in series.items()],
                    1.0,
                ),
            )
        )
    text = {
        layers.SUITE: "Each layer inside a graph, through tf.function, against the Keras layer "
        "that it replaces. Left of the dotted line it is slower. Errors are of the outputs, "
        "against a plain layer of the same weights.",
        model_suite.SUITE: "Whole calls of models, through tf.function. Errors are of the outputs, "
        "against the plain model with the same zeros.",
    }[run.suite]
    return Section(_capital(run.suite), text, figures, numbers=list(detail_grids(run)))


def _hot(run: Results) -> list[Measurement]:
    """The measurements of the first state and mode, of the plain view."""
    first = run.measurements[0]
    return [
        m
        for m in run.measurements
        if (m.state, m.mode) == (first.state, first.mode) and _view(run, m) == "op"
    ]


def _main(run: Results, measurements: Iterable[Measurement]) -> list[Measurement]:
    """Of `measurements` those of the first mode."""
    return [m for m in measurements if m.mode == run.measurements[0].mode]


def _lines(
    run: Results,
    measurements: Sequence[Measurement],
    x: Callable[[Measurement], float],
    y: Callable[[Measurement], float],
) -> list[Series]:
    """A line for each case."""
    return [
        Series(
            name,
            [
                Mark(x(m), y(m), _told(run, m))
                for m in sorted(measurements, key=x)
                if m.case == name
            ],
            style,
        )
        for name, style in _styles(run).items()
        if any(m.case == name for m in measurements)
    ]


def _styles(run: Results) -> dict[str, int]:
    """Case to its style: colours for this package's, greys for others."""
    names = dict.fromkeys(m.case for m in run.measurements if _view(run, m) == "op")
    ours = [name for name in names if run.facts(name).group]
    others = [name for name in names if name not in ours]
    return {
        **{name: index for index, name in enumerate(ours)},
        **{name: -4 - index for index, name in enumerate(others)},
    }


def _view(run: Results, measurement: Measurement) -> str:
    return run.facts(measurement.case).view


def _told(run: Results, m: Measurement) -> str:
    share = run.share_of_peak(m)
    peak = "" if share is None else f", {share:.0%} of the {_PEAK_NAMES[m.arithmetic]} peak"
    rate = f", {m.useful_gops:,.0f} GOP/s{peak}" if m.operations else ""
    where = f"{m.subject}, batch {m.batch}, {m.state}"
    return f"{m.case}: {where}: {time_text(m.layer.median_us)} us{rate}"


def _weights(m: Measurement) -> float:
    return m.operations / (2 * m.batch)


def _of(measurements: Iterable[Measurement], name: str) -> list[float]:
    return [value for m in measurements if math.isfinite(value := getattr(m, name))]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
