"""Layers whose matrices are layers of their own, standing in for Keras layers that hold several.

An LSTM cell has two matrices, a separable convolution two kernels of which one is a matrix. Each is
split into layers of one matrix; those are then compressed as any others are. Adding one is a class
that derives from `CompositeLayer` and a Keras layer under `@splits(keras.layers.X)`.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import keras
from keras.layers import Layer

_SPLITS: dict[type[Layer], type["CompositeLayer"]] = {}
_C = TypeVar("_C", bound=type["CompositeLayer"])


class CompositeLayer(abc.ABC):
    """A Keras layer whose matrices are layers that it holds.

    It computes what the Keras layer of the same name computes, and has its config.
    """

    __slots__ = ()  # mixed into a Keras class without a layout of its own

    replaces: ClassVar[type[Layer]]

    @classmethod
    @abc.abstractmethod
    def split_refusal(cls, layer: Layer) -> str | None:
        """Why a built layer of the class that this one replaces cannot be split, or `None`."""

    @abc.abstractmethod
    def take_weights(self, layer: Layer) -> None:
        """Takes over the weights of a built Keras layer."""

    @abc.abstractmethod
    def give_weights(self, layer: Layer) -> None:
        """Gives a built Keras layer the weights; the inverse of `take_weights`."""

    def held_by(self, holder: Layer) -> None:  # noqa: B027  (most have nothing to do)
        """Called with each layer that holds this one, once it is in its place."""

    @classmethod
    def from_layer(cls, layer: Layer) -> Layer:
        """Splits a built layer of the class that this one replaces.

        Args:
            layer: The layer; it is left as it is.

        Returns:
            A built layer of the same name and config, and the same outputs.
        """
        this: Any = cls
        new = this.from_config(layer.get_config())
        new.build_from_config(layer.get_build_config())
        new.take_weights(layer)
        new.trainable = layer.trainable
        return new

    def to_layer(self) -> Layer:
        """The Keras layer in one piece, with the same weights."""
        this: Any = self
        layer = self.replaces.from_config(self.plain_config())
        layer.build_from_config(self.plain_build_config())
        self.give_weights(layer)
        layer.trainable = this.trainable
        return layer

    def plain_build_config(self) -> Any:
        """The build config that the Keras layer has."""
        this: Any = self
        return {"input_shape": this.split_input_shape}

    def plain_config(self) -> Any:
        """The config that the Keras layer has."""
        return self.replaces.get_config(self)


def splits(keras_class: type[Layer]) -> Callable[[_C], _C]:
    """Class decorator: makes a composite the stand-in of a Keras layer class (no subclasses)."""

    def register(cls: _C) -> _C:
        cls.replaces = keras_class
        _SPLITS[keras_class] = cls
        registered: _C = keras.saving.register_keras_serializable(package="tfcompress")(cls)
        return registered

    return register


def composite(layer: Layer) -> type[CompositeLayer] | None:
    """The composite that a layer can be split into, or `None`."""
    cls = _SPLITS.get(type(layer))
    if cls is None or not layer.built or cls.split_refusal(layer) is not None:
        return None
    return cls


def split_refusal(layer: Layer) -> str | None:
    """Why a layer that a composite exists for cannot be split; `None` where that is no question."""
    cls = _SPLITS.get(type(layer))
    return None if cls is None or not layer.built else cls.split_refusal(layer)
