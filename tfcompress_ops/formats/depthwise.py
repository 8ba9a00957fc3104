"""The weights of a depthwise convolution: a few numbers a channel, kept as they are."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt

from tfcompress_ops import ops
from tfcompress_ops.formats.format import Arrays, ArraySpecs, Format, as_matrix
from tfcompress_ops.formats.int8_values import check_finite


@keras.saving.register_keras_serializable(package="tfcompress")
@dataclasses.dataclass(frozen=True)
class Depthwise(Format):
    """float32 `[taps, channels]`, whatever format is asked for.

    A depthwise kernel is some per cent of a model's weights and nothing is multiplied by it as by a
    matrix, so that storing it in fewer bits would save neither bytes nor time. What there is to
    gain is one op that convolves, adds the bias and activates, in place of several. It is not among
    the formats that are found by name.

    Packed arrays:
        `kernel`: float32 `[kernel height * kernel width, channels]`.

    Example:
        >>> Depthwise().unpack(Depthwise().pack(np.eye(3, dtype="float32")))[1]
        array([0., 1., 0.], dtype=float32)
    """

    name: ClassVar[str] = "depthwise float32"

    @property
    def trainable_arrays(self) -> tuple[str, ...]:
        """The kernel."""
        return ("kernel",)

    def pack(self, kernel: npt.ArrayLike, calibration: Any = None) -> Arrays:
        """Takes weights as they are.

        Args:
            kernel: Finite floating-point array `[taps, channels]`.
            calibration: Not used.

        Returns:
            The array named in the class's description.

        Raises:
            TypeError: If `kernel` is not floating-point.
            ValueError: If it is not a finite matrix.
        """
        del calibration
        return {"kernel": as_matrix(kernel)}

    def unpack(self, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The weights, `[taps, channels]`.

        Raises:
            ValueError: If `arrays` are not what `pack` makes.
        """
        shape = arrays.get("kernel", np.zeros(0)).shape
        self.check_arrays(arrays, *(shape if len(shape) == 2 else (0, 0)))
        return np.asarray(arrays["kernel"], np.float32)

    def matmul(
        self, x: Any, arrays: Mapping[str, Any], bias: Any = None, activation: Any = None
    ) -> Any:
        """Nothing is multiplied by depthwise weights as by a matrix.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            f"{self} holds the weights of each channel's own convolution, not a matrix to multiply "
            "by. Use tfc.Int8()."
        )

    def convolve(
        self,
        x: Any,
        arrays: Mapping[str, Any],
        geometry: ops.Geometry,
        bias: Any = None,
        activation: Any = None,
    ) -> Any:
        """Convolves each channel, in one op; see `tfc.ops.depthwise_conv2d`."""
        return ops.depthwise_conv2d(x, arrays["kernel"], geometry, bias=bias, activation=activation)

    def array_specs(self, in_features: int, out_features: int) -> ArraySpecs:
        """Shape and dtype of the kernel."""
        return {"kernel": ((in_features, out_features), "float32")}

    def check_arrays(self, arrays: Mapping[str, Any], in_features: int, out_features: int) -> None:
        """Compares names, shapes, dtypes and values with what `pack` would make.

        Raises:
            ValueError: If `arrays` cannot be the weights of `out_features` channels.
        """
        super().check_arrays(arrays, in_features, out_features)
        check_finite(arrays)
