"""What compression did to a model: bytes, error and latency, layer by layer and in all."""

import dataclasses
import io
import json
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tfcompress_ops.compression import Reasons, batches, note_of, run_batch, watching
from tfcompress_ops.latency import layer_latencies_us, median_call_us
from tfcompress_ops.layers.layer import CompressedLayer
from tfcompress_ops.preparation import absorb_like, split_like
from tfcompress_ops.structure import is_container, is_graph, layer_paths, own_variables

_BATCH = 64
# Stands for dimensions that a model leaves open, where no data says how large they are.
_OPEN_DIMENSION = 32


@dataclasses.dataclass(frozen=True)
class Change:
    """A layer, or a whole model, before and after.

    Attributes:
        path: Path of the layer, or the model's name.
        format: Its format after, such as `"int8 dynamic"`, or the dtype of its weights.
        bytes_before: Bytes of its weights before.
        bytes_after: Bytes of its weights after.
        weight_error: `||W' - W|| / ||W||` over its compressed matrices (Frobenius norm), `None`
            without any.
        output_error: `||y' - y|| / ||y||` on the data: of a layer on the inputs that the original
            gives it, of a model from end to end. `None` without data.
        latency_before_us: Microseconds of one call before: of a layer inside a larger graph, of a
            model all that a `tf.function` takes. `None` where the layer is the same after.
        latency_after_us: The same after.
        note: Why the layer is not compressed, or not as was asked, or empty.
    """

    path: str
    format: str
    bytes_before: int
    bytes_after: int
    weight_error: float | None = None
    output_error: float | None = None
    latency_before_us: float | None = None
    latency_after_us: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times smaller it became."""
        return self.bytes_before / max(1, self.bytes_after)

    @property
    def speedup(self) -> float | None:
        """How many times faster it became, `None` where that was not or cannot be timed."""
        if not self.latency_before_us or not self.latency_after_us:
            return None
        return self.latency_before_us / self.latency_after_us


@dataclasses.dataclass(frozen=True)
class Report:
    """What `tfc.report` found out; `str` makes a table of it, and so does rich.

    Attributes:
        layers: The layers that have weights, in the model's order.
        total: The whole model.
        batch_size: Rows of the batch that the latencies are for.
    """

    layers: tuple[Change, ...]
    total: Change
    batch_size: int

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists and numbers."""
        return {
            "layers": [dataclasses.asdict(change) for change in self.layers],
            "total": dataclasses.asdict(self.total),
            "batch_size": self.batch_size,
        }

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def __rich__(self) -> Table:
        """The report as a table for rich's console."""
        table = Table(title=f"{self.total.path}, latencies at batch {self.batch_size}")
        table.add_column("layer", overflow="fold")
        table.add_column("format")
        for heading in ("bytes", "after", "", "weight error", "output error", "us", "after", ""):
            table.add_column(heading, justify="right")
        for change in self.layers:
            table.add_row(*_cells(change))
        table.add_section()
        table.add_row(*_cells(self.total), style="bold")
        return table

    def __str__(self) -> str:
        """The table in plain text, and below it why layers were left as they are."""
        text = io.StringIO()
        Console(file=text, width=140, color_system=None).print(self)
        notes = [f"{change.path}: {change.note}\n" for change in self.layers if change.note]
        return text.getvalue() + "".join(notes)


def report(original: keras.Model, compressed: keras.Model, data: Any = None) -> Report:
    """Compares a model with its compressed form.

    Args:
        original: The model before.
        compressed: What `tfc.compress` made of it.
        data: Inputs for output errors and latencies: arrays, nested as the model takes them, or an
            iterable of batches such as a `tf.data.Dataset`. `None`: no output errors, and latencies
            on zeros at batch 1.

    Returns:
        A `Report`. Latencies are medians over interleaved bursts of calls on the first batch (of
        arrays: at most 64 rows).

    Raises:
        ValueError: If the models have different layers, or `data` holds no batch or is missing for
            a subclassed model.

    Example:
        >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
        >>> result = tfc.report(model, tfc.compress(model, tfc.Int8()))
        >>> f"{result.total.ratio:.1f} times smaller"
        '3.6 times smaller'
    """
    plain = absorb_like(split_like(original, compressed), compressed)
    pairs = _pairs(plain, compressed)
    probes = {
        before: _Probe(after)
        for before, after in pairs.values()
        if isinstance(after, CompressedLayer)
        and not isinstance(before, CompressedLayer)
        # Packed signs are no outputs of the original, nor can it take them.
        and not (after.format.packed_inputs or after.format.packed_outputs)
    }
    output_norms, weight_norms = _Norms(), _Norms()
    first = None
    with watching({layer: probe.watch for layer, probe in probes.items()}):
        for batch in [_zeros(original)] if data is None else batches(data, _BATCH):
            first = batch if first is None else first
            outputs = run_batch(plain, batch, "data")
            if plain is not original:
                outputs = original(batch, training=False)
            output_norms.add(outputs, compressed(batch, training=False))
    if first is None:
        raise ValueError("`data` must hold at least one batch; received none.")

    changes = []
    reasons = Reasons(plain)
    for path, (before, after) in pairs.items():
        if before in probes:
            changes.append(_compressed(path, before, probes[before], weight_norms))
        elif _variables(before):
            changes.append(_kept(path, before, after, reasons))
    before_us, after_us = median_call_us(
        lambda: original(first, training=False), lambda: compressed(first, training=False)
    )
    total = Change(
        path=original.name,
        format=", ".join(sorted({probe.after.format.label for probe in probes.values()})),
        bytes_before=_nbytes(original.weights),
        bytes_after=_nbytes(compressed.weights),
        weight_error=weight_norms.relative(),
        output_error=output_norms.relative(),
        latency_before_us=before_us,
        latency_after_us=after_us,
    )
    if data is None:
        changes = [dataclasses.replace(change, output_error=None) for change in changes]
        total = dataclasses.replace(total, output_error=None)
    return Report(tuple(changes), total, len(keras.tree.flatten(first)[0]))


class _Norms:
    """Sums of squares of a reference and of what differs from it, over many batches."""

    def __init__(self) -> None:
        self.reference = 0.0
        self.difference = 0.0

    def add(self, reference: Any, actual: Any) -> None:
        """Takes in (nested) arrays or tensors."""
        leaves = zip(keras.tree.flatten(reference), keras.tree.flatten(actual), strict=True)
        for one, other in leaves:
            one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
            self.reference += float(np.square(one).sum())
            self.difference += float(np.square(other - one).sum())

    def relative(self) -> float | None:
        """`||actual - reference|| / ||reference||`, `None` for a reference of zeros."""
        return float(np.sqrt(self.difference / self.reference)) if self.reference else None


class _Probe:
    """Runs a compressed layer on whatever its original is given, and compares."""

    def __init__(self, after: CompressedLayer) -> None:
        self.after = after
        self.norms = _Norms()
        self.inputs: Any = None

    def watch(self, inputs: Any, outputs: Any) -> None:
        """Takes in one call of the original layer."""
        if self.inputs is None:
            self.inputs = inputs
        self.norms.add(outputs, self.after(inputs))


def _pairs(original: keras.Model, compressed: keras.Model) -> dict[str, tuple[Any, Any]]:
    """The layers of both models by path, a shared one at its first path."""
    before, after = layer_paths(original), layer_paths(compressed)
    if list(before) != list(after):
        different = sorted(set(before) ^ set(after)) or list(before)
        raise ValueError(
            "`compressed` must have the layers of `original`; received models that differ in "
            f"{different}. Pass what tfc.compress made of this very model."
        )
    firsts = {layer: path for path, layer in reversed(before.items())}
    return {path: (layer, after[path]) for path, layer in before.items() if firsts[layer] == path}


def _compressed(path: str, before: Any, probe: _Probe, weight_norms: _Norms) -> Change:
    after = probe.after
    source, matrix = type(after).source_weights(before).dense(), after.weight_matrix()
    norms = _Norms()
    for each in (norms, weight_norms):
        each.add(source, matrix)
    out_features = after.matrix_shape(probe.inputs.shape)[1]
    before_us, after_us = layer_latencies_us([before, after], probe.inputs, out_features)
    return Change(
        path=path,
        format=after.format.label,
        bytes_before=_nbytes(_variables(before)),
        bytes_after=_nbytes(_variables(after)),
        weight_error=norms.relative(),
        output_error=probe.norms.relative(),
        latency_before_us=before_us,
        latency_after_us=after_us,
        note=note_of(after) or "",
    )


def _kept(path: str, before: Any, after: Any, reasons: Reasons) -> Change:
    compressed = isinstance(after, CompressedLayer)
    return Change(
        path=path,
        format=after.format.label if compressed else str(_variables(before)[0].dtype),
        bytes_before=_nbytes(_variables(before)),
        bytes_after=_nbytes(_variables(after)),
        note=note_of(after)
        or ("" if compressed else reasons.against(before) or "no format was chosen for it"),
    )


def _variables(layer: Any) -> list[Any]:
    """The weights that a layer has itself: what a container holds has rows of its own."""
    return own_variables(layer) if is_container(layer) else layer.weights


def _nbytes(variables: Iterable[Any]) -> int:
    return sum(
        int(np.prod(variable.shape)) * tf.as_dtype(variable.dtype).size for variable in variables
    )


def _zeros(model: keras.Model) -> Any:
    """One row of zeros as the model takes it."""

    def zeros(tensor: Any) -> tf.Tensor:
        shape = [_OPEN_DIMENSION if size is None else size for size in tensor.shape]
        return tf.zeros([1, *shape[1:]], tensor.dtype)

    if not is_graph(model):
        return _zeros_as_built(model)
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.tree.map_structure(zeros, inputs)


def _zeros_as_built(model: keras.Model) -> Any:
    """One row of float32 zeros of the shape that a subclassed model was built for.

    Raises:
        ValueError: If Keras does not know that, or the model takes something else than floats.
    """

    def zeros(shape: Any) -> tf.Tensor:
        sizes = [_OPEN_DIMENSION if size is None else size for size in shape]
        return tf.zeros([1, *sizes[1:]])

    shapes = (model.get_build_config() or {}).get("input_shape")
    try:
        if shapes is not None:
            batch = keras.tree.map_shape_structure(zeros, shapes)
            model(batch, training=False)
            return batch
    except Exception as error:  # whatever a user's `call` raises
        reason = f" ({type(error).__name__} with zeros of the shape that it was built for)"
    else:
        reason = ""
    raise ValueError(
        f"`data` must be given for {model.name!r}, a subclassed model whose inputs are not known"
        f"{reason}; received None. Pass a batch of inputs."
    )


def _cells(change: Change) -> list[str]:
    def text(value: float | None, pattern: str) -> str:
        return "" if value is None else format(value, pattern)

    return [
        change.path,
        change.format,
        f"{change.bytes_before:,}",
        f"{change.bytes_after:,}",
        f"{change.ratio:.2f}x",
        text(change.weight_error, ".2%"),
        text(change.output_error, ".2%"),
        text(change.latency_before_us, ",.1f"),
        text(change.latency_after_us, ",.1f"),
        "" if change.speedup is None else f"{change.speedup:.2f}x",
    ]
