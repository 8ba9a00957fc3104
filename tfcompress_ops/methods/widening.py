"""Several networks of equal architecture side by side in one, whose layers are as many times wider.

Members are stacks of Dense layers and what works on each unit by itself. The first Dense layer
takes the same inputs in all of them: its kernels stand side by side, one matrix product for all.
Behind it every member has its own activations, `[batch, member, units]`, and the products are
batched:

    y[b, m, o] = sum_i x[b, m, i] * w[m, i, o] + bias[m, o]
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras.layers import Layer

from tfcompress_ops.rebuilding import copy_layer

# These treat every unit by itself, or (softmax) the last axis alone, and have no weights.
_WITHOUT_WEIGHTS = (
    *(keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU),
    *(keras.layers.Softmax, keras.layers.Dropout, keras.layers.Identity),
)


def widened(models: Sequence[keras.Model], inputs: Any) -> Any | None:
    """The outputs of all members, made by one network.

    Args:
        models: Sequential or Functional models with equal inputs.
        inputs: A symbolic input of theirs.

    Returns:
        A symbolic tensor `[batch, member, classes]`, or `None` where members are no stacks of the
        layers named above, differ in more than weights and names, or take no rows of features.
    """
    stacks = [_stack(model) for model in models]
    if len({len(stack) for stack in stacks}) != 1:
        return None
    x, apart = inputs, False
    for layers in zip(*stacks, strict=True):
        if not _alike(layers):
            return None
        if isinstance(layers[0], keras.layers.Dense):
            x = _batched(layers, x) if apart else _side_by_side(layers, x)
            apart = True
        elif isinstance(layers[0], keras.layers.BatchNormalization):
            if not apart:  # It would normalise the same inputs differently for each member.
                return None
            x = _normalised(layers, x)
        elif apart:
            x = copy_layer(layers[0])(x)
        else:
            return None
    return x if apart else None


def _stack(model: keras.Model) -> list[Layer]:
    """The layers of a model that is a chain of such as can be widened, or none."""
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 2:
        return []
    functional = model._functional if isinstance(model, keras.Sequential) else model
    layers: list[Layer] = []
    tensor = functional.outputs[0]
    while not isinstance(tensor._keras_history.operation, keras.layers.InputLayer):
        layer = tensor._keras_history.operation
        node = layer._inbound_nodes[tensor._keras_history.node_index]
        if not _can_be_widened(layer) or layer in layers or len(node.input_tensors) != 1:
            return []
        layers.append(layer)
        (tensor,) = node.input_tensors
    return layers[::-1]


def _can_be_widened(layer: Layer) -> bool:
    if type(layer) is keras.layers.BatchNormalization:
        return layer.axis in (-1, 1)
    if type(layer) is keras.layers.Dense:
        return layer.quantization_mode is None and not layer.lora_enabled
    if type(layer) is keras.layers.Softmax:
        return bool(layer.axis == -1)
    return type(layer) in _WITHOUT_WEIGHTS


def _alike(layers: Sequence[Layer]) -> bool:
    """Whether layers differ in weights and names alone."""

    def kind(layer: Layer) -> Any:
        config = {**layer.get_config(), "name": None}
        return type(layer), config, [tuple(weight.shape) for weight in layer.weights]

    return all(kind(layer) == kind(layers[0]) for layer in layers[1:])


def _side_by_side(layers: Sequence[Any], x: Any) -> Any:
    """The first Dense layer of all members: `[batch, in]` to `[batch, member, units]`."""
    first = layers[0]
    dense = keras.layers.Dense(
        len(layers) * first.units,
        use_bias=first.use_bias,
        dtype=first.dtype_policy,
        trainable=first.trainable,
        name=first.name,
    )
    x = dense(x)
    dense.set_weights(
        [np.concatenate(arrays, -1) for arrays in zip(*map(_weights, layers), strict=True)]
    )
    x = keras.layers.Reshape((len(layers), first.units))(x)
    return keras.layers.Activation(first.activation)(x)


def _batched(layers: Sequence[Any], x: Any) -> Any:
    """A later one: `[batch, member, in]` to `[batch, member, units]`."""
    first = layers[0]
    dense = keras.layers.EinsumDense(
        "bmi,mio->bmo",
        output_shape=(len(layers), first.units),
        bias_axes="mo" if first.use_bias else None,
        activation=first.activation,
        dtype=first.dtype_policy,
        trainable=first.trainable,
        name=first.name,
    )
    x = dense(x)
    dense.set_weights([np.stack(arrays) for arrays in zip(*map(_weights, layers), strict=True)])
    return x


def _normalised(layers: Sequence[Any], x: Any) -> Any:
    """A BatchNormalization for the units of all members."""
    norm = keras.layers.BatchNormalization.from_config(layers[0].get_config())
    shape = x.shape[1:]
    x = norm(keras.layers.Reshape((shape[0] * shape[1],))(x))
    norm.set_weights(
        [np.concatenate(arrays) for arrays in zip(*map(_weights, layers), strict=True)]
    )
    return keras.layers.Reshape(tuple(shape))(x)


def _weights(layer: Layer) -> list[Any]:
    return [weight.numpy() for weight in layer.weights]
