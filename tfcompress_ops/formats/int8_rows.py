"""int8 tables: rows that are looked up, one scale each."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt

from tfcompress_ops import kernels, ops
from tfcompress_ops.formats.format import Arrays, ArraySpecs, Format, as_matrix
from tfcompress_ops.formats.int8_values import as_quantized, check_finite, scale_and_mean


@keras.saving.register_keras_serializable(package="tfcompress")
@dataclasses.dataclass(frozen=True)
class Int8Rows(Format):
    """The `lookup_format` of `tfc.Int8`: the same numbers, the bytes of an output side by side.

    A row of an embedding table is an output of the matrix `[output_dim, input_dim]`. A kernel that
    multiplies wants many outputs' bytes side by side; one that looks rows up wants one's. It is not
    among the formats that are found by name, since nothing can be multiplied by it.

    Args:
        center: Whether the mean of each row's numbers is subtracted before quantising.

    Packed arrays:
        `rows`: int8 `[out_features, in_features]`.
        `scale`: float32 `[out_features]`.
        `mean`: float32 `[out_features]`, only with `center=True`.

    Example:
        >>> arrays = Int8Rows().pack(np.eye(3, dtype="float32"))
        >>> Int8Rows().unpack(arrays)[1]
        array([0., 1., 0.], dtype=float32)
    """

    name: ClassVar[str] = "int8 rows"

    center: bool = False

    @property
    def label(self) -> str:
        """`"int8 rows"`, and whether numbers are centred."""
        return f"{self.name}{' center' if self.center else ''}"

    def pack(self, kernel: npt.ArrayLike, calibration: Any = None) -> Arrays:
        """Quantises a matrix as `tfc.Int8` does.

        Args:
            kernel: Finite floating-point array `[in_features, out_features]`.
            calibration: Not used.

        Returns:
            The arrays named in the class's description.

        Raises:
            TypeError: If `kernel` is not floating-point.
            ValueError: If it is not a finite matrix.
        """
        del calibration
        matrix = as_matrix(kernel)
        packed, scale, mean = kernels.int8_quantize_pack(matrix, self.center)
        return self._arrays(kernels.int8_unpack(packed, *matrix.shape), scale, mean)

    def pack_quantized(
        self,
        quantized: npt.ArrayLike,
        scale: npt.ArrayLike,
        mean: npt.ArrayLike | None = None,
        calibration: Any = None,
    ) -> Arrays:
        """Takes numbers that are int8 already, bit for bit; see `tfc.Int8`."""
        del calibration
        values = as_quantized(quantized)
        return self._arrays(values, *scale_and_mean(self, scale, mean, values.shape[1]))

    def unpack(self, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The float32 numbers that the arrays stand for: `scale * rows (+ mean)`, transposed.

        Args:
            arrays: What `pack` made.

        Returns:
            float32 array `[in_features, out_features]`.

        Raises:
            ValueError: If `arrays` are not what `pack` makes.
        """
        shape = arrays.get("rows", np.zeros(0)).shape
        out_features, in_features = shape if len(shape) == 2 else (0, 0)
        self.check_arrays(arrays, in_features, out_features)
        weights = np.ascontiguousarray(arrays["rows"].T, np.float32)
        weights *= arrays["scale"]
        if self.center:
            weights += arrays["mean"]
        return weights

    def matmul(
        self, x: Any, arrays: Mapping[str, Any], bias: Any = None, activation: Any = None
    ) -> Any:
        """Nothing is multiplied by a table.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            f"{self} holds rows that are looked up, not a matrix to multiply by. Use tfc.Int8()."
        )

    def lookup(
        self, indices: Any, arrays: Mapping[str, Any], in_features: int, dtype: Any = "float32"
    ) -> Any:
        """Columns of `unpack(arrays)`, in one op; see `tfc.ops.int8_lookup`.

        Args:
            indices: int32 or int64 tensor `[...]` in 0 ... out_features - 1.
            arrays: Packed arrays as tensors or variables.
            in_features: Rows of the matrix; the arrays tell them too.
            dtype: Of the result: float32, bfloat16 or float16.

        Returns:
            Tensor `[..., in_features]`.

        Raises:
            tf.errors.InvalidArgumentError: If an index is out of range.
        """
        del in_features
        return ops.int8_lookup(
            indices, arrays["rows"], arrays["scale"], mean=arrays.get("mean"), dtype=dtype
        )

    @property
    def lookup_format(self) -> "Int8Rows":
        """Itself."""
        return self

    def array_specs(self, in_features: int, out_features: int) -> ArraySpecs:
        """Shape and dtype of each packed array of an `[in_features, out_features]` matrix."""
        specs: ArraySpecs = {
            "rows": ((out_features, in_features), "int8"),
            "scale": ((out_features,), "float32"),
        }
        if self.center:
            specs["mean"] = ((out_features,), "float32")
        return specs

    def check_arrays(self, arrays: Mapping[str, Any], in_features: int, out_features: int) -> None:
        """Compares names, shapes, dtypes and values with what `pack` would make.

        Raises:
            ValueError: If `arrays` cannot be a packed `[in_features, out_features]` matrix.
        """
        super().check_arrays(arrays, in_features, out_features)
        check_finite(arrays)

    def _arrays(
        self,
        values: npt.NDArray[np.int8],
        scale: npt.NDArray[np.float32],
        mean: npt.NDArray[np.float32] | None,
    ) -> Arrays:
        arrays: Arrays = {"rows": np.ascontiguousarray(values.T), "scale": scale}
        if mean is not None:
            arrays["mean"] = mean
        return arrays
