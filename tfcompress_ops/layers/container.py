"""Custom layers and subclassed models some of whose layers were replaced by others."""

import contextlib
import functools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import keras
from keras.layers import Layer

from tfcompress_ops.layers.composite import CompositeLayer
from tfcompress_ops.layers.fused import FusedLayer
from tfcompress_ops.layers.layer import CompressedLayer
from tfcompress_ops.structure import Hop, held, is_graph

_NAME = "Container"
_PACKAGE = "tfcompress"
_METHODS = ("get_config", "from_config", "get_build_config")
_CLASSES: dict[type[Layer], type["Container"]] = {}


@keras.saving.register_keras_serializable(package=_PACKAGE, name=_NAME)
class Container:
    """Mixed into the class of a layer that holds replaced layers, so that it is saved with them.

    A custom layer makes its layers in its constructor or `build`. One whose layers were replaced
    afterwards would come back from a file with those that its code makes. As a `Container` its
    config holds that of the layer as its code makes it, and the layers that were put in, with the
    places where they belong. It stays an instance of its own class, whose methods it runs.
    """

    __slots__ = ()  # mixed into a Keras class without a layout of its own

    original: ClassVar[type[Layer]]

    def get_config(self) -> dict[str, Any]:
        """The config of the layer as its class makes it, and of what was put into it."""
        assert isinstance(self, Layer)
        with _as_original(self):
            layer = keras.saving.serialize_keras_object(self)
        layer.pop("compile_config", None)  # it is saved once, outside
        replaced = [
            {
                "places": [[list(hop) for hop in place] for place in places],
                "layer": keras.saving.serialize_keras_object(sub),
            }
            for sub, places in replaced_layers(self).items()
        ]
        return {"name": self.name, "layer": layer, "replaced": replaced}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Layer:
        """Makes the layer that the class makes, and puts the replaced layers in.

        Args:
            config: The result of `get_config`.
            custom_objects: Classes and functions by name, as Keras passes them.
        """
        with warnings.catch_warnings():
            # Layers that a layer without `build` makes are built as it is called.
            warnings.filterwarnings("ignore", message="`build\\(\\)` was called on layer")
            layer = keras.saving.deserialize_keras_object(config["layer"], custom_objects)
        for entry in config["replaced"]:
            sub = keras.saving.deserialize_keras_object(entry["layer"], custom_objects)
            for place in entry["places"]:
                _put(layer, [tuple(hop) for hop in place], sub)
        return mark(layer)

    def get_build_config(self) -> None:
        """`None`: `from_config` builds the layer."""
        return


def mark(layer: Layer) -> Layer:
    """Makes a layer a `Container` if layers in it were replaced, and what it was if none is.

    Args:
        layer: A custom layer or subclassed model; it changes its class, to a subclass of its own.

    Returns:
        `layer`.
    """
    plain = type(layer).original if isinstance(layer, Container) else type(layer)
    replaced = replaced_layers(layer)
    for sub, places in replaced.items():
        if isinstance(sub, CompositeLayer):
            mark(sub)
            for *outer, _ in places:
                sub.held_by(functools.reduce(_get, outer, layer))
    _set_class(layer, _container_class(plain) if replaced else plain)
    return layer


def replaced_layers(container: Layer) -> dict[Layer, list[list[Hop]]]:
    """The layers in a container that its own code does not make.

    Args:
        container: A layer that is no graph.

    Returns:
        Each outermost such layer to its places: hops from the container to it.
    """
    found: dict[Layer, list[list[Hop]]] = {}

    def search(layer: Layer, place: list[Hop], above: tuple[Layer, ...]) -> None:
        for hop, sub in held(layer):
            here = [*place, hop]
            if sub in found or is_replaced(sub):
                found.setdefault(sub, []).append(here)
            elif sub not in above and not is_graph(sub):
                search(sub, here, (*above, sub))

    search(container, [], (container,))
    return found


def is_replaced(layer: Layer) -> bool:
    """Whether this package put a layer where it is, or one inside the graph that it is."""
    if isinstance(layer, CompressedLayer | CompositeLayer | FusedLayer):
        return True
    return is_graph(layer) and any(
        is_replaced(sub) or isinstance(sub, Container) for sub in layer.layers
    )


def _container_class(plain: type[Layer]) -> type[Container]:
    if plain not in _CLASSES:
        # An instance can change to a class whose first base is its own and that adds only methods.
        methods = {name: vars(Container)[name] for name in _METHODS}
        names = {"original": plain, "__module__": plain.__module__, "__doc__": plain.__doc__}
        cls = type(plain.__name__, (plain, Container), {**names, **methods})
        # Found in files by the name of the mixin, whatever class it is mixed into.
        keras.saving.register_keras_serializable(_PACKAGE, _NAME)(cls)
        keras.saving.register_keras_serializable(_PACKAGE, _NAME)(Container)
        _CLASSES[plain] = cls
    return _CLASSES[plain]


def _set_class(layer: Layer, cls: type[Any]) -> None:
    if type(layer) is not cls:
        object.__setattr__(layer, "__class__", cls)


@contextlib.contextmanager
def _as_original(layer: Any) -> Iterator[None]:
    """While it is open, the layer has its own class."""
    cls = type(layer)
    _set_class(layer, cls.original)
    try:
        yield
    finally:
        _set_class(layer, cls)


def _put(container: Layer, place: Iterable[Hop], new: Layer) -> None:
    """Replaces the layer at a place; Keras follows the new one where it followed the old."""
    *outer, (attribute, *keys) = place
    for hop in outer:
        container = _get(container, hop)
    old = _get(container, (attribute, *keys))
    tracker = container._tracker
    locked = tracker.locked
    tracker.unlock()
    try:
        if tracker.is_in_store("layers", old):
            if tracker.is_in_store("layers", new):
                tracker.untrack(old)
            else:
                tracker.replace_tracked_value("layers", old, new)
        value = _with(getattr(container, attribute), keys, new)
        setattr(container, attribute, value)
    finally:
        tracker.locked = locked


def _get(container: Layer, hop: Hop) -> Any:
    value = getattr(container, hop[0])
    for key in hop[1:]:
        value = value[key]
    return value


def _with(value: Any, keys: list[Any], new: Layer) -> Any:
    """A copy of nested lists, tuples and dicts with another layer at these keys."""
    if not keys:
        return new
    key, *rest = keys
    if isinstance(value, dict):
        return {**value, key: _with(value[key], rest, new)}
    items = [_with(item, rest, new) if index == key else item for index, item in enumerate(value)]
    if isinstance(value, tuple):
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return items
