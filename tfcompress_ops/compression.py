"""Compressing and decompressing whole Keras models, and looking at their layers in action."""

import contextlib
import difflib
import fnmatch
import operator
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
from keras.layers import Layer
from keras.src.models.functional import Functional  # What keras.Model(inputs, outputs) makes.

from tfcompress_ops import formats as formats_lib
from tfcompress_ops.break_even import alternative
from tfcompress_ops.formats.format import Format
from tfcompress_ops.layers.layer import CompressedLayer, refusal, replacement, trained_format

Formats = Any  # A format or its name, or {glob: format, name or None}.
_CALIBRATION_BATCH = 64
_NOTE = "_tfcompress_note"
# Whether layers that Keras quantised run on their quantised weights; not in their configuration.
_KERAS_FLAGS = {"is_gptq_calibrated", "is_awq_calibrated"}


def compress(
    model: keras.Model,
    formats: Formats = (),
    calibration_data: Any = None,
    *,
    batch_size: int | None = 32,
) -> keras.Model:
    """Makes a model whose layers keep their weights in compressed formats.

    The original is left as it is. Layer names, shared and nested layers, inputs and outputs stay
    the same; a compiled model comes back compiled, with a new optimizer of the same configuration.
    Layers that have no compressed counterpart, and those already compressed, are copied.

    Args:
        model: A built Sequential or Functional model.
        formats: A format (or its name) for every layer that can be compressed, or a mapping from
            glob patterns over layer paths to a format or `None`, which leaves a layer as it is. The
            first pattern that matches wins; a layer that none matches stays as it is. The path of
            layer `dense_1` in a nested model `encoder` is `"encoder/dense_1"`; `*` matches slashes
            too. A layer that was trained quantised, such as `tfc.layers.QuantDense`, gets the
            format that it was trained for, whatever `formats` says, unless a pattern gives it
            `None`; without `formats`, such layers alone are compressed.
        calibration_data: Inputs that formats with static activations take the range of activations
            from: arrays, nested as the model takes them, or an iterable of batches such as a
            `tf.data.Dataset` or a generator (of inputs, or of tuples that start with them). The
            original runs on all of it once.
        batch_size: Rows that the model is to be fast for. A layer whose format leaves zeros out
            (`tfc.Sparse`) is timed at this batch size, on this machine. Where it has too few zeros
            to pay, it stays dense, or with int8 values becomes dense int8; `tfc.report` says so.
            `None`: every layer gets its format, whatever it costs.

    Returns:
        A new model.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is subclassed or not built, if a pattern matches no layer that can
            be compressed, if nothing can be compressed, or if `calibration_data` is needed and
            missing, empty, or does not reach a layer.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
        >>> small = tfc.compress(model, {"head": tfc.Int8()})
        >>> small.get_layer("head").format
        Int8(activations='dynamic', center=False)
    """
    check_model(model)
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"`batch_size` must be a positive integer; received {batch_size!r}.")
    chosen = _choose(model, formats)
    calibration = _calibrate(model, chosen, calibration_data)

    def replace(layer: Layer) -> Layer | None:
        cls = replacement(layer)
        if cls is None or layer not in chosen:
            return None
        try:
            new = cls.from_layer(layer, chosen[layer], calibration.get(layer))
            faster = None if batch_size is None else alternative(layer, new, batch_size)
            if faster is None:
                return new
            if faster.format is None:
                return noted(copy_layer(layer), faster.reason)
            return noted(
                cls.from_layer(layer, faster.format, calibration.get(layer)), faster.reason
            )
        except ValueError as error:
            raise ValueError(f"Layer {layer.name!r} cannot be compressed: {error}") from error

    return rebuild(model, replace)


def noted(layer: Layer, note: str) -> Layer:
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
        A new model without compressed layers; the original is left as it is.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is subclassed or not built, or has no compressed layer.
    """
    check_model(model)
    if not any(isinstance(layer, CompressedLayer) for layer in layer_paths(model).values()):
        raise ValueError(
            f"`model` must have compressed layers; received {model.name!r}, which has none."
        )
    return rebuild(
        model, lambda layer: layer.to_layer() if isinstance(layer, CompressedLayer) else None
    )


def check_model(model: Any) -> None:
    """Checks that a model is one that can be rebuilt layer by layer.

    Args:
        model: What should be a built Sequential or Functional model.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it is subclassed, or not built.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model; received {type(model).__name__}. Load a file with "
            "keras.saving.load_model first."
        )
    if not _is_graph(model):
        raise ValueError(
            f"`model` must be Sequential or Functional; received {model.name!r}, a subclassed "
            f"model ({type(model).__name__}) whose graph of layers is not known. Rebuild it with "
            "keras.Model(inputs, outputs), or use the Functional models inside it."
        )
    if not model.built:
        raise ValueError(
            f"`model` must be built; received {model.name!r}, which has no weights yet. Start it "
            "with a keras.Input, or call it on data once."
        )


def rebuild(model: keras.Model, replace: Callable[[Layer], Layer | None]) -> keras.Model:
    """Clones a model with some layers replaced; all others keep their weights and state.

    Args:
        model: A model that `check_model` accepts; it is left as it is.
        replace: Called once with each layer that is not itself a Sequential or Functional model;
            gives a built layer in its place, or `None` for a copy.

    Returns:
        A new model of the same structure, names and shared layers, compiled if `model` is.

    Raises:
        ValueError: If a layer cannot be copied from its configuration.
    """
    copies: dict[Layer, Layer] = {}

    def clone(layer: Layer) -> Layer:
        if layer not in copies:
            copies[layer] = (
                keras.models.clone_model(layer, clone_function=clone)
                if _is_graph(layer)
                else replace(layer) or copy_layer(layer)
            )
        return copies[layer]

    with keras.saving.custom_object_scope(_compile_objects(model)), warnings.catch_warnings():
        # A model compiled for XLA is recompiled without: the ops cannot be compiled by it.
        warnings.filterwarnings("ignore", message="Model doesn't support `jit_compile=True`")
        new_model = keras.models.clone_model(model, clone_function=clone)
    for old, new in copies.items():
        if type(old) is type(new) and not _is_graph(old):
            _copy_variables(old, new)
    _copy_trainable(model, new_model)
    return new_model


def layer_paths(model: keras.Model) -> dict[str, Layer]:
    """Every layer that is not itself a Sequential or Functional model, by its path.

    Args:
        model: A Sequential or Functional model.

    Returns:
        Path, such as `"encoder/dense_1"`, to layer, in the models' order. A shared layer has
        several paths.
    """
    paths: dict[str, Layer] = {}
    for layer in model.layers:
        if _is_graph(layer):
            paths.update({f"{layer.name}/{path}": sub for path, sub in layer_paths(layer).items()})
        elif not isinstance(layer, keras.layers.InputLayer):
            paths[layer.name] = layer
    return paths


def batches(data: Any, batch_size: int) -> Iterator[Any]:
    """Gives data batch by batch, as a model takes it.

    Args:
        data: Arrays, nested as the model takes them, or an iterable of batches: of inputs, or of
            tuples `(inputs, targets, ...)`, of which the inputs are given.
        batch_size: Rows of a batch that arrays are cut into.

    Yields:
        Inputs of one batch.

    Raises:
        TypeError: If `data` is neither.
    """
    leaves = keras.tree.flatten(data)
    if leaves and all(hasattr(leaf, "shape") for leaf in leaves):
        for start in range(0, len(leaves[0]), batch_size):
            rows = operator.itemgetter(slice(start, start + batch_size))
            yield keras.tree.map_structure(rows, data)
    elif isinstance(data, Iterable):
        for batch in data:
            yield keras.utils.unpack_x_y_sample_weight(batch)[0]
    else:
        raise TypeError(
            f"Data must be arrays or an iterable of batches; received {type(data).__name__}."
        )


@contextlib.contextmanager
def watching(watchers: Mapping[Layer, Callable[[Any, Any], None]]) -> Iterator[None]:
    """While it is open, calls `watcher(inputs, outputs)` after each call of a layer.

    The layers run as they always do; each one's `call` is shadowed by an attribute of the instance,
    which is removed at the end. Run the model eagerly, `model(batch)`, to watch values.
    """

    def shadow(layer: Layer, watcher: Callable[[Any, Any], None]) -> None:
        attribute = "quantized_call" if layer.quantization_mode else "call"
        call = getattr(layer, attribute)

        def watched(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = call(inputs, *args, **kwargs)
            watcher(inputs, outputs)
            return outputs

        object.__setattr__(layer, attribute, watched)
        undo.callback(object.__delattr__, layer, attribute)

    with contextlib.ExitStack() as undo:
        for layer, watcher in watchers.items():
            shadow(layer, watcher)
        yield


def _is_graph(layer: Layer) -> bool:
    """Whether a layer is a model that Keras can rebuild layer by layer."""
    if isinstance(layer, keras.Sequential):
        return type(layer).call is keras.Sequential.call
    return isinstance(layer, Functional) and type(layer).call is Functional.call


def _choose(model: keras.Model, formats: Formats) -> dict[Layer, Format]:
    """Which layers are compressed, and to what."""
    if isinstance(formats, Mapping) and "class_name" not in formats:  # not a serialised format
        patterns = {
            pattern: None if value is None else formats_lib.get(value)
            for pattern, value in formats.items()
        }
    else:
        patterns = {} if formats == () else {"*": formats_lib.get(formats)}
    paths = layer_paths(model)
    reasons = {
        path: None if isinstance(layer, CompressedLayer) else refusal(layer)
        for path, layer in paths.items()
    }
    for pattern, value in patterns.items():
        _check_pattern(pattern, value, reasons)
    chosen: dict[Layer, Format] = {}
    left: set[Layer] = set()
    for pattern, value in patterns.items():
        for path, layer in paths.items():
            if not fnmatch.fnmatchcase(path, pattern) or layer in chosen or layer in left:
                continue
            if value is None or isinstance(layer, CompressedLayer) or reasons[path] is not None:
                left.add(layer)
            else:
                chosen[layer] = trained_format(layer) or value
    for path, layer in paths.items():
        if layer not in left and layer not in chosen and reasons[path] is None:
            own = trained_format(layer)
            if own is not None:
                chosen[layer] = own
    if not chosen:
        raise ValueError(
            f"`model` must have a layer that can be compressed; received {model.name!r}, in which "
            f"`formats` leaves nothing to compress:{_listed(paths, reasons)}"
        )
    return chosen


def _listed(paths: Mapping[str, Layer], reasons: Mapping[str, str | None]) -> str:
    def why(path: str) -> str:
        if isinstance(paths[path], CompressedLayer):
            return "it is compressed already"
        return reasons[path] or "`formats` leaves it as it is"

    return "".join(f"\n  {path}: {why(path)}" for path in paths)


def _check_pattern(pattern: str, value: Format | None, reasons: Mapping[str, str | None]) -> None:
    matched = fnmatch.filter(reasons, pattern)
    if not matched:
        nearest = difflib.get_close_matches(pattern, reasons, n=3, cutoff=0.0)
        raise ValueError(
            f"`formats` must name layers of the model; received the pattern {pattern!r}, which "
            f"matches none. The nearest layer paths are {nearest}."
        )
    # "*" says "whatever can be"; a pattern that picks layers out and can do nothing is a mistake.
    if value is not None and pattern != "*" and all(reasons[path] for path in matched):
        listed = "".join(f"\n  {path}: {reasons[path]}" for path in matched)
        raise ValueError(
            f"`formats` must give formats to layers that can be compressed; received the pattern "
            f"{pattern!r}, which matches only{listed}\nUse None for them."
        )


def _calibrate(model: keras.Model, chosen: Mapping[Layer, Format], data: Any) -> dict[Layer, Any]:
    """Runs the model on the data once and gathers what each format wants to know of its inputs."""
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
    states: dict[Layer, Any] = {}

    def watcher(layer: Layer) -> Callable[[Any, Any], None]:
        def observe(inputs: Any, outputs: Any) -> None:
            del outputs
            states[layer] = targets[layer].observe(states.get(layer), inputs)

        return observe

    with watching({layer: watcher(layer) for layer in targets}):
        for batch in batches(data, _CALIBRATION_BATCH):
            model(batch, training=False)
    missed = [layer.name for layer in targets if layer not in states]
    if missed:
        raise ValueError(
            "`calibration_data` must hold a batch that reaches every layer; no input of "
            f"{missed} was seen."
        )
    return states


def _copy_variables(old: Layer, new: Layer) -> None:
    """Weights, and state such as a random seed. What is not a layer (keras.ops) has none."""
    if not isinstance(old, Layer):
        return
    for source, target in zip(old._flatten_layers(), new._flatten_layers(), strict=True):
        for flag in _KERAS_FLAGS & set(vars(source)):
            setattr(target, flag, getattr(source, flag))
    if len(old.variables) != len(new.variables):
        raise ValueError(
            f"Layer {old.name!r} ({type(old).__name__}) cannot be copied from its configuration: "
            f"it has {len(old.variables)} variables, a copy {len(new.variables)}. Give the class a "
            "`build` that makes all of them."
        )
    for source, target in zip(old.variables, new.variables, strict=True):
        target.assign(source)


def copy_layer(layer: Layer) -> Layer:
    """A layer of the same configuration, from its live class and functions."""
    objects = {type(layer).__name__: type(layer)}
    objects.update(_functions(vars(layer).values()))
    try:
        # Not safe mode: whatever a Lambda holds is code that runs in this process already.
        return keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(layer), custom_objects=objects, safe_mode=False
        )
    except Exception as error:
        raise ValueError(
            f"Layer {layer.name!r} ({type(layer).__name__}) cannot be copied from its "
            f"configuration: {error}\nGive the class `get_config`, and register it and the "
            "functions that it uses with keras.saving.register_keras_serializable."
        ) from error


def _compile_objects(model: keras.Model) -> dict[str, Any]:
    """Custom losses, metrics and optimizers that a model and those in it are compiled with."""
    objects: dict[str, Any] = {}
    for layer in model.layers:
        if _is_graph(layer):
            objects.update(_compile_objects(layer))
    config = getattr(model, "_compile_config", None)
    if config is not None:
        leaves = keras.tree.flatten(config.config)
        objects.update(_functions(leaves))
        objects.update(
            {type(leaf).__name__: type(leaf) for leaf in leaves if hasattr(leaf, "get_config")}
        )
    return objects


def _functions(values: Iterable[Any]) -> dict[str, Any]:
    return {value.__name__: value for value in values if isinstance(value, types.FunctionType)}


def _copy_trainable(old: Layer, new: Layer) -> None:
    """Models that are frozen as a whole: their own flag, then those of what is inside."""
    if new.trainable != old.trainable:
        new.trainable = old.trainable
    if _is_graph(old):
        for old_layer, new_layer in zip(old.layers, new.layers, strict=True):
            _copy_trainable(old_layer, new_layer)
