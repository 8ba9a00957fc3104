"""Separable convolutions as a depthwise convolution and a 1x1 convolution, a matrix product."""

from typing import Any, ClassVar

import keras

from tfcompress_ops.layers.composite import CompositeLayer, splits


class _Separable(CompositeLayer):
    """A layer `depthwise`, which has no matrix, and a layer `pointwise`, which is one."""

    __slots__ = ()  # mixed into a Keras class without a layout of its own

    depthwise: Any
    pointwise: Any
    parts: ClassVar[tuple[type[keras.layers.Layer], type[keras.layers.Layer]]]

    @classmethod
    def split_refusal(cls, layer: Any) -> str | None:
        """Says no to channels first."""
        first = layer.data_format == "channels_first"
        return "its data_format is channels_first" if first else None

    def build(self, input_shape: Any) -> None:
        """Makes the two convolutions."""
        this: Any = self
        depthwise, pointwise = self.parts
        this.split_input_shape = tuple(input_shape)
        this.depthwise = depthwise(
            this.kernel_size,
            strides=this.strides,
            padding=this.padding,
            dilation_rate=this.dilation_rate,
            depth_multiplier=this.depth_multiplier,
            use_bias=False,
            depthwise_initializer=this.depthwise_initializer,
            depthwise_regularizer=this.depthwise_regularizer,
            depthwise_constraint=this.depthwise_constraint,
            dtype=this.dtype_policy,
            name="depthwise",
        )
        this.pointwise = pointwise(
            this.filters,
            1,
            activation=this.activation,
            use_bias=this.use_bias,
            kernel_initializer=this.pointwise_initializer,
            kernel_regularizer=this.pointwise_regularizer,
            kernel_constraint=this.pointwise_constraint,
            bias_initializer=this.bias_initializer,
            bias_regularizer=this.bias_regularizer,
            bias_constraint=this.bias_constraint,
            dtype=this.dtype_policy,
            name="pointwise",
        )
        this.depthwise.build(input_shape)
        this.pointwise.build(this.depthwise.compute_output_shape(input_shape))

    def call(self, inputs: Any) -> Any:
        """Convolves each channel, then mixes them."""
        return self.pointwise(self.depthwise(inputs))

    def take_weights(self, layer: Any) -> None:
        """Takes over the kernels and the bias."""
        self.depthwise.kernel.assign(layer.depthwise_kernel)
        self.pointwise.kernel.assign(layer.pointwise_kernel)
        if layer.use_bias:
            self.pointwise.bias.assign(layer.bias)

    def give_weights(self, layer: Any) -> None:
        """Gives the kernels and the bias."""
        layer.depthwise_kernel.assign(self.depthwise.kernel)
        layer.pointwise_kernel.assign(self.pointwise.kernel)
        if layer.use_bias:
            layer.bias.assign(self.pointwise.bias)


@splits(keras.layers.SeparableConv1D)
class SeparableConv1D(_Separable, keras.layers.SeparableConv1D):  # type: ignore[misc]
    """`keras.layers.SeparableConv1D` in two convolutions; see `CompositeLayer`."""

    parts = (keras.layers.DepthwiseConv1D, keras.layers.Conv1D)

    @classmethod
    def split_refusal(cls, layer: Any) -> str | None:
        """Says no to channels first and to causal padding, which depthwise convolutions lack."""
        if layer.padding == "causal":
            return "its padding is causal"
        return super().split_refusal(layer)


@splits(keras.layers.SeparableConv2D)
class SeparableConv2D(_Separable, keras.layers.SeparableConv2D):  # type: ignore[misc]
    """`keras.layers.SeparableConv2D` in two convolutions; see `CompositeLayer`."""

    parts = (keras.layers.DepthwiseConv2D, keras.layers.Conv2D)
