"""What layers of one kernel, an optional bias and an activation have in common."""

import abc
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt

from tfcompress_ops.layers.layer import CompressedLayer, Weights

SERIALIZED = {
    "kernel_initializer": keras.initializers,
    "bias_initializer": keras.initializers,
    "kernel_regularizer": keras.regularizers,
    "bias_regularizer": keras.regularizers,
    "kernel_constraint": keras.constraints,
    "bias_constraint": keras.constraints,
}


class KernelLayer(CompressedLayer):
    """A layer `activation(f(inputs, kernel) + bias)` whose kernel, reshaped, is one matrix.

    Args:
        format: A `Format`, or the name of one.
        activation: Anything that `keras.activations.get` accepts.
        kernel_initializer: Initializer of the weights that a new layer packs.
        bias_initializer: Initializer of the bias.
        kernel_regularizer: Kept for `tfc.decompress`; a packed kernel is not regularized.
        bias_regularizer: Regularizer of the bias.
        activity_regularizer: Regularizer of the output.
        kernel_constraint: Kept for `tfc.decompress`; a packed kernel is not constrained.
        bias_constraint: Constraint on the bias.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    # Constructor arguments beside those above, which both layer classes have as attributes.
    own_arguments: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        *,
        format: Any = "int8",
        activation: Any = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(format=format, activity_regularizer=activity_regularizer, **kwargs)
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)

    @abc.abstractmethod
    def kernel_shape(self, input_shape: Any) -> tuple[int, ...]:
        """Shape of the Keras layer's kernel for this input shape."""

    @abc.abstractmethod
    def bias_shape(self, input_shape: Any) -> tuple[int, ...] | None:
        """Shape of the bias for this input shape, or `None` without one."""

    @classmethod
    def refusal(cls, layer: keras.layers.Layer) -> str | None:
        """Says no to what Keras quantised."""
        mode = getattr(layer, "quantization_mode", None)
        return None if mode is None else f"Keras has quantised it to {mode}; compress it before"

    @classmethod
    def arguments(cls, layer: keras.layers.Layer) -> dict[str, Any]:
        """Constructor arguments of a layer of either class, as live objects."""
        # "int8_from_float32" is the policy of a layer that Keras quantised: what it was before.
        policy = layer.dtype_policy.name.rpartition("_from_")[2]
        names = (*cls.own_arguments, "activation", "activity_regularizer", *SERIALIZED)
        return {
            **{name: getattr(layer, name) for name in names},
            "name": layer.name,
            "trainable": layer.trainable,
            "dtype": policy,
        }

    @classmethod
    def to_matrix(cls, layer: Any, kernel: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The matrix that a kernel of the Keras layer's shape is."""
        return kernel.reshape(-1, kernel.shape[-1])

    @classmethod
    def from_matrix(
        cls, layer: Any, matrix: npt.NDArray[Any], shape: tuple[int, ...]
    ) -> npt.NDArray[Any]:
        """The kernel of this shape that a matrix is; the inverse of `to_matrix`."""
        return matrix.reshape(shape)

    @classmethod
    def source_weights(cls, layer: keras.layers.Layer) -> Weights:
        """The kernel, LoRA merged, and the bias."""
        bias = None if layer.bias is None else layer.bias.numpy().astype(np.float32)
        kernel = keras.ops.convert_to_tensor(layer.kernel).numpy()
        return Weights(cls.to_matrix(layer, kernel), None, bias)

    @classmethod
    def assign_matrix(cls, layer: keras.layers.Layer, matrix: npt.NDArray[Any]) -> None:
        """Gives a Keras layer other weights."""
        # A layer that is trained quantised has its float kernel behind the quantised one.
        kernel = getattr(layer, "latent_kernel", None)
        kernel = cls.float_kernel(layer) if kernel is None else kernel
        kernel.assign(cls.from_matrix(layer, matrix, tuple(kernel.shape)))

    def restore_weights(self, layer: keras.layers.Layer) -> None:
        """Assigns the unpacked kernel and the bias."""
        self.assign_matrix(layer, self.weight_matrix())
        if self.bias is not None:
            layer.bias.assign(self.bias)

    def initial_matrix(self, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Draws a kernel from `kernel_initializer`."""
        kernel = self.kernel_initializer(self.kernel_shape(self._input_shape), dtype="float32")
        return np.asarray(self.to_matrix(self, kernel.numpy()), np.float32)

    def build_rest(self, input_shape: Any) -> None:
        """Creates the bias."""
        shape = self.bias_shape(input_shape)
        if shape is not None:
            self.bias = self.add_weight(
                name="bias",
                shape=shape,
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                dtype="float32",
                autocast=False,
            )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in self.own_arguments},
            "activation": keras.activations.serialize(self.activation),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            **{name: module.serialize(getattr(self, name)) for name, module in SERIALIZED.items()},
        }
