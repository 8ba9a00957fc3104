"""Copies of whole models in which some layers are others."""

import contextlib
import copy
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.layers import Layer
from keras.src.utils import tracking
from tensorflow.python.trackable import data_structures

from tfcompress_ops.layers.container import mark
from tfcompress_ops.structure import BOOKKEEPING, is_container, is_graph, own_variables

Replace = Callable[[Layer], Layer | None]

# Whether layers that Keras quantised run on their quantised weights; not in their configuration.
_KERAS_FLAGS = {"is_gptq_calibrated", "is_awq_calibrated"}
_STORES = {
    "trainable_variables": "_trainable_variables",
    "non_trainable_variables": "_non_trainable_variables",
    "layers": "_layers",
    "metrics": "_metrics",
    "seed_generators": "_seed_generators",
}
_COMPILE_STATE = {
    *("optimizer", "stop_training", "stop_predicting", "stop_evaluating"),
    *("_compiled_trainable_state", "_compile_config"),
}


def rebuild(model: keras.Model, replace: Replace) -> keras.Model:
    """Copies a model with some layers replaced; all others keep their weights and state.

    Sequential and Functional models are rebuilt layer by layer, each layer from its configuration.
    A subclassed model or a custom layer that holds layers is copied as the object that it is:
    variables, and lists, tuples and dicts in its attributes, are copied; what else its attributes
    hold (functions, configurations, look-up tables) is shared.

    Args:
        model: A built model; it is left as it is.
        replace: Called once with each layer that is not itself a Sequential or Functional model,
            outer layers first; gives a built layer in its place, or `None` for a copy, in which
            inner layers may be replaced.

    Returns:
        A new model of the same structure, names and shared layers, compiled if `model` is.

    Raises:
        ValueError: If a layer cannot be copied.
    """
    with keras.saving.custom_object_scope(_compile_objects(model)), warnings.catch_warnings():
        # A model compiled for XLA is recompiled without: the ops cannot be compiled by it.
        warnings.filterwarnings("ignore", message="Model doesn't support `jit_compile=True`")
        rebuilder = _Rebuilder(replace)
        new_model = rebuilder.clone(model)
        if not is_graph(model):
            _compile_like(model, new_model)
    rebuilder.copy_variables()
    _copy_trainable(model, new_model)
    return new_model


def copy_layer(layer: Layer, changes: Mapping[str, Any] | None = None) -> Layer:
    """A layer of the same configuration, from its live class and functions.

    Args:
        layer: The layer.
        changes: Entries of the configuration that are others in the copy, which is not built then.

    Returns:
        The new layer, with initial weights if `layer` is built and there are no `changes`.
    """
    objects = {type(layer).__name__: type(layer)}
    objects.update(_functions(vars(layer).values()))
    try:
        # Not safe mode: whatever a Lambda holds is code that runs in this process already.
        serialized = keras.saving.serialize_keras_object(layer)
        if changes is not None:
            serialized.pop("build_config", None)
            serialized["config"].update(changes)
        return keras.saving.deserialize_keras_object(
            serialized, custom_objects=objects, safe_mode=False
        )
    except Exception as error:
        raise ValueError(
            f"Layer {layer.name!r} ({type(layer).__name__}) cannot be copied from its "
            f"configuration: {error}\nGive the class `get_config`, and register it and the "
            "functions that it uses with keras.saving.register_keras_serializable."
        ) from error


class _Rebuilder:
    """Makes the copies of one model's layers, each once."""

    def __init__(self, replace: Replace) -> None:
        self._replace = replace
        self._copies: dict[Layer, Layer] = {}
        self._variables: dict[int, Any] = {}
        self._from_config: list[Layer] = []
        self._inside = 0  # containers that hold what is being copied

    def clone(self, layer: Layer) -> Layer:
        """The copy of a layer or model, or what replaces it."""
        if layer in self._copies:
            return self._copies[layer]
        if is_graph(layer):
            inside, self._inside = self._inside, 0
            with _not_compiled(layer):
                new = keras.models.clone_model(
                    layer, clone_function=self.clone, input_tensors=_inputs_like(layer)
                )
            self._inside = inside
            _compile_like(layer, new)
        else:
            new = self._replace(layer) if isinstance(layer, Layer) else None
            if new is None and (self._inside or is_container(layer)):
                return self._duplicate(layer)
            if new is None:
                new = copy_layer(layer)
                self._from_config.append(layer)
        self._copies[layer] = new
        return new

    def copy_variables(self) -> None:
        """Gives layers that were copied from their configuration the weights and state."""
        for layer in self._from_config:
            copy_variables(layer, self._copies[layer])

    def _duplicate(self, old: Layer) -> Layer:
        """Copies a layer as the object that it is, and the layers that it holds."""
        cls: Any = type(old)
        new = cls.__new__(cls)  # which wraps `build` and `quantize` for the new object
        self._copies[old] = new
        self._inside += 1
        try:
            self._fill(old, new)
        finally:
            self._inside -= 1
        return new if self._inside else mark(new)

    def _fill(self, old: Layer, new: Layer) -> None:
        skipped = set(BOOKKEEPING)
        new._lock = False
        new._tracked, new._inbound_nodes, new._outbound_nodes = [], [], []
        new._initialize_tracker()
        if isinstance(old, keras.Model):
            fresh = vars(keras.Model())
            plain = vars(Layer())
            for name in fresh.keys() - plain.keys():
                vars(new)[name] = fresh[name]
            vars(new)["_compute_loss_has_training_arg"] = old._compute_loss_has_training_arg
            skipped |= (fresh.keys() - plain.keys()) | _COMPILE_STATE
        for name, attribute in _STORES.items():
            store = getattr(new, attribute)
            store.extend(self._value(value, new) for value in getattr(old, attribute))
            new._tracker.stored_ids[name].update(map(id, store))
        for name, value in vars(old).items():
            if name in skipped or name.startswith("_self_"):
                continue
            copied = self._value(value, new)
            if isinstance(copied, tf.__internal__.tracking.Trackable | list | dict | set | tuple):
                with _tracking_as_of(value):
                    setattr(new, name, copied)
            else:
                vars(new)[name] = copied
        if old._tracker.locked:
            new._tracker.lock(old._tracker._lock_violation_msg)

    def _value(self, value: Any, owner: Layer) -> Any:
        """The copy of what an attribute of a layer holds; `owner` is the layer's copy."""
        # TensorFlow puts a proxy around tuples and dicts that are set as attributes.
        if type(value).__module__ == data_structures.__name__:
            value = getattr(value, "__wrapped__", value)
        if isinstance(value, keras.metrics.Metric | keras.random.SeedGenerator):
            return self._saveable(value)
        if isinstance(value, Layer):
            return self.clone(value)
        if isinstance(value, keras.Variable | tf.Variable):
            return self._memo(value, copy.deepcopy)
        if isinstance(value, types.MethodType) and isinstance(value.__self__, Layer):
            return types.MethodType(value.__func__, self.clone(value.__self__))
        if isinstance(value, np.ndarray):
            return value.copy()
        if isinstance(value, tracking.TrackedList | tracking.TrackedSet):
            return type(value)([self._value(item, owner) for item in value], owner._tracker)
        if isinstance(value, tracking.TrackedDict | tracking.TrackedOrderedDict):
            items = {key: self._value(item, owner) for key, item in value.items()}
            return type(value)(items, owner._tracker)
        if type(value) in (dict, OrderedDict):
            return type(value)((key, self._value(item, owner)) for key, item in value.items())
        if type(value) in (list, set, tuple):
            return type(value)(self._value(item, owner) for item in value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self._value(item, owner) for item in value))
        return value

    def _saveable(self, value: Any) -> Any:
        def copied(value: Any) -> Any:
            new = type(value).from_config(value.get_config())
            variables = getattr(value, "variables", None) or [value.state]
            for source, target in zip(
                variables, getattr(new, "variables", None) or [new.state], strict=True
            ):
                target.assign(source)
            return new

        return self._memo(value, copied)

    def _memo(self, value: Any, copied: Callable[[Any], Any]) -> Any:
        if id(value) not in self._variables:
            self._variables[id(value)] = copied(value)
        return self._variables[id(value)]


def _tracking_as_of(value: Any) -> contextlib.AbstractContextManager[Any]:
    """For setting an attribute as it was set: plain lists and dicts are not followed by Keras."""
    plain = type(value) in (list, dict, set, OrderedDict)
    return tracking.DotNotTrackScope() if plain else contextlib.nullcontext()


def _inputs_like(model: Any) -> Any:
    """Inputs for a copy of a Functional model, of the same names; `None` for a Sequential one."""
    if isinstance(model, keras.Sequential):
        return None

    def like(tensor: Any) -> Any:
        return keras.Input(
            batch_shape=tensor.shape,
            dtype=tensor.dtype,
            sparse=tensor.sparse,
            name=tensor._keras_history.operation.name,
        )

    return keras.tree.map_structure(like, model.input)


def copy_variables(old: Layer, new: Layer) -> None:
    """Copies weights, and state such as a random seed. What is not a layer (keras.ops) has none."""
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


@contextlib.contextmanager
def _not_compiled(model: keras.Model) -> Iterator[None]:
    """While it is open, Keras copies a model without what it is compiled with."""
    compiled = model.compiled
    vars(model)["compiled"] = False
    try:
        yield
    finally:
        vars(model)["compiled"] = compiled


def _compile_like(model: keras.Model, new: keras.Model) -> None:
    """Compiles a copy of a model as the model is.

    What has a state, the optimizer and metrics, is made anew; losses and functions are shared,
    since Keras can serialise none that is a lambda or not registered.
    """
    if not model.compiled:
        return
    if type(model).compile is not keras.Model.compile:
        new.compile_from_config(model.get_compile_config())
        return

    def copied(value: Any) -> Any:
        if isinstance(value, keras.optimizers.Optimizer | keras.metrics.Metric):
            serialized = keras.saving.serialize_keras_object(value)
            return keras.saving.deserialize_keras_object(serialized, safe_mode=False)
        return value

    config = model._compile_config.config
    new.compile(**{name: keras.tree.map_structure(copied, part) for name, part in config.items()})
    if new.built and new.optimizer is not None:
        new.optimizer.build(new.trainable_variables)


def _compile_objects(model: keras.Model) -> dict[str, Any]:
    """Custom losses, metrics and optimizers that a model and those in it are compiled with."""
    objects: dict[str, Any] = {}
    for layer in model.layers:
        if is_graph(layer):
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
    if is_graph(old):
        for old_layer, new_layer in zip(old.layers, new.layers, strict=True):
            _copy_trainable(old_layer, new_layer)


def tied_layers(layers: Iterable[Layer]) -> dict[Layer, str]:
    """Layers that hold a variable that another of them holds too.

    Args:
        layers: The layers; one that is called several times counts once.

    Returns:
        Layer to the name of the first other one.
    """
    holders: dict[int, list[Layer]] = {}
    for layer in dict.fromkeys(layers):
        for variable in own_variables(layer):
            holders.setdefault(id(variable), []).append(layer)
    groups = [group for group in holders.values() if len(group) > 1]
    return {
        layer: next(other.name for other in group if other is not layer)
        for group in groups
        for layer in group
    }
