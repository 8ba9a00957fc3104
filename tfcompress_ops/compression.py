"""Compressing and decompressing whole Keras models, and looking at their layers in action."""

import contextlib
import difflib
import fnmatch
import logging
import numbers
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.layers import Layer
from rich.console import Console
from rich.progress import track

from tfcompress_ops import formats as formats_lib
from tfcompress_ops.break_even import alternative
from tfcompress_ops.formats.calibration import METHODS
from tfcompress_ops.formats.format import Format
from tfcompress_ops.fusing import fuse
from tfcompress_ops.fusing import plain as plain_layer
from tfcompress_ops.layers.composite import CompositeLayer, split_refusal
from tfcompress_ops.layers.layer import CompressedLayer, refusal, replacement, trained_format
from tfcompress_ops.linking import join
from tfcompress_ops.preparation import absorb, split
from tfcompress_ops.rebuilding import copy_layer, copy_variables, rebuild, tied_layers
from tfcompress_ops.structure import all_paths, is_graph, layer_paths

Formats = Any  # A format or its name, or {glob: format, name or None}.
_CALIBRATION_BATCH = 64
_NOTE = "_tfcompress_note"
_ONE_OP = "it has no matrix; one op does its work"
_SEARCH_OPTIONS = ("data", "metric", "max_drop", "objective", "candidates")
_LOG = logging.getLogger(__name__)


def compress(
    model: keras.Model,
    formats: Formats = (),
    calibration_data: Any = None,
    *,
    batch_size: int | None = 32,
    calibration: str = "max",
    pack_signs: bool = True,
    progress: bool | None = None,
    **search: Any,
) -> keras.Model:
    """Makes a model whose layers keep their weights in compressed formats.

    The original is left as it is. Layer names, shared and nested layers, inputs and outputs stay
    the same; a compiled model comes back compiled, with a new optimizer of the same configuration.
    Layers in custom layers and subclassed models are found in attributes, lists, tuples and dicts.
    Layers that have no compressed counterpart, those already compressed, and those that share a
    variable with another layer are copied; `tfc.report` gives the reasons. A BatchNormalization
    that follows a compressed layer is folded into its weights, and an activation that follows is
    done in the same op; a `layers.Absorbed` of the same name takes their place. Binary layers that
    feed each other pass packed signs on (`tfc.pack_signs`).

    Args:
        model: A built model of any kind: Sequential, Functional, or subclassed.
        formats: `"auto"` (see `search`), a format (or its name) for every layer that can be
            compressed, or a mapping from
            glob patterns over layer paths to a format or `None`, which leaves a layer as it is. The
            first pattern that matches wins; a layer that none matches stays as it is. The path of
            layer `dense_1` in a nested model `encoder` is `"encoder/dense_1"`, and what a custom
            layer holds in `self.blocks[0].mlp` is `".../blocks/0/mlp"`, unless it was given a name
            (`layer_paths`). `*` matches slashes too, and a pattern that matches the path of a model
            or layer that holds others holds for all of them. A layer that was trained
            quantised, such as `tfc.layers.QuantDense`, gets the format that it was trained for,
            whatever `formats` says, unless a pattern gives it `None`, or a sparse format that
            computes the same and leaves out nothing but zeros; without `formats`, such
            layers alone are compressed.
        calibration_data: Inputs that formats with static activations take the range of activations
            from: arrays, nested as the model takes them, or an iterable of batches such as a
            `tf.data.Dataset` or a generator (of inputs, or of tuples that start with them). The
            original runs on all of it once.
        batch_size: Rows that the model is to be fast for. A layer whose format leaves zeros out
            (`tfc.Sparse`) is timed at this batch size, on this machine. Where it has too few zeros
            to be 5 % faster, it stays dense, or with int8 values becomes dense int8; `tfc.report`
            says so.
            `None`: every layer gets its format, whatever it costs.
        calibration: How a range is found from `calibration_data`. `"max"`: the largest magnitude.
            `"percentile"`: that which 99.99 % of the magnitudes do not exceed. `"mse"`: that which
            makes the mean squared error of int8 inputs least. What is beyond the range saturates.
        pack_signs: Whether binary layers that feed each other, with nothing but a
            BatchNormalization between, are joined as `tfc.pack_signs` does it. False for a model
            that is trained on, or whose numbers between them are wanted; with
            `formats="auto"`, too. `tfc.report` says why layers are not joined.
        progress: Whether calibration shows a progress bar on stderr; `None`: on a terminal.
        **search: With `formats="auto"`, which chooses formats by measurement: `data` (pairs of
            inputs and targets, as two arrays or batches), `metric` (a function of targets and
            outputs, more is better; `"accuracy"`; `None`: 1 less the relative error of the
            outputs), `max_drop=0.01` of the metric, `objective="latency"` or `"size"`, and
            `candidates`, formats to try (`None`: all variants of all). Each candidate is timed on
            each layer at `batch_size`, and its effect on the metric measured; the plan that gains
            most within the budget is verified as a whole, and is never slower than the original.
            `tfc.search_report(model)` tells what was tried.

    Returns:
        A new model.

    Raises:
        TypeError: If `model` is not a Keras model, an option is unknown, or an option of the search
            is given without it.
        ValueError: If the model is not built, if a pattern matches no layer that can be compressed,
            if weights are not finite, if nothing can be compressed, if `calibration_data` is
            needed and missing, empty, or does not reach a layer, or if formats would gain and
            `max_drop` has no room for any of them.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
        >>> small = tfc.compress(model, {"head": tfc.Int8()})
        >>> small.get_layer("head").format
        Int8(activations='dynamic', center=False)
    """
    check_model(model)
    if batch_size is not None and (
        isinstance(batch_size, bool)
        or not isinstance(batch_size, numbers.Integral)
        or batch_size < 1
    ):
        raise ValueError(f"`batch_size` must be a positive integer; received {batch_size!r}.")
    if calibration not in METHODS:
        raise ValueError(
            f"`calibration` must be one of {sorted(METHODS)}; received {calibration!r}."
        )
    unknown = sorted(set(search) - set(_SEARCH_OPTIONS))
    if unknown:
        raise TypeError(
            f"compress() has no option {unknown[0]!r}; with formats='auto' it takes "
            f"{', '.join(_SEARCH_OPTIONS)} too."
        )
    if isinstance(formats, str) and formats == "auto":
        from tfcompress_ops.search import auto  # which builds on this module

        if calibration_data is not None:
            raise ValueError(
                "`calibration_data` must be None with formats='auto', which takes ranges from "
                "`data`; received one. Pass `data` alone."
            )
        return auto(
            model,
            batch_size=batch_size or 32,
            calibration=calibration,
            pack_signs=pack_signs,
            progress=progress,
            **search,
        )
    if search:
        raise TypeError(
            f"`formats` must be 'auto' for the options {sorted(search)}; received {formats!r}."
        )
    plain = split(model)
    chosen = _choose(plain, formats)
    layers = layer_paths(plain)
    plain, absorbed = absorb(plain, [layers[path] for path in chosen])
    layers = layer_paths(plain)
    wanted = {layers[path]: (path, format_) for path, format_ in chosen.items()}
    formats_of = {layer: format_ for layer, (_, format_) in wanted.items()}
    ranges = calibrate(plain, formats_of, calibration_data, calibration, progress)
    new_layers = {}
    for layer, (path, format_) in wanted.items():
        try:
            new_layers[layer] = _compressed(layer, format_, ranges.get(layer), batch_size)
        except ValueError as error:
            raise ValueError(f"Layer {path!r} cannot be compressed: {error}") from error
    return assemble(plain, new_layers, absorbed, pack_signs, _touched(plain, formats))


def assemble(
    plain: keras.Model,
    new_layers: Mapping[Layer, Layer],
    absorbed: Mapping[str, str],
    pack_signs: bool,
    touched: Callable[[str], bool] = lambda path: True,
) -> keras.Model:
    """Puts compressed layers into a copy of a prepared model.

    Args:
        plain: What `split` and `absorb` made of a model.
        new_layers: Layers of it and those that take their places.
        absorbed: What `absorb` said.
        pack_signs: Whether binary layers that feed each other are joined.
        touched: Takes the path of a layer without a matrix, and tells whether one op may do its
            work (`fuse`).

    Returns:
        A new model. Layers that were split and of which no part is compressed are in one piece.
    """
    paths = {layer: path for path, layer in reversed(layer_paths(plain).items())}
    reasons: dict[Layer, str] = {}
    if pack_signs:
        joints = join(plain, new_layers)
        for layer, new in joints.new_layers.items():
            noted(new, note_of(new_layers[layer]) if layer in new_layers else None)
        new_layers = {**new_layers, **joints.new_layers}
        absorbed = {**absorbed, **{paths[one]: paths[by] for one, by in joints.absorbed.items()}}
        reasons = joints.reasons
    fused, follows = fuse(plain, touched)
    absorbed = {**absorbed, **{paths[one]: paths[by] for one, by in follows.items()}}
    notes = _absorbed_notes(absorbed)

    def replace(layer: Layer) -> Layer | None:
        if isinstance(layer, CompositeLayer):
            this: Any = layer
            inside = this._flatten_layers()
            if not any(sub in new_layers or isinstance(sub, CompressedLayer) for sub in inside):
                return layer.to_layer()
            return None
        new = new_layers.get(layer)
        if new is None and layer in fused:
            return noted(
                fused[layer], ", and ".join(filter(None, [_ONE_OP, notes.get(paths[layer])]))
            )
        if new is not None:
            parts = [note_of(new), notes.get(paths[layer]), reasons.get(layer)]
            note = ". ".join(filter(None, parts))
            noted(new, note or None)
            label = new.format.label if isinstance(new, CompressedLayer) else "dense"
            _LOG.info("%s becomes %s%s", paths[layer], label, f" ({note})" if note else "")
        return new

    return rebuild(plain, replace)


def _touched(model: keras.Model, formats: Formats) -> Callable[[str], bool]:
    """Which layers, by their paths, patterns give a format to, whatever they can do with it."""
    found: dict[str, bool] = {}
    paths = list(layer_paths(model))
    for pattern, value in by_pattern(formats).items():
        for path in matching(pattern, paths):
            found.setdefault(path, value is not None)
    return lambda path: found.get(path, False)


def _compressed(layer: Layer, format: Format, calibration: Any, batch_size: int | None) -> Layer:
    """The layer in a format, or what is faster than that."""
    cls = replacement(layer)
    assert cls is not None  # `_choose` asked.
    new = cls.from_layer(layer, format, calibration)
    faster = None if batch_size is None else alternative(layer, new, batch_size)
    if faster is None:
        return new
    if faster.format is None:
        kept = copy_layer(layer)
        copy_variables(layer, kept)
        return noted(kept, faster.reason)
    return noted(cls.from_layer(layer, faster.format, calibration), faster.reason)


def _absorbed_notes(absorbed: Mapping[str, str]) -> dict[str, str]:
    notes: dict[str, str] = {}
    for path, into in absorbed.items():
        notes[into] = f"{notes[into]}, {path}" if into in notes else f"does the work of {path}"
    return notes


def noted(layer: Layer, note: str | None) -> Layer:
    """Attaches to a layer why it is not what was asked for; it is not saved with the model."""
    object.__setattr__(layer, _NOTE, note)
    return layer


def note_of(layer: Layer) -> str | None:
    """What `noted` attached to a layer, or `None`."""
    return getattr(layer, _NOTE, None)


def decompress(model: keras.Model) -> keras.Model:
    """Makes the plain Keras model with the weights that a compressed model's formats stand for.

    Args:
        model: A model that `compress` made, or that holds compressed layers.

    Returns:
        A new model without compressed layers; the original is left as it is. Where a format takes
        nothing but the signs of inputs, a `tfc.layers.QuantDense` or `QuantConv2D` does so too, and
        a layer of several matrices that holds one stays split. Other layers have no such form: they
        become plain ones, and a warning says so.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not built, or has no compressed layer.
    """
    check_model(model)
    if not any(isinstance(layer, CompressedLayer) for layer in layer_paths(model).values()):
        raise ValueError(
            f"`model` must have compressed layers; received {model.name!r}, which has none."
        )
    return rebuild(
        rebuild(
            model, lambda layer: layer.to_layer() if isinstance(layer, CompressedLayer) else None
        ),
        lambda layer: layer.to_layer() if _is_mergeable(layer) else plain_layer(layer),
    )


def _is_mergeable(layer: Any) -> bool:
    """Whether a layer is split, and its parts do what matrices of the Keras layer do."""
    if not isinstance(layer, CompositeLayer):
        return False
    this: Any = layer
    return all(trained_format(sub) is None for sub in this._flatten_layers())


def check_model(model: Any, argument: str = "model") -> None:
    """Checks that a model has weights that can be worked on.

    Args:
        model: What should be a built Keras model.
        argument: What the caller calls it.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it is not built.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`{argument}` must be a keras.Model; received {type(model).__name__}. Load a file "
            "with keras.saving.load_model first."
        )
    if not model.built:
        raise ValueError(
            f"`{argument}` must be built; received {model.name!r}, which has no weights yet. Start "
            "it with a keras.Input, or call it on data once."
        )


def check_models(models: Any, argument: str = "models") -> list[keras.Model]:
    """Checks that there are models, each with weights that can be worked on.

    Args:
        models: What should be an iterable of built Keras models.
        argument: What the caller calls it.

    Returns:
        The models.

    Raises:
        TypeError: If it is something else.
        ValueError: If there is none, or one is not built.
    """
    if isinstance(models, keras.Model) or not isinstance(models, Iterable):
        raise TypeError(
            f"`{argument}` must be a list of keras.Model; received {type(models).__name__}."
        )
    found = list(models)
    if not found:
        raise ValueError(f"`{argument}` must hold a model; received none.")
    for index, model in enumerate(found):
        check_model(model, f"{argument}[{index}]")
    return found


def batches(data: Any, batch_size: int, argument: str = "data") -> Iterator[Any]:
    """Gives data batch by batch, as a model takes it.

    Args:
        data: Arrays, nested as the model takes them, or an iterable of batches: of inputs, or of
            tuples `(inputs, targets, ...)`, of which the inputs are given.
        batch_size: Rows of a batch that arrays are cut into.
        argument: What the caller calls `data`.

    Yields:
        Inputs of one batch.

    Raises:
        TypeError: If `data` is neither.
        ValueError: If what it holds is no batch.
    """
    leaves = keras.tree.flatten(data)
    if leaves and all(hasattr(leaf, "shape") for leaf in leaves):
        for start in range(0, len(leaves[0]), batch_size):
            rows = operator.itemgetter(slice(start, start + batch_size))
            yield keras.tree.map_structure(rows, data)
    elif isinstance(data, Iterable):
        for batch in data:
            try:
                inputs = keras.utils.unpack_x_y_sample_weight(batch)[0]
            except ValueError as error:
                raise ValueError(
                    f"`{argument}` must hold batches: inputs, or (inputs, targets, sample weights);"
                    f" received a {type(batch).__name__} of {len(batch)}. Make an array of numbers "
                    "in lists: np.array(..., 'float32')."
                ) from error
            yield inputs
    else:
        raise TypeError(
            f"`{argument}` must be arrays or an iterable of batches; received "
            f"{type(data).__name__}."
        )


def run_batch(model: keras.Model, batch: Any, argument: str) -> Any:
    """Runs a model eagerly on a batch of a user's data.

    Args:
        model: A built model.
        batch: Inputs, nested as the model takes them.
        argument: What the caller calls the data.

    Returns:
        The outputs at inference.

    Raises:
        ValueError: If the inputs are not what the model takes.
    """
    if is_graph(model) and len(model.inputs) == 1 and isinstance(batch, tuple) and len(batch) > 1:
        raise ValueError(
            f"`{argument}` must hold inputs as {model.name!r} takes them, one array; received "
            f"{len(batch)}. Pass the inputs alone, or batches of (inputs, targets)."
        )
    try:
        return model(batch, training=False)
    except (ValueError, TypeError, KeyError, tf.errors.InvalidArgumentError) as error:
        shapes = keras.tree.map_structure(lambda leaf: tuple(np.shape(leaf)), batch)
        raise ValueError(
            f"`{argument}` must hold inputs as {model.name!r} takes them; received a batch of "
            f"shape {shapes}: {error}"
        ) from error


@contextlib.contextmanager
def watching(watchers: Mapping[Layer, Callable[[Any, Any], None]]) -> Iterator[None]:
    """While it is open, calls `watcher(inputs, outputs)` after each call of a layer.

    The layers run as they always do; each one's `call` is shadowed by an attribute of the instance,
    which is removed at the end. Run the model eagerly, `model(batch)`, to watch values. What other
    threads do with the model meanwhile is not watched.
    """
    thread = threading.get_ident()

    def shadow(layer: Layer, watcher: Callable[[Any, Any], None]) -> None:
        attribute = "quantized_call" if layer.quantization_mode else "call"
        call = getattr(layer, attribute)

        def watched(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = call(inputs, *args, **kwargs)
            if threading.get_ident() == thread:
                watcher(inputs, outputs)
            return outputs

        object.__setattr__(layer, attribute, watched)
        undo.callback(object.__delattr__, layer, attribute)

    with contextlib.ExitStack() as undo:
        for layer, watcher in watchers.items():
            shadow(layer, watcher)
        yield


def _choose(model: keras.Model, formats: Formats) -> dict[str, Format]:
    """Which layers are compressed, by their first paths, and to what."""
    patterns = by_pattern(formats)
    paths = layer_paths(model)
    reasons = Reasons(model)
    for pattern, value in patterns.items():
        _check_pattern(pattern, value, paths, reasons)
    chosen: dict[Layer, tuple[str, Format]] = {}
    left: dict[Layer, str] = {}
    for pattern, value in patterns.items():
        for path in matching(pattern, paths):
            layer = paths[path]
            if layer in chosen or layer in left:
                continue
            cls = replacement(layer)
            reason = reasons.against(layer, value)
            if value is None or cls is None or reason is not None:
                left[layer] = reason or "`formats` leaves it as it is"
            else:
                chosen[layer] = path, _wanted(layer, cls, value)
    for path, layer in paths.items():
        if layer not in left and layer not in chosen and reasons.against(layer) is None:
            own = trained_format(layer)
            if own is not None:
                chosen[layer] = path, own
    if not chosen:
        unmatched = "no pattern of `formats` matches it"
        raise nothing_to_compress(
            model, {path: left.get(layer, unmatched) for path, layer in paths.items()}
        )
    return dict(chosen.values())


def _wanted(layer: Layer, cls: type[CompressedLayer], format: Format) -> Format:
    """The format of a layer that is asked for, unless the layer was trained for another.

    One that was trained for dense weights may have those that multiply the same without zeros.
    """
    wanted = cls.format_for(format) or format
    own = trained_format(layer)
    if own is None:
        return wanted
    if wanted.dense_alternative == own:
        matrix = cls.source_weights(layer).matrix
        if np.array_equal(wanted.unpack(wanted.pack(matrix)) != 0, matrix != 0):
            return wanted
    return own


def by_pattern(formats: Formats) -> dict[str, Format | None]:
    """What `formats` of `compress` says, as globs over layer paths to formats or `None`."""
    if isinstance(formats, Mapping) and "class_name" not in formats:  # not a serialised format
        for pattern in formats:
            if not isinstance(pattern, str):
                raise TypeError(
                    "`formats` must map glob patterns over layer paths to formats; received the "
                    f"pattern {pattern!r}. Use the path, such as a layer's name."
                )
        return {
            pattern: None if value is None else formats_lib.get(value)
            for pattern, value in formats.items()
        }
    return {} if formats == () else {"*": formats_lib.get(formats)}


def nothing_to_compress(model: keras.Model, reasons: Mapping[str, str]) -> ValueError:
    """The error for a model in which nothing is compressed, with the reason for each path."""
    listed = "".join(f"\n  {path}: {reason}" for path, reason in reasons.items())
    return ValueError(
        f"`model` must have a layer that can be compressed; received {model.name!r}, in which "
        f"`formats` leaves nothing to compress:{listed}"
    )


class Reasons:
    """Why layers of a model are not compressed."""

    def __init__(self, model: keras.Model) -> None:
        self._tied = tied_layers(all_paths(model).values())

    def against(self, layer: Layer, format: Format | None = None) -> str | None:
        """Why a layer is not compressed (to a format), in a few words, or `None` if it can be."""
        if isinstance(layer, CompressedLayer):
            return "it is compressed already"
        if layer in self._tied:
            return f"it shares a weight with layer {self._tied[layer]!r}"
        reason = split_refusal(layer) or refusal(layer)
        cls = replacement(layer)
        if reason is None and cls is not None and format and cls.format_for(format) is None:
            return f"{type(layer).__name__} has no {format.name} form"
        return reason


def matching(pattern: str, paths: Iterable[str], argument: str = "formats") -> list[str]:
    """The paths that a pattern matches, or matches the model or container of.

    Args:
        pattern: A glob over paths.
        paths: Paths of layers.
        argument: What the caller calls what the pattern is from.

    Raises:
        ValueError: If there are none.
    """

    def matches(path: str) -> bool:
        parts = path.split("/")
        above = ("/".join(parts[: end + 1]) for end in range(len(parts)))
        return any(fnmatch.fnmatchcase(outer, pattern) for outer in above)

    matched = [path for path in paths if matches(path)]
    if not matched:
        nearest = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.0)
        raise ValueError(
            f"`{argument}` must name layers of the model; received the pattern {pattern!r}, which "
            f"matches none. The nearest layer paths are {nearest}."
        )
    return matched


def _check_pattern(
    pattern: str, value: Format | None, paths: Mapping[str, Layer], reasons: Reasons
) -> None:
    matched = matching(pattern, paths)
    against = {path: reasons.against(paths[path], value) for path in matched}
    # "*" says "whatever can be"; a pattern that picks layers out and can do nothing is a mistake.
    if (
        value is not None
        and pattern != "*"
        and all(against.values())
        and not all(isinstance(paths[path], CompressedLayer) for path in matched)
    ):
        listed = "".join(f"\n  {path}: {reason}" for path, reason in against.items())
        raise ValueError(
            f"`formats` must give formats to layers that can be compressed; received the pattern "
            f"{pattern!r}, which matches only{listed}\nUse None for them."
        )


def calibrate(
    model: keras.Model,
    chosen: Mapping[Layer, Format],
    data: Any,
    method: str = "max",
    progress: bool | None = None,
) -> dict[Layer, Any]:
    """Runs a model on data once and gathers what formats want to know of layers' inputs.

    Args:
        model: A plain model.
        chosen: Layers in it and the formats that they are to have.
        data: See `compress`.
        method: See `compress`.
        progress: See `compress`.

    Returns:
        The calibration of each layer whose format needs one.

    Raises:
        ValueError: If data is needed and missing, empty, not what the model takes, or does not
            reach a layer.
    """
    targets = {layer: format_ for layer, format_ in chosen.items() if format_.needs_calibration}
    if not targets:
        return {}
    if data is None:
        raise ValueError(
            "`calibration_data` must be given for formats that record the range of activations; "
            f"received None with {next(iter(targets.values()))} for layer "
            f"{next(iter(targets)).name!r}. Pass a few hundred typical inputs, or use a format "
            "with activations='dynamic'."
        )
    observers = {layer: METHODS[method](format_) for layer, format_ in targets.items()}

    def watcher(observer: Any) -> Callable[[Any, Any], None]:
        return lambda inputs, outputs: observer.observe(inputs)

    with watching({layer: watcher(observer) for layer, observer in observers.items()}):
        given = batches(data, _CALIBRATION_BATCH, "calibration_data")
        for batch in _shown(given, data, progress):
            run_batch(model, batch, "calibration_data")
    missed = [layer.name for layer, observer in observers.items() if not observer.seen]
    if missed:
        raise ValueError(
            "`calibration_data` must hold a batch that reaches every layer; no input of "
            f"{missed} was seen."
        )
    return {layer: observer.calibration() for layer, observer in observers.items()}


def _shown(batches_: Iterable[Any], data: Any, progress: bool | None) -> Iterable[Any]:
    """Shows on stderr how far an iteration is: where that is a terminal, unless told."""
    console = Console(stderr=True)
    shown = console.is_terminal if progress is None else progress
    leaves = keras.tree.flatten(data)
    arrays = bool(leaves) and all(hasattr(leaf, "shape") for leaf in leaves)
    total = -(-len(leaves[0]) // _CALIBRATION_BATCH) if arrays else None
    yield from track(batches_, "Calibrating", total=total, console=console, disable=not shown)
