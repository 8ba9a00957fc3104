"""What has no matrix and runs in one op all the same: normalisations, sums with an activation."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras.layers import Layer

from tfcompress_ops.layers.absorbed import Absorbed
from tfcompress_ops.layers.fused import Add, FusedLayer, fused
from tfcompress_ops.ops import fused_activation_name
from tfcompress_ops.preparation import activation_of, followers
from tfcompress_ops.structure import layer_paths


def fuse(
    model: keras.Model, chosen: Callable[[str], bool]
) -> tuple[dict[Layer, Layer], dict[Layer, Layer]]:
    """Finds layers of a model that one op can do the work of.

    A LayerNormalization over the last axis, and an Add of equal shapes that nothing but an
    activation follows, which becomes an `Absorbed`.

    Args:
        model: A model; it is left as it is.
        chosen: Takes the path of a layer and tells whether it may be replaced.

    Returns:
        Layer to that which takes its place, and layer that is done without to the one that does its
        work.
    """
    new_layers: dict[Layer, Layer] = {}
    absorbed: dict[Layer, Layer] = {}
    for path, layer in layer_paths(model).items():
        if layer in new_layers or not chosen(path):
            continue
        cls = fused(layer)
        if cls is not None:
            new_layers[layer] = cls.from_layer(layer)
        # A sum alone gains some 20 us where it is small, and loses as much where it is not.
        after = _activation_after(model, layer) if _adds_equal_shapes(layer) else None
        if after is not None:
            new_layers[layer] = Add(activation_of(after), name=layer.name, dtype=layer.dtype_policy)
            new_layers[after] = Absorbed(
                name=after.name, dtype=after.dtype_policy, trainable=after.trainable
            )
            absorbed[after] = layer
    return new_layers, absorbed


def plain(layer: Layer) -> Layer | None:
    """The Keras layer that a fused one stands for; `None` for others."""
    return layer.to_layer() if isinstance(layer, FusedLayer) else None


def _adds_equal_shapes(layer: Any) -> bool:
    """Whether a layer is a sum of floating-point tensors whose shapes are known and the same."""
    if type(layer) is not keras.layers.Add:
        return False
    tensors = [tensor for node in layer._inbound_nodes for tensor in node.input_tensors]
    shapes = {tuple(tensor.shape[1:]) for tensor in tensors}
    return (
        len(shapes) == 1
        and None not in shapes.pop()
        and all(tf.as_dtype(tensor.dtype).is_floating for tensor in tensors)
    )


def _activation_after(model: keras.Model, layer: Any) -> Layer | None:
    """The activation that alone takes the outputs of a layer and can be fused, or `None`."""
    for after in followers(model, layer)[:1]:
        activation = activation_of(after)
        if activation is None or layer.dtype_policy != after.dtype_policy:
            return None
        if fused_activation_name(activation)[1] is None:
            return after
    return None
