"""Depthwise convolutions in one op: each channel by itself, bias, activation."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfcompress_ops import ops
from tfcompress_ops.formats.depthwise import Depthwise
from tfcompress_ops.formats.format import Format
from tfcompress_ops.layers.kernel_layer import KernelLayer
from tfcompress_ops.layers.layer import replaces

# What `KernelLayer` calls them to what Keras does.
_RENAMED = {
    "kernel_initializer": "depthwise_initializer",
    "kernel_regularizer": "depthwise_regularizer",
    "kernel_constraint": "depthwise_constraint",
}


def _renamed(arguments: dict[str, Any]) -> dict[str, Any]:
    return {_RENAMED.get(name, name): value for name, value in arguments.items()}


class _WithKernelNames:
    """A layer of either class, with the names of `KernelLayer`."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        found = name if isinstance(self._layer, KernelLayer) else _RENAMED.get(name, name)
        return getattr(self._layer, found)


class _DepthwiseConvolution(KernelLayer):
    """What the depthwise convolutions share; see `DepthwiseConv2D`."""

    rank: int

    format: Depthwise

    own_arguments = (
        "kernel_size",
        "strides",
        "padding",
        "depth_multiplier",
        "data_format",
        "dilation_rate",
        "use_bias",
    )

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        depthwise_regularizer: Any = None,
        depthwise_constraint: Any = None,
        format: Any = "int8",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            format=format,
            activation=activation,
            kernel_initializer=depthwise_initializer,
            kernel_regularizer=depthwise_regularizer,
            kernel_constraint=depthwise_constraint,
            **kwargs,
        )
        self.format = Depthwise()
        self.kernel_size = self._sizes("kernel_size", kernel_size)
        self.strides = self._sizes("strides", strides)
        self.dilation_rate = self._sizes("dilation_rate", dilation_rate)
        self.padding = padding.lower()
        self.depth_multiplier = depth_multiplier
        self.data_format = data_format or "channels_last"
        self.use_bias = use_bias
        if self.padding not in ("valid", "same"):
            raise ValueError(f"`padding` must be 'valid' or 'same'; received {padding!r}.")
        reason = self._unsupported(self)
        if reason is not None:
            raise ValueError(
                f"`{type(self).__name__}` must have equal strides, channels last and one output a "
                f"channel: {reason}. Use keras.layers instead."
            )

    def _sizes(self, name: str, value: int | Sequence[int]) -> tuple[int, ...]:
        sizes = (value,) * self.rank if isinstance(value, int) else tuple(value)
        if len(sizes) != self.rank or any(size < 1 for size in sizes):
            raise ValueError(
                f"`{name}` must be {self.rank} positive integers or one for all; received {value}."
            )
        return sizes

    @staticmethod
    def _unsupported(layer: Any) -> str | None:
        if layer.depth_multiplier != 1:
            return f"its depth_multiplier is {layer.depth_multiplier}"
        if layer.data_format != "channels_last":
            return f"its data_format is {layer.data_format}"
        if len(set(layer.strides)) > 1:
            return f"its strides are {tuple(layer.strides)}"
        return None

    @classmethod
    def refusal(cls, layer: Any) -> str | None:
        """Says no to several outputs a channel, channels first and unequal strides."""
        return cls._unsupported(layer) or super().refusal(layer)

    @classmethod
    def format_for(cls, format: Format) -> Format | None:
        """`Depthwise()`, whatever is asked for."""
        return Depthwise()

    @classmethod
    def float_kernel(cls, layer: keras.layers.Layer) -> Any:
        """`None`: zeros in so few weights would save nothing."""
        return None

    @classmethod
    def arguments(cls, layer: keras.layers.Layer) -> dict[str, Any]:
        """Constructor arguments of a layer of either class, as live objects."""
        return _renamed(super().arguments(_WithKernelNames(layer)))

    @classmethod
    def to_matrix(cls, layer: Any, kernel: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """`[taps, channels]`."""
        return kernel.reshape(-1, kernel.shape[-2])

    @classmethod
    def assign_matrix(cls, layer: keras.layers.Layer, matrix: npt.NDArray[Any]) -> None:
        """Gives a Keras layer other weights."""
        layer.kernel.assign(np.reshape(matrix, layer.kernel.shape))

    @classmethod
    def scaled(
        cls, layer: keras.layers.Layer, scale: npt.NDArray[Any], shift: npt.NDArray[Any]
    ) -> keras.layers.Layer | None:
        """A Keras layer that gives `scale * outputs + shift`."""
        return cls._scaled(layer, scale, shift)

    def kernel_shape(self, input_shape: Any) -> tuple[int, ...]:
        """`(*kernel_size, channels, 1)`.

        Raises:
            ValueError: If the channels are unknown.
        """
        if len(input_shape) != self.rank + 2 or input_shape[-1] is None:
            raise ValueError(
                f"`input_shape` must have rank {self.rank + 2} and known channels for layer "
                f"{self.name!r}; received {input_shape}."
            )
        return (*self.kernel_size, int(input_shape[-1]), 1)

    def matrix_shape(self, input_shape: Any) -> tuple[int, int]:
        """`(kernel height * kernel width, channels)`."""
        *sizes, channels, _ = self.kernel_shape(input_shape)
        return math.prod(sizes), channels

    def bias_shape(self, input_shape: Any) -> tuple[int, ...] | None:
        """`(channels,)`."""
        return (int(input_shape[-1]),) if self.use_bias else None

    def call(self, inputs: Any) -> Any:
        """Convolves each channel in float32, adds the bias and applies the activation.

        Args:
            inputs: Tensor `(batch, *space, channels)`.

        Returns:
            Tensor `(batch, *space, channels)` of the compute dtype.
        """
        lead = (1,) * (2 - self.rank)
        geometry = ops.Geometry(
            kernel_size=(*lead, *self.kernel_size),
            strides=(self.strides[0], self.strides[0]),
            dilations=(*lead, *self.dilation_rate),
            padding=self.padding,
        )
        x = tf.cast(inputs, tf.float32)
        x = x[:, tf.newaxis] if lead else x
        y = self.format.convolve(x, self._packed, geometry, self.bias, self.activation)
        return tf.cast(tf.squeeze(y, 1) if lead else y, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the convolution's outputs."""
        geometry = ops.Geometry(self.kernel_size, self.strides, self.dilation_rate, self.padding)
        space = [
            None if size is None else geometry.output_size(axis, size)
            for axis, size in enumerate(input_shape[1:-1])
        ]
        return (input_shape[0], *space, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return _renamed(super().get_config())


@replaces(keras.layers.DepthwiseConv2D)
class DepthwiseConv2D(_DepthwiseConvolution):
    """`keras.layers.DepthwiseConv2D` that convolves, adds the bias and activates in one op.

    Its weights stay float32, whatever format is asked for, and can be trained.

    Args:
        kernel_size: Height and width of the window.
        strides: Steps of the window, the same in both directions.
        padding: `"valid"` or `"same"`.
        depth_multiplier: 1.
        data_format: `"channels_last"` or `None`.
        dilation_rate: Steps between the inputs of a window.
        activation: Anything that `keras.activations.get` accepts.
        use_bias: Whether a bias is added.
        depthwise_initializer: Initializer of the weights of a new layer.
        depthwise_regularizer: Kept for `tfc.decompress`.
        depthwise_constraint: Kept for `tfc.decompress`.
        format: Any format; the layer's is `Depthwise`.
        **kwargs: Arguments of `KernelLayer`.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, new_height, new_width, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> DepthwiseConv2D(3, padding="same")(np.ones((1, 5, 5, 2), "float32")).shape
        TensorShape([1, 5, 5, 2])
    """

    rank = 2


@replaces(keras.layers.DepthwiseConv1D)
class DepthwiseConv1D(_DepthwiseConvolution):
    """`keras.layers.DepthwiseConv1D` in one op; see `DepthwiseConv2D`.

    Input shape:
        `(batch, steps, channels)`.

    Output shape:
        `(batch, new_steps, channels)`.

    Example:
        >>> DepthwiseConv1D(3)(np.ones((1, 5, 2), "float32")).shape
        TensorShape([1, 3, 2])
    """

    rank = 1
