"""Convolutions on packed weights: products of a matrix with patches of the inputs."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress_ops import ops
from tfcompress_ops.layers.kernel_layer import KernelLayer
from tfcompress_ops.layers.layer import replaces

# Patches are made and multiplied a block at a time. A block of 8 MiB of float32 takes milliseconds,
# against some 50 us for a step of a loop in a graph, and holds what one image of 224 x 224 needs in
# any layer of ResNet50: at batch 1 there is no loop, and no copy of its outputs.
_BLOCK_ELEMENTS = 2 << 20


class _Convolution(KernelLayer):
    """What the convolutions share; see `Conv2D`."""

    rank: int

    own_arguments = (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "data_format",
        "dilation_rate",
        "groups",
        "use_bias",
    )

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        format: Any = "int8",
        **kwargs: Any,
    ) -> None:
        super().__init__(format=format, activation=activation, **kwargs)
        self.filters = filters
        self.kernel_size = self._sizes("kernel_size", kernel_size)
        self.strides = self._sizes("strides", strides)
        self.dilation_rate = self._sizes("dilation_rate", dilation_rate)
        self.padding = padding.lower()
        self.data_format = data_format or "channels_last"
        self.groups = groups
        self.use_bias = use_bias
        allowed = ("valid", "same", "causal")[: 3 if self.rank == 1 else 2]
        if self.padding not in allowed:
            raise ValueError(f"`padding` must be one of {allowed}; received {padding!r}.")
        if self.data_format != "channels_last":
            raise ValueError(
                f"`data_format` must be 'channels_last'; received {data_format!r}. Move the axis."
            )
        if groups != 1:
            raise ValueError(f"`groups` must be 1; received {groups}. Use keras.layers instead.")
        if not isinstance(filters, int) or filters < 1:
            raise ValueError(f"`filters` must be a positive integer; received {filters!r}.")

    def _sizes(self, name: str, value: int | Sequence[int]) -> tuple[int, ...]:
        sizes = (value,) * self.rank if isinstance(value, int) else tuple(value)
        if len(sizes) != self.rank or any(size < 1 for size in sizes):
            raise ValueError(
                f"`{name}` must be {self.rank} positive integers or one for all; received {value}."
            )
        return sizes

    @classmethod
    def refusal(cls, layer: Any) -> str | None:
        """Says no to groups, to channels first, and to what Keras quantised."""
        if layer.groups != 1:
            return f"it has {layer.groups} groups, each a matrix of its own"
        if layer.data_format != "channels_last":
            return "its data_format is channels_first"
        return super().refusal(layer)

    def kernel_shape(self, input_shape: Any) -> tuple[int, ...]:
        """`(*kernel_size, channels, filters)`.

        Raises:
            ValueError: If the channels are unknown.
        """
        if len(input_shape) != self.rank + 2 or input_shape[-1] is None:
            raise ValueError(
                f"`input_shape` must have rank {self.rank + 2} and known channels for layer "
                f"{self.name!r}; received {input_shape}."
            )
        return (*self.kernel_size, int(input_shape[-1]), self.filters)

    def matrix_shape(self, input_shape: Any) -> tuple[int, int]:
        """`(kernel height * width * channels, filters)`."""
        *sizes, filters = self.kernel_shape(input_shape)
        return math.prod(sizes), filters

    def bias_shape(self, input_shape: Any) -> tuple[int, ...] | None:
        """`(filters,)`."""
        return (self.filters,) if self.use_bias else None

    def call(self, inputs: Any) -> Any:
        """Multiplies patches, adds the bias and applies the activation.

        Args:
            inputs: Tensor `(batch, *space, channels)`.

        Returns:
            Tensor `(batch, *space, filters)`.
        """
        x = tf.cast(inputs, self.compute_dtype)
        if all(size == 1 for size in (*self.kernel_size, *self.strides)):
            return self.matmul(x, self.activation)
        if self.rank == 1:
            return tf.squeeze(self._windows(x[:, tf.newaxis], lead=(1,)), 1)
        return self._windows(x, lead=())

    def _windows(self, x: tf.Tensor, lead: tuple[int, ...]) -> tf.Tensor:
        """The convolution over patches, a block of them at a time."""
        geometry = ops.Geometry(
            kernel_size=(*lead, *self.kernel_size),
            strides=(*lead, *self.strides),
            dilations=(*lead, *self.dilation_rate),
            padding=self.padding,
        )
        space = geometry.output_space(tf.shape(x)[1], tf.shape(x)[2])
        total = tf.shape(x)[0] * space[0] * space[1]
        in_features, _ = self.matrix_shape(self._input_shape)
        block = max(1, _BLOCK_ELEMENTS // in_features)
        known = None not in x.shape[1:3]
        static = geometry.output_space(*x.shape[1:3]) if known else (None, None)

        def product(first: Any) -> tf.Tensor:
            rows = tf.minimum(block, total - first)
            patches = ops.patches(x, first, rows, geometry)
            return self.matmul(patches, self.activation)

        if all(size == 1 for size in self.kernel_size):  # no more than x itself
            y = self.matmul(ops.patches(x, 0, total, geometry), self.activation)
        elif None not in (x.shape[0], *static) and x.shape[0] * static[0] * static[1] <= block:
            y = product(0)
        else:
            steps = (total + block - 1) // block
            outputs = tf.TensorArray(
                x.dtype, size=steps, infer_shape=False, element_shape=(None, self.filters)
            )
            _, outputs = tf.while_loop(
                lambda step, _: step < steps,
                lambda step, outputs: (step + 1, outputs.write(step, product(step * block))),
                (tf.constant(0), outputs),
                parallel_iterations=1,  # so that one block of patches lives at a time
            )
            y = outputs.concat()
        y = tf.reshape(y, tf.stack([tf.shape(x)[0], *space, self.filters]))
        return tf.ensure_shape(y, (x.shape[0], *static, self.filters))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the convolution's outputs."""
        geometry = ops.Geometry(self.kernel_size, self.strides, self.dilation_rate, self.padding)
        space = [
            None if size is None else geometry.output_size(axis, size)
            for axis, size in enumerate(input_shape[1:-1])
        ]
        return (input_shape[0], *space, self.filters)


@replaces(keras.layers.Conv2D)
class Conv2D(_Convolution):
    """`keras.layers.Conv2D` whose kernel stays in a compressed format.

    The kernel is the matrix `[height * width * channels, filters]`. A 1x1 convolution multiplies
    the inputs as they are; others multiply patches, of which a block of at most 8 MiB (as float32)
    is made at a time. With activations quantised "dynamic", each patch has a scale of its own.

    Args:
        filters: Number of outputs.
        kernel_size: Height and width of the window.
        strides: Steps of the window.
        padding: `"valid"` or `"same"`.
        data_format: `"channels_last"` or `None`.
        dilation_rate: Steps between the inputs of a window.
        groups: 1.
        activation: Anything that `keras.activations.get` accepts.
        use_bias: Whether a bias is added.
        format: A `Format` such as `tfc.Int8()`, or the name of one.
        **kwargs: Arguments of `KernelLayer`.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, new_height, new_width, filters)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> Conv2D(4, 3, padding="same", format="int8")(np.ones((1, 5, 5, 2), "float32")).shape
        TensorShape([1, 5, 5, 4])
    """

    rank = 2


@replaces(keras.layers.Conv1D)
class Conv1D(_Convolution):
    """`keras.layers.Conv1D` whose kernel stays in a compressed format; see `Conv2D`.

    `padding` may be `"causal"` too: an output sees no later input.

    Input shape:
        `(batch, steps, channels)`.

    Output shape:
        `(batch, new_steps, filters)`.

    Example:
        >>> Conv1D(4, 3, format="int8")(np.ones((1, 5, 2), "float32")).shape
        TensorShape([1, 3, 4])
    """

    rank = 1
