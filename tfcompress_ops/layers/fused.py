"""Keras layers without a matrix whose work one op does on a CPU; `compress` puts them in.

Adding one is a class that derives from `FusedLayer` and a Keras layer under
`@fuses(keras.layers.X)`. On a machine with a GPU, and with dtypes that the ops do not take, they
run as the Keras layer does.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import keras
from keras.layers import Layer

from tfcompress_ops import float_ops

_FUSED: dict[type[Layer], type["FusedLayer"]] = {}
_F = TypeVar("_F", bound=type["FusedLayer"])


class FusedLayer(abc.ABC):
    """A Keras layer that computes what it always does, with its config and weights, in one op."""

    __slots__ = ()  # mixed into a Keras class without a layout of its own

    replaces: ClassVar[type[Layer]]

    @classmethod
    @abc.abstractmethod
    def fused_refusal(cls, layer: Layer) -> str | None:
        """Why one op cannot do what a built layer of the replaced class does, or `None`."""

    @classmethod
    def from_layer(cls, layer: Layer) -> Layer:
        """Copies a built layer of the class that this one replaces, weights included."""
        return _converted(layer, cls)

    def to_layer(self) -> Layer:
        """The Keras layer with the same weights."""
        return _converted(self, self.replaces)


def fuses(keras_class: type[Layer]) -> Callable[[_F], _F]:
    """Class decorator: makes a fused layer the stand-in of a Keras layer class (no subclasses)."""

    def register(cls: _F) -> _F:
        cls.replaces = keras_class
        _FUSED[keras_class] = cls
        registered: _F = keras.saving.register_keras_serializable(package="tfcompress")(cls)
        return registered

    return register


def fused(layer: Layer) -> type[FusedLayer] | None:
    """The class that does the work of a layer in one op, or `None`."""
    cls = _FUSED.get(type(layer))
    if cls is None or not layer.built or cls.fused_refusal(layer) is not None:
        return None
    return cls


def _converted(layer: Any, cls: Any) -> Layer:
    new: Layer = cls.from_config(layer.get_config())
    new.build_from_config(layer.get_build_config())
    for source, target in zip(layer.variables, new.variables, strict=True):
        target.assign(source)
    return new


@fuses(keras.layers.LayerNormalization)
class LayerNormalization(FusedLayer, keras.layers.LayerNormalization):  # type: ignore[misc]
    """`keras.layers.LayerNormalization` over the last axis, in one op.

    Input shape:
        `(..., features)`.

    Output shape:
        The input shape.

    Example:
        >>> LayerNormalization()(np.array([[1, 3]], "float32")).numpy().round(2)
        array([[-1.,  1.]], dtype=float32)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_jit = False

    @classmethod
    def fused_refusal(cls, layer: Any) -> str | None:
        """Says no to other axes than the last, and to the deprecated `rms_scaling`."""
        rank = len(layer.get_build_config()["input_shape"])
        if layer.rms_scaling:
            return "its rms_scaling is deprecated"
        return None if list(layer.axis) in ([-1], [rank - 1]) else f"its axis is {layer.axis}"

    def call(self, inputs: Any) -> Any:
        """Normalises each row.

        Args:
            inputs: Tensor `(..., features)`.

        Returns:
            Tensor of the same shape, of the compute dtype.
        """
        x = keras.ops.convert_to_tensor(inputs)
        refused = self.fused_refusal(self) is not None
        if refused or not isinstance(self.epsilon, float) or not float_ops.on_cpu(x):
            return super().call(inputs)
        y = float_ops.layer_norm(x, self.gamma, self.beta, epsilon=self.epsilon)
        return keras.ops.cast(y, self.compute_dtype)


@keras.saving.register_keras_serializable(package="tfcompress")
class Add(keras.layers.Add):  # type: ignore[misc]
    """`keras.layers.Add` and the activation that follows it, in one op.

    Args:
        activation: Anything that `keras.activations.get` accepts.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape:
        A list of equal shapes; as with `keras.layers.Add` they may also broadcast.

    Output shape:
        The inputs' common shape.

    Example:
        >>> Add("relu")([np.array([[1.0, -3]]), np.array([[1.0, 2]])]).numpy()
        array([[2., 0.]], dtype=float32)
    """

    def __init__(self, activation: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)
        self.supports_jit = False

    def call(self, inputs: Any) -> Any:
        """Adds, then activates.

        Args:
            inputs: List of tensors.

        Returns:
            Tensor of the compute dtype.
        """
        tensors = [keras.ops.convert_to_tensor(x) for x in inputs]
        shape = tensors[0].shape
        # Sizes that are known at run time only may differ there, but for that of the batch.
        equal = shape.rank and all(x.shape == shape for x in tensors)
        if not equal or not shape[1:].is_fully_defined() or not float_ops.on_cpu(*tensors):
            return self.activation(super().call(inputs))
        return float_ops.add(tensors, self.activation)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "activation": activation}
