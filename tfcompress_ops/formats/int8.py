"""int8 weights with one scale per output, and activations that are int8 too or stay float."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from tfcompress_ops import kernels, ops
from tfcompress_ops.formats.calibration import check_x_scale, largest_magnitude, x_scale_of
from tfcompress_ops.formats.format import Arrays, ArraySpecs, Format, as_matrix, register_format
from tfcompress_ops.formats.int8_rows import Int8Rows
from tfcompress_ops.formats.int8_values import as_quantized, check_finite, scale_and_mean

Activations = Literal["dynamic", "static", "float"]

# The kernels sum u8 x s8 products in int32: 127 * 255 * 65,536 < 2^31.
MAX_IN_FEATURES = 65536


@register_format
@dataclasses.dataclass(frozen=True)
class Int8(Format):
    """int8 weights: `w ~ scale * w_q (+ mean)`, a quarter of float32's bytes.

    `w_q = round((w - mean) / scale)` lies in -127 ... 127; `scale = max |w - mean| / 127` is one
    number per output. With quantised activations the products are summed exactly in int32.

    Args:
        activations: How the layer's inputs are treated. `"dynamic"`: each row is quantised to int8
            by its largest magnitude, found as the op runs. `"static"`: all rows are quantised by
            one scale, found from calibration data; inputs beyond its range saturate. `"float"`:
            inputs are not quantised, only the weights are.
        center: Whether the mean of each output's weights is subtracted before quantising. It is
            never multiplied out: the op adds `mean * sum(x)` to each row.

    Packed arrays:
        `kernel`: uint8 `[packed bytes]`, `w_q + 128` in the kernels' layout, the same on every
            machine.
        `scale`: float32 `[out_features]`.
        `mean`: float32 `[out_features]`, only with `center=True`.
        `x_scale`: float32 `[1]`, only with `activations="static"`: `x ~ x_scale * x_q`.
        `shape`: int32 `[2]`, `(in_features, out_features)`.

    Example:
        >>> arrays = Int8().pack(np.eye(3, dtype="float32"))
        >>> Int8().unpack(arrays)[1]
        array([0., 1., 0.], dtype=float32)
    """

    name: ClassVar[str] = "int8"

    activations: Activations = "dynamic"
    center: bool = False

    def __post_init__(self) -> None:
        if self.activations not in get_args(Activations):
            raise ValueError(
                f"`activations` must be one of {get_args(Activations)}; received "
                f"{self.activations!r}."
            )
        if not isinstance(self.center, bool):
            raise TypeError(f"`center` must be a bool; received {self.center!r}.")

    @property
    def needs_calibration(self) -> bool:
        """True for `activations="static"`."""
        return self.activations == "static"

    @property
    def label(self) -> str:
        """`"int8"`, how activations are treated, and whether weights are centred."""
        return f"{self.name} {self.activations}{' center' if self.center else ''}"

    @classmethod
    def variants(cls) -> list[tuple[str, Format]]:
        """Every treatment of the activations, and the default with centred weights."""
        formats = [*(cls(activations) for activations in get_args(Activations)), cls(center=True)]
        return [(format_.label, format_) for format_ in formats]

    def pack(self, kernel: npt.ArrayLike, calibration: Any = None) -> Arrays:
        """Quantises and packs a weight matrix.

        Args:
            kernel: Finite floating-point array `[in_features, out_features]`.
            calibration: Largest magnitude of the inputs, for `activations="static"`.

        Returns:
            The arrays named in the class's description.

        Raises:
            TypeError: If `kernel` is not floating-point.
            ValueError: If it is not a finite matrix or has more than 65,536 rows, or if
                `activations="static"` and `calibration` is missing, negative or not finite.
        """
        matrix = as_matrix(kernel)
        _check_in_features(matrix.shape[0])
        packed, scale, mean = kernels.int8_quantize_pack(matrix, self.center)
        return self._arrays(packed, scale, mean, matrix.shape, calibration)

    def pack_quantized(
        self,
        quantized: npt.ArrayLike,
        scale: npt.ArrayLike,
        mean: npt.ArrayLike | None = None,
        calibration: Any = None,
    ) -> Arrays:
        """Packs weights that are int8 already, bit for bit: `w = scale * quantized (+ mean)`.

        Args:
            quantized: int8 `[in_features, out_features]`, -127 ... 127.
            scale: Finite floating-point `[out_features]`.
            mean: Finite floating-point `[out_features]`, only with `center=True` (`None`: zeros).
            calibration: See `pack`.

        Returns:
            The arrays named in the class's description.

        Raises:
            TypeError: If `quantized` is not int8.
            ValueError: If shapes do not fit, a value is -128, `scale` or `mean` is not finite, or
                `mean` is given without `center=True`.
        """
        values = as_quantized(quantized)
        _check_in_features(values.shape[0])
        return self._arrays(
            kernels.int8_pack(np.ascontiguousarray(values)),
            *scale_and_mean(self, scale, mean, values.shape[1]),
            values.shape,
            calibration,
        )

    def unpack(self, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The float32 weights that the arrays stand for: `scale * w_q (+ mean)`.

        Args:
            arrays: What `pack` made.

        Returns:
            float32 array `[in_features, out_features]`.

        Raises:
            ValueError: If `arrays` are not what `pack` makes.
        """
        shape = arrays.get("shape", np.zeros(0))
        in_features, out_features = shape if shape.shape == (2,) else (0, 0)
        self.check_arrays(arrays, int(in_features), int(out_features))
        quantized = kernels.int8_unpack(arrays["kernel"], int(in_features), int(out_features))
        weights: npt.NDArray[np.float32] = quantized.astype(np.float32)
        weights *= arrays["scale"]
        if self.center:
            weights += arrays["mean"]
        return weights

    def matmul(
        self, x: Any, arrays: Mapping[str, Any], bias: Any = None, activation: Any = None
    ) -> Any:
        """`activation(x @ unpack(arrays) + bias)` in one op; see `tfc.ops.int8_matmul`.

        Args:
            x: float32, bfloat16 or float16 tensor `[..., in_features]`.
            arrays: Packed arrays as tensors or variables.
            bias: Tensor `[out_features]` or `None`.
            activation: Anything that `keras.activations.get` accepts.

        Returns:
            Tensor `[..., out_features]` of `x`'s dtype.
        """
        return ops.int8_matmul(
            x,
            arrays["kernel"],
            arrays["scale"],
            x_scale=arrays.get("x_scale"),
            mean=arrays.get("mean"),
            bias=bias,
            activations=self.activations,
            activation=activation,
        )

    def kernel(
        self, arrays: Mapping[str, npt.NDArray[Any]], bias: Any = None, threads: int = 1
    ) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]:
        """The kernel of `matmul` alone, without TensorFlow; see `Format`."""
        return functools.partial(
            kernels.int8_matmul,
            packed=arrays["kernel"],
            scale=arrays["scale"],
            mean=arrays.get("mean"),
            bias=bias,
            x_scale=float(arrays["x_scale"][0]) if self.needs_calibration else None,
            activations=self.activations,
            threads=threads,
        )

    @property
    def lookup_format(self) -> Int8Rows:
        """The same numbers, laid out for looking rows up."""
        return Int8Rows(self.center)

    def array_specs(self, in_features: int, out_features: int) -> ArraySpecs:
        """Shape and dtype of each packed array of an `[in_features, out_features]` matrix."""
        packed_bytes = kernels.int8_packed_size(in_features, out_features)
        specs: ArraySpecs = {
            "kernel": ((packed_bytes,), "uint8"),
            "scale": ((out_features,), "float32"),
        }
        if self.center:
            specs["mean"] = ((out_features,), "float32")
        if self.needs_calibration:
            specs["x_scale"] = ((1,), "float32")
        specs["shape"] = ((2,), "int32")
        return specs

    def check_arrays(self, arrays: Mapping[str, Any], in_features: int, out_features: int) -> None:
        """Compares names, shapes, dtypes and values with what `pack` would make.

        Raises:
            ValueError: If `arrays` cannot be a packed `[in_features, out_features]` matrix.
        """
        super().check_arrays(arrays, in_features, out_features)
        shape = tuple(int(size) for size in np.asarray(arrays["shape"]))
        if shape != (in_features, out_features):
            raise ValueError(
                f"`shape` must hold {(in_features, out_features)}; received {shape}. The arrays "
                "belong to another matrix."
            )
        check_finite(arrays)
        if self.needs_calibration:
            check_x_scale(arrays["x_scale"])

    def observe(self, state: float | None, x: Any) -> float:
        """Keeps the largest magnitude of a layer's inputs.

        Args:
            state: The largest so far, `None` at first.
            x: Tensor `[..., in_features]`.

        Returns:
            The largest with this batch, NaN once an input is NaN.
        """
        return largest_magnitude(state, x)

    def _arrays(
        self,
        packed: npt.NDArray[np.uint8],
        scale: npt.NDArray[np.float32],
        mean: npt.NDArray[np.float32] | None,
        shape: tuple[int, ...],
        calibration: Any,
    ) -> Arrays:
        arrays: Arrays = {"kernel": packed, "scale": scale}
        if mean is not None:
            arrays["mean"] = mean
        if self.needs_calibration:
            arrays["x_scale"] = x_scale_of(calibration)
        arrays["shape"] = np.array(shape, np.int32)
        return arrays


def _check_in_features(in_features: int) -> None:
    if in_features > MAX_IN_FEATURES:
        raise ValueError(
            f"`kernel` must have at most {MAX_IN_FEATURES} rows, so that int32 sums are exact; "
            f"received {in_features}. Leave this layer uncompressed."
        )
