"""What is done to a plain model before its layers are compressed: the same function, other layers.

Layers of several matrices are split into layers of one each (`tfcompress_ops.layers.composite`).
A BatchNormalization that follows a layer is folded into its weights, and an activation that follows
it is done by it, in the same op. Both leave an `Absorbed` of the same name behind, so that layers,
names and outputs stay where they were.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np
from keras.layers import Layer

from tfcompress_ops.layers.absorbed import Absorbed
from tfcompress_ops.layers.composite import CompositeLayer, composite
from tfcompress_ops.layers.layer import refusal, replacement
from tfcompress_ops.ops import fused_activation_name
from tfcompress_ops.rebuilding import copy_layer, rebuild
from tfcompress_ops.structure import all_paths, is_graph, layer_paths


def split(model: keras.Model, chosen: Callable[[Layer], bool] = lambda layer: True) -> keras.Model:
    """Splits the layers that hold several matrices.

    Args:
        model: A model; it is left as it is.
        chosen: Which of the layers that can be split are.

    Returns:
        A copy, or `model` itself where nothing is to split.
    """

    def splits(layer: Layer) -> type[CompositeLayer] | None:
        return composite(layer) if chosen(layer) else None

    if not any(splits(layer) for layer in all_paths(model).values()):
        return model

    def replace(layer: Layer) -> Layer | None:
        cls = splits(layer)
        return None if cls is None else cls.from_layer(layer)

    return rebuild(model, replace)


def split_like(original: keras.Model, compressed: keras.Model) -> keras.Model:
    """Splits the layers of a model that are split in its compressed form."""
    paths = {layer: path for path, layer in all_paths(original).items()}
    after = all_paths(compressed)
    return split(original, lambda layer: isinstance(after.get(paths[layer]), CompositeLayer))


def absorb(
    model: keras.Model,
    layers: Collection[Layer],
    accept: Callable[[str], bool] = lambda path: True,
) -> tuple[keras.Model, dict[str, str]]:
    """Folds what follows some layers into them: BatchNormalization, then an activation.

    Args:
        model: A model; it is left as it is.
        layers: The layers to fold into, where nothing else takes their outputs.
        accept: Takes the path of a layer that could be folded, and tells whether it is.

    Returns:
        A copy, or `model` itself where nothing is to fold, and the path of each `Absorbed` that was
        left behind to that of the layer that does its work.
    """
    paths = {layer: path for path, layer in reversed(all_paths(model).items())}
    new_layers: dict[Layer, Layer] = {}
    absorbed: dict[str, str] = {}
    for layer in layers:
        folded = None
        for after in followers(model, layer):
            result = _absorbed(folded or layer, after) if accept(paths[after]) else None
            if result is None:
                break
            folded = result
            new_layers[after] = Absorbed(
                name=after.name, dtype=after.dtype_policy, trainable=after.trainable
            )
            absorbed[paths[after]] = paths[layer]
        if folded is not None:
            new_layers[layer] = folded
    if not new_layers:
        return model, {}
    return rebuild(model, new_layers.get), absorbed


def absorb_like(original: keras.Model, compressed: keras.Model) -> keras.Model:
    """Folds in a model what is folded in its compressed form."""
    after = all_paths(compressed)
    layers = [layer for layer in layer_paths(original).values() if refusal(layer) is None]
    return absorb(original, layers, lambda path: isinstance(after.get(path), Absorbed))[0]


def followers(model: keras.Model, layer: Layer) -> list[Layer]:
    """The chain of layers that a layer's only output goes through, each taking nothing else."""
    for graph in [model, *all_paths(model).values()]:
        if is_graph(graph) and layer in graph.layers:
            successor = functools.partial(_successor, _functional(graph))
            chain: list[Layer] = []
            while (following := successor((chain or [layer])[-1])) is not None:
                chain.append(following)
            return chain if _holders(model, layer) == 1 else []
    return []


def users(model: keras.Model, layer: Layer) -> list[Layer]:
    """The layers that take the outputs of a layer, wherever a graph calls it."""
    found: dict[Layer, None] = {}
    for graph in [model, *all_paths(model).values()]:
        if is_graph(graph) and layer in graph.layers:
            every = _nodes(_functional(graph))
            outputs = {id(t) for node in every if node.operation is layer for t in node.outputs}
            for node in every:
                if any(id(tensor) in outputs for tensor in node.input_tensors):
                    found[node.operation] = None
    return list(found)


def _nodes(graph: Any) -> list[Any]:
    """The calls of layers in a graph."""
    by_depth = {} if graph is None else graph._nodes_by_depth
    return [node for depth in by_depth.values() for node in depth]


def _holders(model: keras.Model, layer: Layer) -> int:
    """How many graphs hold a layer; one that two hold is used in two ways."""
    graphs = {id(graph): graph for graph in [model, *all_paths(model).values()] if is_graph(graph)}
    return sum(layer in graph.layers for graph in graphs.values())


def _functional(graph: Any) -> Any:
    return graph._functional if isinstance(graph, keras.Sequential) else graph


def _successor(graph: Any, layer: Layer) -> Layer | None:
    """The one layer that takes the one output of a layer that is called once, and nothing else."""
    every = _nodes(graph)
    nodes = [node for node in every if node.operation is layer]
    if len(nodes) != 1 or len(nodes[0].outputs) != 1:
        return None
    output = nodes[0].outputs[0]
    if any(output is tensor for tensor in keras.tree.flatten(graph._outputs)):
        return None
    users = [node for node in every if any(output is tensor for tensor in node.input_tensors)]
    if len(users) != 1 or len(users[0].input_tensors) != 1:
        return None
    operation = users[0].operation
    calls = sum(node.operation is operation for node in every)
    return operation if isinstance(operation, Layer) and calls == 1 else None


def _absorbed(layer: Layer, after: Layer) -> Layer | None:
    """A layer that does the work of both, or `None` if there is none."""
    cls = replacement(layer)
    if (
        cls is None
        or getattr(layer, "activation", None) is not keras.activations.linear
        or layer.dtype_policy != after.dtype_policy
    ):
        return None
    if type(after) is keras.layers.BatchNormalization:
        last = after.axis in (-1, len(after.get_build_config()["input_shape"]) - 1)
        return cls.scaled(layer, *_affine(after)) if last else None
    activation = activation_of(after)
    if activation is None or fused_activation_name(activation)[1] is not None:
        return None
    new = copy_layer(layer)
    _copy_weights(layer, new)
    new.activation = activation
    return new


def _affine(norm: Any) -> tuple[Any, Any]:
    """Scale and shift of a BatchNormalization at inference, float32 `[channels]`."""
    variance = norm.moving_variance.numpy().astype(np.float64)
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * norm.gamma.numpy()
    shift = -norm.moving_mean.numpy().astype(np.float64) * scale
    if norm.center:
        shift = shift + norm.beta.numpy()
    return scale, shift


def activation_of(layer: Any) -> Any:
    """The function of a layer that is nothing but an activation, or `None`."""
    if type(layer) is keras.layers.Activation:
        return layer.activation
    if type(layer) is keras.layers.ReLU and not layer.negative_slope and not layer.threshold:
        return {None: keras.activations.relu, 6: keras.activations.relu6}.get(layer.max_value)
    return None


def _copy_weights(old: Layer, new: Layer) -> None:
    for source, target in zip(old.variables, new.variables, strict=True):
        target.assign(source)
