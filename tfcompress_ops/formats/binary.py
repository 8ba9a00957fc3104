"""Weights of one or two bits: signs, or signs and zeros, with one scale per output."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfcompress_ops import kernels, ops
from tfcompress_ops.formats.format import (
    SIGNS_PER_WORD,
    Arrays,
    ArraySpecs,
    Format,
    as_matrix,
    register_format,
)

Activations = Literal["float", "int8", "binary"]
TernaryActivations = Literal["float", "int8"]
Threshold = Literal["twn", "absmean"]

# The kernels sum in int32: 2 * 127 * 2^22 < 2^31.
MAX_IN_FEATURES = 1 << 22


@dataclasses.dataclass(frozen=True)
class _Levels(Format):
    """What binary and ternary weights share: packed levels and their scales."""

    activations: Activations = "float"

    levels: ClassVar[str]
    known_activations: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if self.activations not in self.known_activations:
            raise ValueError(
                f"`activations` must be one of {self.known_activations}; received "
                f"{self.activations!r}."
            )

    @property
    @abc.abstractmethod
    def rule(self) -> str:
        """How the kernels make levels of float weights."""

    @property
    def has_mean(self) -> bool:
        """Whether each output's mean is stored beside its levels."""
        return False

    @property
    def scales_inputs(self) -> bool:
        """Whether signs of the inputs are scaled row by row."""
        return False

    @property
    def label(self) -> str:
        """Short text for tables: the name and how activations are treated."""
        return f"{self.name} {self.activations}"

    def pack(self, kernel: npt.ArrayLike, calibration: Any = None) -> Arrays:
        """Reduces a weight matrix to levels and packs them.

        A column of weights of one magnitude, or, with threshold="twn", of one magnitude and zeros,
        keeps them exactly: what was quantised in training is packed without change. Not so with
        `center`, and with threshold="absmean" only where the matrix has one magnitude and no zeros.

        Args:
            kernel: Finite floating-point array `[in_features, out_features]`.
            calibration: Not used.

        Returns:
            The arrays named in the class's description.

        Raises:
            TypeError: If `kernel` is not floating-point.
            ValueError: If it is not a finite matrix, or has too many rows.
        """
        del calibration
        matrix = as_matrix(kernel)
        if matrix.shape[0] > MAX_IN_FEATURES:
            raise ValueError(
                f"`kernel` must have at most {MAX_IN_FEATURES} rows, so that int32 sums are exact; "
                f"received {matrix.shape[0]}. Leave this layer uncompressed."
            )
        packed, scale, mean = kernels.binary_quantize_pack(matrix, self.rule, self.has_mean)
        arrays: Arrays = {"kernel": packed, "scale": scale}
        if mean is not None:
            arrays["mean"] = mean
        if self.packed_outputs:
            arrays["threshold"] = np.zeros(matrix.shape[1], np.int32)
        arrays["shape"] = np.array(matrix.shape, np.int32)
        return arrays

    def unpack(self, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The float32 weights that the arrays stand for: `scale * w_l (+ mean)`.

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
        levels = kernels.binary_unpack(
            arrays["kernel"], int(in_features), int(out_features), self.levels
        )
        weights: npt.NDArray[np.float32] = levels.astype(np.float32)
        weights *= arrays["scale"]
        if self.has_mean:
            weights += arrays["mean"]
        return weights

    def matmul(
        self, x: Any, arrays: Mapping[str, Any], bias: Any = None, activation: Any = None
    ) -> Any:
        """`activation(x @ unpack(arrays) + bias)` in one op; see `tfc.ops.binary_matmul`.

        Args:
            x: float32, bfloat16 or float16 tensor `[..., in_features]` whose last dimension is
                known, or packed signs if the format says so.
            arrays: Packed arrays as tensors or variables.
            bias: Tensor `[out_features]` or `None`.
            activation: Anything that `keras.activations.get` accepts.

        Returns:
            Tensor `[..., out_features]` of `x`'s dtype.

        Raises:
            ValueError: If the last dimension of `x` is unknown.
        """
        x = tf.convert_to_tensor(x)
        columns = x.shape[-1] if x.shape.rank else None
        if columns is None:
            raise ValueError(
                f"`x` must have a known last dimension; received shape {x.shape}. Set it with "
                "tf.ensure_shape."
            )
        return ops.binary_matmul(
            x,
            arrays["kernel"],
            arrays["scale"],
            columns * SIGNS_PER_WORD if self.packed_inputs else columns,
            mean=arrays.get("mean"),
            bias=bias,
            threshold=arrays.get("threshold"),
            levels=self.levels,
            activations=self.activations,
            scale_x=self.scales_inputs,
            activation=activation,
        )

    def kernel(
        self, arrays: Mapping[str, npt.NDArray[Any]], bias: Any = None, threads: int = 1
    ) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]:
        """The kernel of `matmul` alone, without TensorFlow; see `Format`."""
        return functools.partial(
            kernels.binary_matmul,
            packed=arrays["kernel"],
            scale=arrays["scale"],
            in_features=int(arrays["shape"][0]),
            mean=arrays.get("mean"),
            bias=bias,
            threshold=arrays.get("threshold"),
            levels=self.levels,
            activations=self.activations,
            scale_x=self.scales_inputs,
            threads=threads,
        )

    def array_specs(self, in_features: int, out_features: int) -> ArraySpecs:
        """Shape and dtype of each packed array of an `[in_features, out_features]` matrix."""
        packed_bytes = kernels.binary_packed_size(in_features, out_features, self.levels)
        specs: ArraySpecs = {
            "kernel": ((packed_bytes,), "uint8"),
            "scale": ((out_features,), "float32"),
        }
        if self.has_mean:
            specs["mean"] = ((out_features,), "float32")
        if self.packed_outputs:
            specs["threshold"] = ((out_features,), "int32")
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
        for name in sorted({"scale", "mean"} & set(arrays)):
            if not np.isfinite(np.asarray(arrays[name])).all():
                raise ValueError(f"`{name}` must be finite; received NaN or infinite values.")


@register_format
@dataclasses.dataclass(frozen=True)
class Binary(_Levels):
    """One bit a weight: `w ~ scale * sign(w - mean) (+ mean)`, sign(0) = +1.

    `scale = mean |w - mean|`, one number per output, is the one that is closest to the weights
    (alpha of XNOR-Net). A 32nd of float32's bytes, and the scales.

    Args:
        activations: How the layer's inputs are treated. `"float"`: they are multiplied as they are.
            `"int8"`: each row is quantised to int8 by its largest magnitude, and sums are exact
            integers. `"binary"`: their signs are taken, sign(0) = +1, and sums are exact integers;
            for layers that were trained so.
        center: Whether the mean of each output's weights is subtracted before taking signs, and
            added back as `mean * sum(x)`.
        scale_inputs: Whether, with `activations="binary"`, the signs of each row are multiplied by
            the row's mean magnitude.
        packed_inputs: Whether, with `activations="binary"`, inputs are packed signs: int32
            `[..., in_features / 32]`, bit `k % 32` of word `k // 32` set for +1.
        packed_outputs: Whether, with `activations="binary"`, outputs are packed signs: those of
            the sums less `threshold`, which stands for what follows the product; `scale`, and a
            layer's bias, are then not used. `tfc.compress` sets both where one such layer feeds
            another. A NaN does not get through.

    Packed arrays:
        `kernel`: uint8 `[packed bytes]`, one bit a weight in the kernels' layout, the same on every
            machine.
        `scale`: float32 `[out_features]`.
        `mean`: float32 `[out_features]`, only with `center=True`.
        `threshold`: int32 `[out_features]`, only with `packed_outputs=True`.
        `shape`: int32 `[2]`, `(in_features, out_features)`.

    References:
        Rastegari et al., "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural
        Networks", 2016, sections 3.1 (scale) and 3.2 (scaled inputs). `center` is the article's;
        XNOR-Net has none.

    Example:
        >>> arrays = Binary().pack(np.array([[0.5], [-1.5]], "float32"))
        >>> Binary().unpack(arrays)
        array([[ 1.],
               [-1.]], dtype=float32)
    """

    name: ClassVar[str] = "binary"
    levels: ClassVar[str] = "binary"
    known_activations: ClassVar[tuple[str, ...]] = get_args(Activations)

    center: bool = False
    scale_inputs: bool = False
    packed_inputs: bool = dataclasses.field(default=False, metadata={"internal": True})
    packed_outputs: bool = dataclasses.field(default=False, metadata={"internal": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("center", "scale_inputs", "packed_inputs", "packed_outputs"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"`{name}` must be a bool; received {getattr(self, name)!r}.")
        for name in ("scale_inputs", "packed_inputs", "packed_outputs"):
            if getattr(self, name) and self.activations != "binary":
                raise ValueError(
                    f"`{name}` goes with activations='binary' only; received "
                    f"activations={self.activations!r}."
                )
        if self.scale_inputs and (self.packed_inputs or self.packed_outputs):
            raise ValueError(
                "`scale_inputs` must be False where inputs or outputs are packed signs, which have "
                "no magnitude; received True."
            )
        if self.center and self.packed_outputs:
            raise ValueError(
                "`center` must be False with `packed_outputs`: a mean's share of a sum depends on "
                "the row, a threshold cannot; received True."
            )

    @classmethod
    def variants(cls) -> list[tuple[str, Format]]:
        """Float inputs and signs: of what a network is trained for, the least and the most."""
        formats = [cls("float"), cls("binary")]
        return [(format_.label, format_) for format_ in formats]

    @property
    def rule(self) -> str:
        """Signs."""
        return "sign"

    @property
    def takes_signs(self) -> bool:
        """True for `activations="binary"`."""
        return self.activations == "binary"

    @property
    def has_mean(self) -> bool:
        """True for `center=True`."""
        return self.center

    @property
    def scales_inputs(self) -> bool:
        """True for `scale_inputs=True`."""
        return self.scale_inputs

    @property
    def label(self) -> str:
        """The name, how activations are treated, and the options that are not the default."""
        options = " center" * self.center + " scaled" * self.scale_inputs
        packed = " packed" * (self.packed_inputs or self.packed_outputs)
        return f"{super().label}{options}{packed}"


@register_format
@dataclasses.dataclass(frozen=True)
class Ternary(_Levels):
    """Two bits a weight: `w ~ scale * t` with `t` of -1, 0 and +1.

    Args:
        activations: How the layer's inputs are treated: `"float"` or `"int8"`, as in `Binary`.
        threshold: What becomes zero. `"twn"`: weights of magnitude up to 0.7 times the mean
            magnitude of their output; `scale` is the mean magnitude of the others, one number per
            output. `"absmean"`: `t = clip(round(w / scale), -1, 1)`, where `scale` is the mean
            magnitude of the matrix.

    Packed arrays:
        `kernel`: uint8 `[packed bytes]`, two bits a weight in the kernels' layout, the same on
            every machine.
        `scale`: float32 `[out_features]`.
        `shape`: int32 `[2]`, `(in_features, out_features)`.

    References:
        Li et al., "Ternary Weight Networks", 2016, equations 5 and 6 (`"twn"`, here with one
        threshold per output, not per layer). Ma et al., "The Era of 1-bit LLMs: All Large Language
        Models are in 1.58 Bits", 2024, equations 1 to 3 (`"absmean"`).

    Example:
        >>> arrays = Ternary().pack(np.array([[0.1], [-1.5], [1.5]], "float32"))
        >>> Ternary().unpack(arrays)
        array([[ 0. ],
               [-1.5],
               [ 1.5]], dtype=float32)
    """

    name: ClassVar[str] = "ternary"
    levels: ClassVar[str] = "ternary"
    known_activations: ClassVar[tuple[str, ...]] = get_args(TernaryActivations)

    threshold: Threshold = "twn"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold not in get_args(Threshold):
            raise ValueError(
                f"`threshold` must be one of {get_args(Threshold)}; received {self.threshold!r}."
            )

    @classmethod
    def variants(cls) -> list[tuple[str, Format]]:
        """int8 inputs, the faster ones."""
        return [(cls("int8").label, cls("int8"))]

    @property
    def rule(self) -> str:
        """The threshold's name."""
        return self.threshold

    @property
    def label(self) -> str:
        """The name, how activations are treated, and a threshold that is not the default."""
        return super().label + (f" {self.threshold}" if self.threshold != "twn" else "")

    def describe(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
        """The share of zeros.

        Args:
            arrays: What `pack` made.

        Returns:
            Name of each fact to its value as text.
        """
        in_features, out_features = (int(size) for size in arrays["shape"])
        levels = kernels.binary_unpack(arrays["kernel"], in_features, out_features, self.levels)
        zeros = float(np.mean(levels == 0)) if levels.size else 0.0
        return {"zeros": f"{zeros:.1%}"}
