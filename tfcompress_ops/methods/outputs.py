"""What a model's outputs are: logits, or probabilities, of classes or of single labels."""

from collections.abc import Callable
from typing import Any

import keras

from tfcompress_ops.structure import is_graph

Activation = Callable[[Any], Any]

_TELLING = (keras.activations.linear, keras.activations.softmax, keras.activations.sigmoid)


def output_activation(model: keras.Model) -> Activation | None:
    """What makes the only output of a model.

    Args:
        model: A built model.

    Returns:
        `keras.activations.linear` (outputs are logits), `softmax` or `sigmoid` (probabilities), or
        `None` where the last layer does not tell.
    """
    layer = model
    while is_graph(layer):
        layer = layer.outputs[0]._keras_history.operation
    if isinstance(layer, keras.layers.Softmax):
        return keras.activations.softmax  # type: ignore[no-any-return]
    activation = getattr(layer, "activation", None)
    return activation if activation in _TELLING else None


def check_one_output(model: keras.Model, argument: str) -> None:
    """Checks that a Sequential or Functional model has one output."""
    if is_graph(model) and len(model.outputs) != 1:
        raise ValueError(
            f"`{argument}` must have one output; received {model.name!r}, which has "
            f"{len(model.outputs)}. Make a model of one of them: keras.Model(model.inputs, output)."
        )


def alike(first: Any, second: Any) -> bool:
    """Whether two tensors have as many axes, and equal sizes beside the batch where known."""
    shapes = tuple(first.shape), tuple(second.shape)
    return len(shapes[0]) == len(shapes[1]) and all(
        a == b or a is None or b is None for a, b in zip(shapes[0][1:], shapes[1][1:], strict=True)
    )
