"""Layers that are trained with quantised weights and inputs, for `tfc.compress` to pack.

The kernel that the optimizer updates stays floating-point; the layer multiplies by what its
quantiser makes of it:

    output = activation(quantized(inputs) @ quantized(kernel) + bias)

Levels are multiplied first and scaled afterwards, as the kernels do it, so that sums of integers
are exact in training, too.
"""

from typing import Any

import keras
import tensorflow as tf

from tfcompress_ops import quantizers
from tfcompress_ops.formats.format import Format
from tfcompress_ops.layers.convolution import Conv2D
from tfcompress_ops.layers.dense import Dense
from tfcompress_ops.layers.layer import packs_into

_FEATURES = (-1,)


class Quantized(keras.layers.Layer):  # type: ignore[misc]
    """What goes before a Keras layer class to give it quantisers."""

    def __init__(
        self,
        *args: Any,
        kernel_quantizer: Any = None,
        input_quantizer: Any = None,
        **kwargs: Any,
    ) -> None:
        self.kernel_quantizer = quantizers.get(kernel_quantizer)
        self.input_quantizer = quantizers.get(input_quantizer)
        super().__init__(*args, **kwargs)

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Adds a variable that is read as it is stored: what is quantised is not rounded before."""
        return super().add_weight(*args, **{"autocast": False, **kwargs})

    @property
    def latent_kernel(self) -> Any:
        """The floating-point variable that is trained."""
        return self._kernel

    @property
    def kernel(self) -> Any:
        """The quantised kernel, a tensor; the variable itself where it is not quantised."""
        if self.kernel_quantizer is None:
            return self._kernel
        return self.kernel_quantizer(self._kernel)

    @property
    def prunable_kernel(self) -> Any:
        """The latent kernel, or `None` where its zeros do not stay zeros when it is quantised."""
        quantizer = self.kernel_quantizer
        return self._kernel if quantizer is None or quantizer.keeps_zeros else None

    def trained_format(self) -> Format:
        """The format that computes what this layer does.

        Raises:
            ValueError: If there is none.
        """
        return quantizers.format_of(self.kernel_quantizer, self.input_quantizer)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "kernel_quantizer": keras.saving.serialize_keras_object(self.kernel_quantizer),
            "input_quantizer": keras.saving.serialize_keras_object(self.input_quantizer),
        }

    def _quantized_inputs(self, inputs: Any) -> tuple[Any, Any]:
        """Levels of rows of features, and scales `[..., 1]` or `None`."""
        inputs = tf.convert_to_tensor(inputs)
        if self.input_quantizer is None:
            return inputs, None
        return self.input_quantizer.levels(inputs, _FEATURES)

    def _quantized_kernel(self) -> tuple[Any, Any]:
        """Levels in the compute dtype, and scales `[..., 1, out_features]` or `None`."""
        kernel = tf.convert_to_tensor(self._kernel)
        scale = None
        if self.kernel_quantizer is not None:
            kernel, scale = self.kernel_quantizer.levels(kernel, range(kernel.shape.rank - 1))
        return tf.cast(kernel, self.compute_dtype), scale

    def _finish(self, sums: Any, kernel_scale: Any, input_scale: Any) -> Any:
        """Scales, bias, activation of `[..., out_features]`."""
        if kernel_scale is not None:
            if kernel_scale.shape.rank > 0:
                kernel_scale = tf.reshape(kernel_scale, [-1])
            sums *= tf.cast(kernel_scale, sums.dtype)
        if input_scale is not None:
            sums *= input_scale
        if self.bias is not None:
            sums += tf.cast(self.bias, sums.dtype)
        return self.activation(sums)


@keras.saving.register_keras_serializable(package="tfcompress")
@packs_into(Dense)
class QuantDense(Quantized, keras.layers.Dense):  # type: ignore[misc]
    """`keras.layers.Dense` that is trained with a quantised kernel and quantised inputs.

    `tfc.compress` turns it into a `tfc.layers.Dense` of the format `trained_format()`, which gives
    the same outputs.

    Args:
        units: Positive integer, number of outputs.
        *args: Further positional arguments of `keras.layers.Dense`.
        kernel_quantizer: A `tfc.quantizers.Quantizer`, the name of one, or `None`.
        input_quantizer: The same for the inputs, each row of features by itself.
        **kwargs: Arguments of `keras.layers.Dense`. With `SteSign`,
            `kernel_constraint=tfc.constraints.WeightClip()` keeps weights where it has a gradient.

    Input shape:
        `(batch, ..., in_features)`, rank >= 2.

    Output shape:
        `(batch, ..., units)`.

    Raises:
        TypeError, ValueError: If a quantiser is none.

    Example:
        >>> layer = QuantDense(2, kernel_quantizer="SteSign", input_quantizer="SteSign")
        >>> outputs = layer(np.ones((1, 3), "float32"))
        >>> set(np.asarray(layer.kernel).ravel()) <= {-1.0, 1.0}
        True
        >>> layer.trained_format().label
        'binary binary'
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Quantises, multiplies, adds the bias and applies the activation.

        Args:
            inputs: Tensor `(batch, ..., in_features)`.
            training: Not used: inference computes what was trained.

        Returns:
            Tensor `(batch, ..., units)`.
        """
        del training
        x, x_scale = self._quantized_inputs(inputs)
        kernel, scale = self._quantized_kernel()
        return self._finish(keras.ops.matmul(x, kernel), scale, x_scale)


@keras.saving.register_keras_serializable(package="tfcompress")
@packs_into(Conv2D)
class QuantConv2D(Quantized, keras.layers.Conv2D):  # type: ignore[misc]
    """`keras.layers.Conv2D` that is trained with a quantised kernel and quantised inputs.

    `tfc.compress` turns it into a `tfc.layers.Conv2D` of the format `trained_format()`, which gives
    the same outputs.

    Padding is zeros that are quantised like any other input: signs of them are +1. A quantiser of
    the inputs that has scales finds one for each patch that the kernel is multiplied by, which is
    the row of a packed matrix multiplication.

    Args:
        filters: Positive integer, number of outputs.
        kernel_size: Height and width.
        *args: Further positional arguments of `keras.layers.Conv2D`.
        kernel_quantizer: A `tfc.quantizers.Quantizer`, the name of one, or `None`.
        input_quantizer: The same for the inputs.
        **kwargs: Arguments of `keras.layers.Conv2D`; `groups` must be 1 and `data_format`
            `"channels_last"` with an `input_quantizer`.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, new_height, new_width, filters)`.

    Raises:
        TypeError, ValueError: If a quantiser is none, or `groups` or `data_format` does not fit.

    Example:
        >>> layer = QuantConv2D(4, 3, padding="same", kernel_quantizer="SteTern")
        >>> layer(np.ones((1, 5, 5, 2), "float32")).shape
        TensorShape([1, 5, 5, 4])
    """

    def __init__(self, filters: int, kernel_size: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(filters, kernel_size, *args, **kwargs)
        if self.input_quantizer is not None and (
            self.groups != 1 or self.data_format != "channels_last"
        ):
            raise ValueError(
                "`groups` must be 1 and `data_format` 'channels_last' with an `input_quantizer`; "
                f"received groups={self.groups} and data_format={self.data_format!r}."
            )

    def call(self, inputs: Any) -> Any:
        """Quantises, convolves, adds the bias and applies the activation.

        Args:
            inputs: Tensor `(batch, height, width, channels)`.

        Returns:
            Tensor `(batch, new_height, new_width, filters)`.
        """
        if self.input_quantizer is None:
            outputs = self.convolution_op(inputs, tf.cast(self.kernel, self.compute_dtype))
            if self.bias is not None:
                channels = -1 if self.data_format == "channels_last" else 1
                shape = [1] * 4
                shape[channels] = self.filters
                outputs += tf.reshape(tf.cast(self.bias, outputs.dtype), shape)
            return self.activation(outputs)
        patches = tf.image.extract_patches(
            inputs,
            sizes=[1, *self.kernel_size, 1],
            strides=[1, *self.strides, 1],
            rates=[1, *self.dilation_rate, 1],
            padding=self.padding.upper(),
        )
        x, x_scale = self._quantized_inputs(patches)
        kernel, scale = self._quantized_kernel()
        sums = keras.ops.matmul(x, tf.reshape(kernel, [-1, self.filters]))
        return self._finish(sums, scale, x_scale)
