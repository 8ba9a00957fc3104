"""Where layers sit in a model: graphs, containers, and the paths of what they hold."""

import re
from collections.abc import Iterator
from typing import Any

import keras
from keras.layers import Layer
from keras.src.models.functional import Functional  # What keras.Model(inputs, outputs) makes.

# How a container holds a layer: an attribute, then indices or keys of lists and dicts in it.
Hop = tuple[Any, ...]

# What Keras keeps of a layer beside what its class and its users assign.
BOOKKEEPING = frozenset(
    {
        *("_tracker", "_trainable_variables", "_non_trainable_variables", "_layers", "_metrics"),
        *("_seed_generators", "_inbound_nodes", "_outbound_nodes", "_tracked", "build", "quantize"),
    }
)


def is_graph(layer: Any) -> bool:
    """Whether a layer is a Sequential or Functional model, which Keras can rebuild by layers."""
    if isinstance(layer, keras.Sequential):
        return type(layer).call is keras.Sequential.call
    return isinstance(layer, Functional) and type(layer).call is Functional.call


def input_of(graph: keras.Model) -> Any:
    """The inputs of a Sequential or Functional model, nested as it takes them."""
    return graph.inputs[0] if isinstance(graph, keras.Sequential) else graph.input


def is_container(layer: Any) -> bool:
    """Whether a layer is no graph and holds other layers in attributes, lists, tuples or dicts."""
    return isinstance(layer, Layer) and not is_graph(layer) and any(True for _ in held(layer))


def held(container: Layer) -> Iterator[tuple[Hop, Layer]]:
    """The layers that a container holds itself, and how; one that it holds twice comes twice.

    Args:
        container: A layer that is no graph.

    Yields:
        `(hop, layer)`: `hop[0]` is an attribute, what follows are indices or keys.
    """

    def search(value: Any, hop: Hop) -> Iterator[tuple[Hop, Layer]]:
        if isinstance(value, Layer):
            if not isinstance(value, keras.metrics.Metric):
                yield hop, value
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                yield from search(item, (*hop, index))
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from search(item, (*hop, key))

    for name, value in list(vars(container).items()):
        if name not in BOOKKEEPING and not name.startswith("_self_"):
            yield from search(value, (name,))


def layer_paths(model: Layer) -> dict[str, Layer]:
    """Every layer of a model that holds weights of its own or could, by its path.

    The path of layer `dense_1` in a nested model `encoder` is `"encoder/dense_1"`. What a custom
    layer or a subclassed model holds goes by its name too, or, where Keras made the name up, by how
    it is held: `self.blocks[0].mlp` is `"blocks/0/mlp"`.

    Args:
        model: A model.

    Returns:
        Path to layer, in the models' order: those that hold no other layers, and containers that
        have variables of their own. A shared layer has several paths.
    """
    return {
        path: layer
        for path, layer in all_paths(model).items()
        if not is_graph(layer) and (own_variables(layer) or not is_container(layer))
    }


def all_paths(model: Layer) -> dict[str, Layer]:
    """Like `layer_paths`, with the models and containers in a model besides; the model is not."""
    paths: dict[str, Layer] = {}

    def add(layer: Layer, prefix: str, above: tuple[Layer, ...]) -> None:
        below = {sub.name: sub for sub in layer.layers} if is_graph(layer) else _components(layer)
        for name, sub in below.items():
            if sub not in above and not isinstance(sub, keras.layers.InputLayer):
                paths[prefix + name] = sub
                add(sub, f"{prefix}{name}/", (*above, sub))

    add(model, "", (model,))
    return paths


def own_variables(layer: Layer) -> list[keras.Variable]:
    """The weights of a layer that no layer inside it has."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _components(container: Layer) -> dict[str, Layer]:
    """The layers that a container holds by the part of a path that names each."""
    found: dict[str, Layer] = {}
    seen: set[Layer] = set()
    for hop, layer in held(container):
        if layer in seen:
            continue
        seen.add(layer)
        name = layer.name
        if name in found or _is_made_up(layer):
            name = "/".join(map(str, hop))
        found[name] = layer
    return found


def _is_made_up(layer: Layer) -> bool:
    """Whether Keras named a layer, after its class: `dense`, `dense_12`."""
    classes = {cls.__name__ for cls in type(layer).__mro__ if issubclass(cls, Layer)}
    snakes = (re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W", "_", name).lower() for name in classes)
    stem = re.sub(r"_\d+$", "", layer.name).replace("_", "")
    return stem in {snake.replace("_", "") for snake in snakes}
