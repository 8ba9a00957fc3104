"""The embedding table on packed weights."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfcompress_ops.formats.format import Format
from tfcompress_ops.layers.layer import CompressedLayer, Weights, replaces

_SERIALIZED = {
    "embeddings_initializer": keras.initializers,
    "embeddings_regularizer": keras.regularizers,
    "embeddings_constraint": keras.constraints,
}


@replaces(keras.layers.Embedding)
class Embedding(CompressedLayer):
    """`keras.layers.Embedding` whose table stays in a compressed format.

    The rows that are looked up are unpacked, and no others: `outputs = table[inputs]`. The table is
    packed as the matrix `[output_dim, input_dim]`, so that a format with a scale per output has one
    for each row of the table. Only formats with a `lookup_format` can hold it.

    Args:
        input_dim: Rows of the table: inputs are in 0 ... input_dim - 1.
        output_dim: Numbers in a row.
        format: A `Format` such as `tfc.Int8()`, or the name of one. Its `lookup_format` is used.
        embeddings_initializer: Initializer of the table that a new layer packs.
        embeddings_regularizer: Kept for `tfc.decompress`; a packed table is not regularized.
        embeddings_constraint: Kept for `tfc.decompress`; a packed table is not constrained.
        mask_zero: Whether 0 is padding, that later layers are told to leave out.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape:
        Integers `(batch, ...)`.

    Output shape:
        `(batch, ..., output_dim)`.

    Raises:
        ValueError: If a dimension is not positive, or the format has no `lookup_format`.

    Example:
        >>> Embedding(100, 4, format="int8")(np.array([[1, 2, 3]])).shape
        TensorShape([1, 3, 4])
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        format: Any = "int8",
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(format=format, **kwargs)
        for name, value in (("input_dim", input_dim), ("output_dim", output_dim)):
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise ValueError(f"`{name}` must be a positive integer; received {value!r}.")
        lookup_format = self.format_for(self.format)
        if lookup_format is None:
            raise ValueError(
                f"`format` must be one whose rows can be looked up; received {self.format}. Use "
                "tfc.Int8()."
            )
        self.format = lookup_format
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)
        self.mask_zero = mask_zero
        self.supports_masking = mask_zero
        self.autocast = False

    @classmethod
    def format_for(cls, format: Format) -> Format | None:
        """The format's `lookup_format`."""
        return format.lookup_format

    @classmethod
    def refusal(cls, layer: keras.layers.Embedding) -> str | None:
        """Says no to what Keras quantised."""
        mode = layer.quantization_mode
        return None if mode is None else f"Keras has quantised it to {mode}; compress it before"

    @classmethod
    def float_kernel(cls, layer: keras.layers.Layer) -> Any:
        """`None`: nothing is multiplied by a table, so that its zeros would save nothing."""
        return None

    @classmethod
    def arguments(cls, layer: keras.layers.Layer) -> dict[str, Any]:
        """Constructor arguments of an `Embedding` of either kind, as live objects."""
        names = ("input_dim", "output_dim", "mask_zero", *_SERIALIZED)
        return {
            **{name: getattr(layer, name) for name in names},
            "name": layer.name,
            "trainable": layer.trainable,
            "dtype": layer.dtype_policy.name.rpartition("_from_")[2],
        }

    @classmethod
    def source_weights(cls, layer: keras.layers.Embedding) -> Weights:
        """The table, LoRA merged, as the matrix `[output_dim, input_dim]`."""
        table = keras.ops.convert_to_tensor(layer.embeddings).numpy()
        return Weights(np.ascontiguousarray(table.T), None, None)

    def restore_weights(self, layer: keras.layers.Layer) -> None:
        """Assigns the unpacked table."""
        layer.embeddings.assign(self.weight_matrix().T)

    def matrix_shape(self, input_shape: Any) -> tuple[int, int]:
        """`(output_dim, input_dim)`."""
        return self.output_dim, self.input_dim

    def initial_matrix(self, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Draws a table from `embeddings_initializer`."""
        table = self.embeddings_initializer((self.input_dim, self.output_dim), dtype="float32")
        return np.ascontiguousarray(table.numpy().T, np.float32)

    def build_rest(self, input_shape: Any) -> None:
        """Nothing: there is but the table."""

    def call(self, inputs: Any) -> Any:
        """Looks rows up.

        Args:
            inputs: Integers `(batch, ...)`; other dtypes are cast.

        Returns:
            Tensor `(batch, ..., output_dim)` of the compute dtype.

        Raises:
            tf.errors.InvalidArgumentError: If an index is out of range, on a CPU. On a GPU its row
                is zeros, as TensorFlow's own look-ups give.
        """
        indices = tf.convert_to_tensor(inputs)
        if indices.dtype not in (tf.int32, tf.int64):
            indices = tf.cast(indices, tf.int32)
        return self.format.lookup(indices, self._packed, self.output_dim, self.compute_dtype)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Where the input is not 0, with `mask_zero`."""
        return keras.ops.not_equal(inputs, 0) if self.mask_zero else None

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The input shape with `output_dim` behind."""
        return (*input_shape, self.output_dim)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "mask_zero": self.mask_zero,
            **{name: module.serialize(getattr(self, name)) for name, module in _SERIALIZED.items()},
        }
