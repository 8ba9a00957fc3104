"""The fully connected layer on packed weights."""

from typing import Any

import keras
import numpy as np

from tfcompress_ops.formats.format import SIGNS_PER_WORD
from tfcompress_ops.layers.kernel_layer import KernelLayer
from tfcompress_ops.layers.layer import Weights, replaces


@replaces(keras.layers.Dense)
class Dense(KernelLayer):
    """`keras.layers.Dense` whose kernel stays in a compressed format.

    `output = activation(inputs @ kernel + bias)`, where `kernel` is what the packed arrays stand
    for. It is not trained; gradients flow to the inputs and to the bias.

    Args:
        units: Positive integer, number of outputs.
        format: A `Format` such as `tfc.Int8()`, or the name of one.
        activation: Anything that `keras.activations.get` accepts. What the format's op can fuse
            runs inside it.
        use_bias: Whether a bias is added.
        kernel_initializer: Initializer of the weights that a new layer packs.
        bias_initializer: Initializer of the bias.
        kernel_regularizer: Kept for `tfc.decompress`; a packed kernel is not regularized.
        bias_regularizer: Regularizer of the bias.
        activity_regularizer: Regularizer of the output.
        kernel_constraint: Kept for `tfc.decompress`; a packed kernel is not constrained.
        bias_constraint: Constraint on the bias.
        **kwargs: Arguments of `keras.layers.Layer`. `dtype` is the policy: `"float32"`,
            `"mixed_bfloat16"` and `"mixed_float16"` among others; packed arrays and the bias do not
            follow it.

    Input shape:
        `(batch, ..., in_features)`, rank >= 2.

    Output shape:
        `(batch, ..., units)`.

    Raises:
        ValueError: If `units` is not positive, or no multiple of 32 where the format packs
            outputs, or the dtype policy computes in float64.

    Example:
        >>> layer = Dense(4, format="int8", activation="relu")
        >>> layer(np.ones((2, 3), "float32")).shape
        TensorShape([2, 4])
    """

    own_arguments = ("units", "use_bias")

    def __init__(
        self,
        units: int,
        format: Any = "int8",
        activation: Any = None,
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        if not isinstance(units, int) or isinstance(units, bool) or units <= 0:
            raise ValueError(f"`units` must be a positive integer; received {units!r}.")
        super().__init__(format=format, activation=activation, **kwargs)
        if self.format.packed_outputs and units % SIGNS_PER_WORD:
            raise ValueError(
                f"`units` must be a multiple of {SIGNS_PER_WORD} where {self.format} packs its "
                f"outputs; received {units}."
            )
        self.units = units
        self.use_bias = use_bias
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True

    @classmethod
    def refusal(cls, layer: keras.layers.Dense) -> str | None:
        """Says no to what Keras quantised otherwise than to int8 in -127 ... 127."""
        mode = layer.quantization_mode
        if mode is None:
            return None
        if mode != "int8":
            return f"Keras has quantised it to {mode}, which no format holds exactly"
        if layer.lora_enabled:
            return "it has LoRA weights beside an int8 kernel; merge them first"
        if int(keras.ops.min(layer._kernel)) < -127:
            return "its int8 kernel holds -128, which is outside of -127 ... 127"
        return None

    @classmethod
    def source_weights(cls, layer: keras.layers.Dense) -> Weights:
        """The kernel, LoRA merged, or the int8 values that Keras quantised it to."""
        if layer.quantization_mode != "int8":
            return super().source_weights(layer)
        bias = None if layer.bias is None else layer.bias.numpy().astype(np.float32)
        # Keras stores the inverse, 127 / max |w|, and divides by it.
        scale = 1 / layer.kernel_scale.numpy().astype(np.float32)
        return Weights(layer._kernel.numpy(), scale, bias)

    def matrix_shape(self, input_shape: Any) -> tuple[int, int]:
        """`(in_features, units)`.

        Raises:
            ValueError: If the last dimension is unknown.
        """
        if not input_shape or input_shape[-1] is None:
            raise ValueError(
                f"`input_shape` must have a known last dimension for layer {self.name!r}; received "
                f"{input_shape}. Give the model an Input with that dimension."
            )
        signs = SIGNS_PER_WORD if self.format.packed_inputs else 1
        return int(input_shape[-1]) * signs, self.units

    def kernel_shape(self, input_shape: Any) -> tuple[int, ...]:
        """`(in_features, units)`."""
        return self.matrix_shape(input_shape)

    def bias_shape(self, input_shape: Any) -> tuple[int, ...] | None:
        """`(units,)`, or `None` without a bias."""
        return (self.units,) if self.use_bias else None

    def build_rest(self, input_shape: Any) -> None:
        """Creates the bias."""
        super().build_rest(input_shape)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})

    def call(self, inputs: Any) -> Any:
        """Multiplies, adds the bias and applies the activation.

        Args:
            inputs: Tensor `(batch, ..., in_features)`.

        Returns:
            Tensor `(batch, ..., units)`.
        """
        return self.matmul(inputs, self.activation)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The input shape with `units`, or the words of their signs, in its last place."""
        signs = SIGNS_PER_WORD if self.format.packed_outputs else 1
        return (*input_shape[:-1], self.units // signs)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """The output's shape and dtype: the compute dtype, or int32 for packed signs."""
        dtype = "int32" if self.format.packed_outputs else self.compute_dtype
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=dtype)
