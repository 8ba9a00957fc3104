"""Choosing formats by measurement: the fastest or smallest plan within a budget of accuracy."""

import contextlib
import dataclasses
import functools
import logging
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.layers import Layer

from tfcompress_ops import formats as formats_lib
from tfcompress_ops.break_even import multiplications
from tfcompress_ops.compression import (
    Reasons,
    assemble,
    batches,
    calibrate,
    nothing_to_compress,
    run_batch,
    watching,
)
from tfcompress_ops.formats.format import Format
from tfcompress_ops.latency import layer_latencies_us, median_call_us
from tfcompress_ops.layers.layer import CompressedLayer, replacement
from tfcompress_ops.preparation import absorb, split
from tfcompress_ops.rebuilding import copy_layer, copy_variables, rebuild
from tfcompress_ops.structure import layer_paths

OBJECTIVES = ("latency", "size")
_REPORT = "_tfcompress_search"
_BATCH = 64
_LOG = logging.getLogger(__name__)
_FINALISTS = 3  # formats of a layer whose effect on the metric is measured


@dataclasses.dataclass(frozen=True)
class Trial:
    """One format on one layer.

    Attributes:
        path: Path of the layer.
        format: The format.
        latency_us: Microseconds of a call of the layer in a graph.
        original_latency_us: The same of the original layer.
        bytes: Bytes of the layer's weights.
        original_bytes: The same of the original layer.
        output_error: `||y' - y|| / ||y||` of the layer, on the inputs that the original gives it.
        drop: How much the metric drops where only this layer has the format, or `None` where that
            was not measured: the format is not faster (smaller), or another one beats it.
    """

    path: str
    format: Format
    latency_us: float
    original_latency_us: float
    bytes: int
    original_bytes: int
    output_error: float
    drop: float | None = None


@dataclasses.dataclass(frozen=True)
class Search:
    """What `tfc.compress(model, "auto", ...)` tried and chose.

    Attributes:
        objective: `"latency"` or `"size"`.
        metric_before: The metric of the original.
        metric_after: The metric of the result.
        max_drop: How much it was allowed to drop.
        latency_before_us: Microseconds of a call of the original through `tf.function`.
        latency_after_us: The same of the result.
        chosen: Path of each compressed layer to its format.
        trials: All that was tried.
        batch_size: Rows that were timed.
    """

    objective: str
    metric_before: float
    metric_after: float
    max_drop: float
    latency_before_us: float
    latency_after_us: float
    chosen: Mapping[str, Format]
    trials: Sequence[Trial]
    batch_size: int

    def __str__(self) -> str:
        """What was chosen, and what was tried on each layer."""
        lines = [
            f"{self.objective}: {self.latency_before_us:,.0f} -> {self.latency_after_us:,.0f} us "
            f"at batch {self.batch_size}; "
            f"metric {self.metric_before:.4f} -> {self.metric_after:.4f} "
            f"(allowed drop {self.max_drop})"
        ]
        for trial in self.trials:
            mark = "*" if self.chosen.get(trial.path) == trial.format else " "
            drop = "" if trial.drop is None else f", metric drop {trial.drop:.4f}"
            lines.append(
                f"{mark} {trial.path}: {trial.format.label}: {trial.original_latency_us:.1f} -> "
                f"{trial.latency_us:.1f} us, {trial.original_bytes:,} -> {trial.bytes:,} bytes, "
                f"output error {trial.output_error:.2%}{drop}"
            )
        return "\n".join(lines)


def search_report(model: keras.Model) -> Search | None:
    """What was tried for a model that `tfc.compress(model, "auto", ...)` made, else `None`."""
    return getattr(model, _REPORT, None)


def auto(
    model: keras.Model,
    data: Any = None,
    metric: Any = None,
    max_drop: float = 0.01,
    objective: str = "latency",
    candidates: Sequence[Any] | None = None,
    *,
    batch_size: int = 32,
    calibration: str = "max",
    pack_signs: bool = True,
    progress: bool | None = None,
) -> keras.Model:
    """Finds the formats; see `tfc.compress`, which calls this for `formats="auto"`.

    Args:
        model: A built model.
        data: Pairs of inputs and targets, as two arrays or as batches; inputs alone without metric.
        metric: Takes targets and outputs, gives a number of which more is better, or is the name
            `"accuracy"`. `None`: 1 less the relative error of the outputs.
        max_drop: How much the metric may drop, >= 0.
        objective: `"latency"` or `"size"`.
        candidates: Formats to try, or their names; `None`: all variants of all formats.
        batch_size: Rows of the batch that is to be fast.
        calibration: See `tfc.compress`.
        pack_signs: See `tfc.compress`.
        progress: See `tfc.compress`.

    Returns:
        A new model, never slower than `model`; it may be a copy of it.

    Raises:
        TypeError: If `data` or `metric` is no such thing.
        ValueError: If an option is out of range, `data` is missing or empty, no layer can be
            compressed, or formats gain but each costs more than `max_drop`.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"`objective` must be one of {OBJECTIVES}; received {objective!r}.")
    if (
        isinstance(max_drop, bool)
        or not isinstance(max_drop, numbers.Real)
        or not 0 <= max_drop < float("inf")
    ):
        raise ValueError(f"`max_drop` must be a number >= 0; received {max_drop!r}.")
    if data is None:
        raise ValueError(
            "`data` must be given with formats='auto'; received None. Pass inputs and targets."
        )
    examples = _examples(data, metric)
    plain = split(model)
    reasons = Reasons(plain)
    # Each layer that any format takes, with what follows it folded in.
    layers = [layer for layer in layer_paths(plain).values() if reasons.against(layer) is None]
    plain, absorbed = absorb(plain, list(dict.fromkeys(layers)))
    if plain is model:  # Layers stand in for others while they are tried: not in a user's model.
        plain = rebuild(model, lambda layer: None)
    paths = {layer: path for path, layer in reversed(layer_paths(plain).items())}
    reasons = Reasons(plain)
    layers = [layer for layer in paths if reasons.against(layer) is None]
    if not layers:
        raise nothing_to_compress(
            model, {path: str(reasons.against(layer)) for path, layer in layer_paths(plain).items()}
        )
    bench = _Bench(plain, examples, metric, batch_size)
    ranges = functools.partial(calibrate, method=calibration, progress=progress)
    found = _trials(bench, layers, paths, candidates, objective, ranges)
    plan = _plan(bench, found, max_drop)
    if not plan:
        _check_budget(bench, found, max_drop)
    result = _verified(model, plain, absorbed, bench, plan, max_drop, pack_signs)
    new_model, chosen, after, before_us, after_us = result
    report = Search(
        objective=objective,
        metric_before=bench.baseline,
        metric_after=after,
        max_drop=max_drop,
        latency_before_us=before_us,
        latency_after_us=after_us,
        chosen={paths[layer]: option.trial.format for layer, option in chosen.items()},
        trials=[option.trial for options in found.values() for option in options],
        batch_size=batch_size,
    )
    object.__setattr__(new_model, _REPORT, report)
    return new_model


@dataclasses.dataclass
class _Option:
    """A compressed layer that was tried, and what it gains."""

    trial: Trial
    layer: CompressedLayer
    gain: float  # microseconds or bytes that it saves

    @property
    def drop(self) -> float:
        return 0.0 if self.trial.drop is None else max(0.0, self.trial.drop)


_Plan = dict[Layer, "_Option"]


class _Bench:
    """A plain model on data: its metric with some of its layers replaced for the time being."""

    def __init__(
        self, model: keras.Model, examples: list[tuple[Any, Any]], metric: Any, batch_size: int
    ) -> None:
        self.model = model
        self.examples = examples
        self._metric = _metric_function(metric)
        self.references = [run_batch(model, x, "data") for x, _ in examples]
        self.batch = keras.tree.map_structure(lambda leaf: _rows(leaf, batch_size), examples[0][0])
        self.baseline = self.metric({})

    def metric(self, layers: Mapping[Layer, Layer]) -> float:
        """The metric with layers replaced."""
        values, rows = [], []
        with _standing_in(layers):
            for (x, y), reference in zip(self.examples, self.references, strict=True):
                outputs = self.model(x, training=False) if layers else reference
                values.append(self._metric(reference if y is None else y, outputs))
                rows.append(len(keras.tree.flatten(x)[0]))
        return float(np.average(values, weights=rows))


def _trials(
    bench: _Bench,
    layers: Sequence[Layer],
    paths: Mapping[Layer, str],
    candidates: Sequence[Any] | None,
    objective: str,
    calibrated_on: Callable[..., dict[Layer, Any]],
) -> dict[Layer, list[_Option]]:
    """Tries every candidate on every layer, the most promising ones on the metric too."""
    wanted = _candidates(candidates)
    inputs: dict[Layer, Any] = {}

    def first(layer: Layer) -> Callable[[Any, Any], None]:
        return lambda x, y: inputs.setdefault(layer, (x, y)) and None

    with watching({layer: first(layer) for layer in layers}):
        bench.model(bench.batch, training=False)
    calibrated = next((format_ for format_ in wanted if format_.needs_calibration), None)
    ranges: dict[Layer, Any] = {}
    if calibrated is not None:
        data = [x for x, _ in bench.examples]
        ranges = calibrated_on(bench.model, dict.fromkeys(inputs, calibrated), iter(data))
    measured: dict[Any, list[float]] = {}
    found: dict[Layer, list[_Option]] = {}
    for layer in layers:
        if layer not in inputs:
            continue
        found[layer] = _layer_options(
            layer, paths[layer], wanted, inputs[layer], ranges.get(layer), objective, measured
        )
        for option in _finalists(found[layer]):
            drop = bench.baseline - bench.metric({layer: option.layer})
            option.trial = dataclasses.replace(option.trial, drop=drop)
    return found


def _layer_options(
    layer: Layer,
    path: str,
    wanted: Sequence[Format],
    example: tuple[Any, Any],
    calibration: Any,
    objective: str,
    measured: dict[Any, list[float]],
) -> list[_Option]:
    cls = replacement(layer)
    assert cls is not None
    chosen = dict.fromkeys(filter(None, (cls.format_for(format_) for format_ in wanted)))
    x, y = example
    new_layers = [cls.from_layer(layer, format_, calibration) for format_ in chosen]
    work = [_work(new) for new in new_layers]
    key = (type(layer), layer.compute_dtype, tuple(x.shape), tuple(y.shape), *chosen, *work)
    if key not in measured:
        per_input = multiplications(new_layers[0], tuple(x.shape)) // max(1, int(tf.size(x)))
        measured[key] = layer_latencies_us([layer, *new_layers], x, per_input)
    original_us, *latencies = measured[key]
    norm = float(np.linalg.norm(np.asarray(y, np.float64))) or 1.0
    original_bytes = _nbytes(layer)
    options = []
    for new, latency in zip(new_layers, latencies, strict=True):
        difference = np.asarray(new(x), np.float64) - np.asarray(y, np.float64)
        trial = Trial(
            path=path,
            format=new.format,
            latency_us=latency,
            original_latency_us=original_us,
            bytes=_nbytes(new),
            original_bytes=original_bytes,
            output_error=float(np.linalg.norm(difference)) / norm,
        )
        _LOG.info("%s as %s: %.1f us, was %.1f us", path, new.format.label, latency, original_us)
        faster, smaller = original_us - latency, original_bytes - trial.bytes
        options.append(_Option(trial, new, faster if objective == "latency" else smaller))
    return options


def _finalists(options: Sequence[_Option]) -> list[_Option]:
    """Those that gain, in the order of how much, of which each is more exact than all before."""
    best: list[_Option] = []
    for option in sorted(options, key=lambda option: -option.gain):
        exact = not best or option.trial.output_error < best[-1].trial.output_error
        if option.gain > 0 and exact:
            best.append(option)
    # The most gain, the most exact, and between.
    picked = np.unique(np.linspace(0, len(best) - 1, min(len(best), _FINALISTS)).astype(int))
    return [best[index] for index in picked]


def _plan(bench: _Bench, found: Mapping[Layer, list[_Option]], max_drop: float) -> _Plan:
    """The options that gain most while the drops, added up and then measured, fit the budget."""
    ladders = {
        layer: sorted(
            (option for option in options if option.trial.drop is not None),
            key=lambda option: -option.gain,
        )
        for layer, options in found.items()
    }
    plan = {layer: options[0] for layer, options in ladders.items() if options}
    while plan and sum(option.drop for option in plan.values()) > max_drop:
        _step_back(plan, ladders)
    while plan and bench.baseline - bench.metric(_layers_of(plan)) > max_drop:
        _step_back(plan, ladders)
    return plan


def _check_budget(bench: _Bench, found: Mapping[Layer, list[_Option]], max_drop: float) -> None:
    """Says no where formats gain and the budget has room for none of them."""
    drops = {
        option.trial.drop: option.trial
        for options in found.values()
        for option in options
        if option.trial.drop is not None
    }
    if not drops:  # nothing gains: the model is as good as it gets
        return
    least = min(drops)
    raise ValueError(
        f"`max_drop` must leave room for a format on one layer at least; received {max_drop}, and "
        f"the least that one costs is {least:.4g} of the metric, which is {bench.baseline:.4g} "
        f"({drops[least].format.label} on layer {drops[least].path!r}). Allow that much, or try "
        "more exact `candidates`."
    )


def _step_back(plan: _Plan, ladders: Mapping[Layer, list[_Option]]) -> None:
    """Gives up what costs most of the metric, or of the output, for what it gains."""

    def cost(layer: Layer) -> tuple[float, float]:
        option = plan[layer]
        return option.drop / option.gain, option.trial.output_error / option.gain

    layer = max(plan, key=cost)
    rest = ladders[layer][ladders[layer].index(plan[layer]) + 1 :]
    gentler = [
        option for option in rest if option.trial.output_error < plan[layer].trial.output_error
    ]
    if gentler:
        plan[layer] = gentler[0]
    else:
        del plan[layer]


def _verified(
    model: keras.Model,
    plain: keras.Model,
    absorbed: Mapping[str, str],
    bench: _Bench,
    plan: _Plan,
    max_drop: float,
    pack_signs: bool,
) -> tuple[keras.Model, _Plan, float, float, float]:
    """Builds the plan and times it against the original; gives up half of it until it is faster."""
    while True:
        copies = {layer: _copy(option.layer) for layer, option in plan.items()}
        new_model = (
            assemble(plain, copies, absorbed, pack_signs)
            if plan
            else rebuild(model, lambda layer: None)
        )
        before_us, after_us = median_call_us(
            functools.partial(model, bench.batch, training=False),
            functools.partial(new_model, bench.batch, training=False),
        )
        after = bench.metric(_layers_of(plan)) if plan else bench.baseline
        if not plan:
            return new_model, plan, after, before_us, before_us
        if after_us <= before_us and bench.baseline - after <= max_drop:
            return new_model, plan, after, before_us, after_us
        kept = sorted(plan, key=lambda layer: -plan[layer].gain)[: len(plan) // 2]
        plan = {layer: plan[layer] for layer in kept}


def _layers_of(plan: _Plan) -> dict[Layer, Layer]:
    return {layer: option.layer for layer, option in plan.items()}


@contextlib.contextmanager
def _standing_in(layers: Mapping[Layer, Layer]) -> Iterator[None]:
    """While it is open, layers compute what others compute."""
    try:
        for layer, other in layers.items():
            object.__setattr__(layer, "call", lambda x, *args, other=other, **kwargs: other(x))
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def _copy(layer: Layer) -> Layer:
    new = copy_layer(layer)
    copy_variables(layer, new)
    return new


def _candidates(candidates: Sequence[Any] | None) -> list[Format]:
    if candidates is not None:
        chosen = [formats_lib.get(candidate) for candidate in candidates]
        if not chosen:
            raise ValueError("`candidates` must hold a format; received none.")
        return chosen
    return [
        format_
        for name in formats_lib.names()
        for _, format_ in type(formats_lib.get(name)).variants()
    ]


def _examples(data: Any, metric: Any) -> list[tuple[Any, Any]]:
    """Batches of inputs and targets."""
    if metric is None:
        examples = [(x, None) for x in batches(data, _BATCH)]
    elif isinstance(data, tuple) and len(data) == 2 and hasattr(data[1], "shape"):
        targets = batches(data[1], _BATCH)
        examples = list(zip(batches(data[0], _BATCH), targets, strict=True))
    elif not isinstance(data, Iterable):
        raise TypeError(
            "`data` must be two arrays or an iterable of batches of inputs and targets; received "
            f"{type(data).__name__}."
        )
    else:
        examples = [keras.utils.unpack_x_y_sample_weight(batch)[:2] for batch in data]
        if any(y is None for _, y in examples):
            raise ValueError("`data` must hold targets for the metric; received inputs alone.")
    if not examples:
        raise ValueError("`data` must hold at least one batch; received none.")
    return examples


def _metric_function(metric: Any) -> Callable[[Any, Any], float]:
    if metric is None:
        return _agreement
    if metric == "accuracy":
        return _accuracy
    if not callable(metric):
        raise TypeError(
            f"`metric` must be a function of targets and outputs, 'accuracy' or None; received "
            f"{metric!r}."
        )
    return lambda y, outputs: float(metric(y, outputs))


def _agreement(reference: Any, outputs: Any) -> float:
    leaves = zip(keras.tree.flatten(reference), keras.tree.flatten(outputs), strict=True)
    pairs = [(np.asarray(one, np.float64), np.asarray(other, np.float64)) for one, other in leaves]
    norm = np.sqrt(sum(float(np.square(one).sum()) for one, _ in pairs)) or 1.0
    error = np.sqrt(sum(float(np.square(other - one).sum()) for one, other in pairs))
    return 1 - float(error / norm)


def _accuracy(targets: Any, outputs: Any) -> float:
    targets, outputs = np.asarray(targets), np.asarray(outputs)
    if targets.shape == outputs.shape and outputs.shape[-1] > 1:
        targets = targets.argmax(-1)
    if outputs.shape[-1] == 1:
        return float(np.mean((outputs > 0.5).ravel() == targets.ravel().astype(bool)))
    return float(np.mean(outputs.argmax(-1).ravel() == targets.ravel()))


def _rows(leaf: Any, count: int) -> Any:
    """As many rows, taken again from the start where there are fewer."""
    array = np.asarray(leaf)
    return tf.constant(array[np.arange(count) % len(array)])


def _work(layer: CompressedLayer) -> float | None:
    work = layer.format.work(layer.packed_arrays())
    return None if work is None else round(work, 2)


def _nbytes(layer: Layer) -> int:
    return sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in layer.weights)
