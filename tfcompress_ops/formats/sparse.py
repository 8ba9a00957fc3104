"""Pruned weights: only what is not zero is stored and multiplied."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tfcompress_ops import kernels, ops, patterns
from tfcompress_ops.formats.calibration import largest_magnitude, range_of, x_scale_of
from tfcompress_ops.formats.format import Arrays, ArraySpecs, Format, as_matrix, register_format
from tfcompress_ops.formats.int8 import Int8

Values = Literal["float32", "bfloat16", "int8"]
Activations = Literal["dynamic", "static"]

# Of 64 inputs each output's weights can be told apart by 6 bits; int8 steps may reach twice as far.
_WINDOW = 64
_PACKED = ("structure", "values")
_ENTRIES = {"float32": 1, "bfloat16": 2, "int8": 4}


@register_format
@dataclasses.dataclass(frozen=True)
class Sparse(Format):
    """Pruned weights, multiplied without their zeros at any batch size.

    `pack` removes the smallest weights if it is asked to, otherwise it keeps the zeros that it
    finds. The nonzeros are stored in steps: for 16 outputs at a time, their next weights out of a
    window of 64 or 128 inputs, each with its place in the window. Kernels hold the window's
    activations in registers and look them up there. Outputs that have fewer weights in a window
    leave places of a step empty; patterns that give the outputs equal numbers leave none.

    Args:
        sparsity: Fraction of zeros, 0 <= sparsity < 1: the smallest weights are removed. `None`:
            nothing is removed for it.
        threshold: Weights of a magnitude below it are removed.
        pattern: Which weights may stay together: `"N:M"`, `"balanced"`, or `None`, each by itself.
            `"N:M"`, such as `"8:64"`: of M consecutive inputs of an output the N largest weights
            stay; M is 4, 8, 16, 32, 64 or 128. `"balanced"`, with `sparsity`: the outputs of a
            panel of 16 keep equally many weights of a window of 64 inputs, how many differs by
            window: no place of a step stays empty.
        block: Inputs and outputs of the blocks that stay or go as a whole.
        values: How nonzeros are stored. `"float32"`: exactly. `"bfloat16"`: in half the bytes,
            summed in float32; inputs are rounded to bfloat16 too where the CPU multiplies pairs.
            `"int8"`: quantised per output, and so are the inputs; the products are summed exactly
            in int32. Zeros stay zeros.
        activations: With `values="int8"`, how the layer's inputs are quantised: `"dynamic"`, each
            row by its largest magnitude as the op runs; `"static"`, all rows by one scale, found
            from calibration data.

    Packed arrays, of S steps of E entries (float32: 1, bfloat16: 2, int8: 4) for each of 16
    outputs, and P = ceil(out_features / 16) panels:
        `structure`: uint8 `[bytes]`, where weights lie, one after the other: uint8 `[S, 16 * E]`,
            places in the steps' windows, 128 where there is no weight; int32 `[P + 1]`, the first
            step of each 16 outputs; int32 `[out_features]`, which output each lane of each panel
            is; int32, `in_features`; uint16 `[S]`, where a step's window begins, in units of 16 * E
            inputs.
        `values`: float32, bfloat16 or int8 `[S, 16 * E]`.
        `scale`: float32 `[out_features]`, only with `values="int8"`.
        `x_scale`: float32 `[1]`, only with `activations="static"`.
        `shape`: int32 `[2]`, `(in_features, out_features)`.

    Example:
        >>> arrays = Sparse(sparsity=0.5).pack(np.array([[1.0, -2.0], [0.5, 3.0]], "float32"))
        >>> Sparse(sparsity=0.5).unpack(arrays)
        array([[ 0., -2.],
               [ 0.,  3.]], dtype=float32)
    """

    name: ClassVar[str] = "sparse"

    sparsity: float | None = None
    threshold: float | None = None
    pattern: str | None = None
    block: Sequence[int] = (1, 1)
    values: Values = "float32"
    activations: Activations = "dynamic"

    def __post_init__(self) -> None:
        patterns.check_pattern(
            sparsity=self.sparsity,
            threshold=self.threshold,
            pattern=self.pattern,
            block=self.block,
        )
        object.__setattr__(self, "block", tuple(self.block))
        if self.values not in get_args(Values):
            raise ValueError(
                f"`values` must be one of {get_args(Values)}; received {self.values!r}."
            )
        if self.activations not in get_args(Activations):
            raise ValueError(
                f"`activations` must be one of {get_args(Activations)}; received "
                f"{self.activations!r}."
            )
        if self.activations == "static" and self.values != "int8":
            raise ValueError(
                "`activations` must be 'dynamic' unless values='int8': only they quantise inputs; "
                f"received activations='static' with values={self.values!r}."
            )

    @property
    def needs_calibration(self) -> bool:
        """True for `activations="static"`."""
        return self.activations == "static"

    @property
    def trainable_arrays(self) -> tuple[str, ...]:
        """float32 values can be fine-tuned; where they lie stays fixed."""
        return ("values",) if self.values == "float32" else ()

    @property
    def label(self) -> str:
        """How weights are chosen, and how they are stored."""
        chosen = []
        if self.sparsity is not None:
            chosen.append(f"{100 * self.sparsity:g} %")
        if self.threshold is not None:
            chosen.append(f"|w| >= {self.threshold:g}")
        if self.pattern is not None:
            chosen.append(self.pattern)
        if tuple(self.block) != (1, 1):
            chosen.append(f"{self.block[0]}x{self.block[1]}")
        static = " static" if self.needs_calibration else ""
        return " ".join([self.name, *chosen, self.values]) + static

    @property
    def _reach(self) -> int:
        """Inputs that a step reaches: what every weight of an aligned pattern fits into."""
        if self.values != "int8":
            return _WINDOW
        aligned = self.pattern is not None and (
            self.pattern == patterns.BALANCED or patterns.parse_groups(self.pattern)[1] <= _WINDOW
        )
        return _WINDOW if aligned else 2 * _WINDOW

    @classmethod
    def variants(cls) -> list[tuple[str, Format]]:
        """Every type of values, unstructured and with the patterns that fill steps."""
        formats = [
            cls(sparsity=0.9),
            cls(sparsity=0.9, values="bfloat16"),
            cls(sparsity=0.9, values="int8"),
            cls(sparsity=0.875, pattern="balanced", values="int8"),
            cls(pattern="8:64", values="int8"),
        ]
        return [(format_.label, format_) for format_ in formats]

    def pack(self, kernel: npt.ArrayLike, calibration: Any = None) -> Arrays:
        """Prunes a weight matrix, if that is asked for, and packs what is not zero.

        Args:
            kernel: Finite floating-point array `[in_features, out_features]`.
            calibration: Largest magnitude of the inputs, for `activations="static"`.

        Returns:
            The arrays named in the class's description.

        Raises:
            TypeError: If `kernel` is not floating-point.
            ValueError: If it is not a finite matrix or has more rows than windows can number
                (65,536 with int8 values, about a million otherwise), or if `activations="static"`
                and `calibration` is missing, negative or not finite.
        """
        pruned = self._prune(as_matrix(kernel))
        if self.values != "int8":
            dtype = np.float32 if self.values == "float32" else ml_dtypes.bfloat16
            largest = np.abs(pruned).max(initial=0)
            if not np.isfinite(largest.astype(dtype)):
                raise ValueError(
                    f"`kernel` must be finite in {self.values} too; received a weight of magnitude "
                    f"{largest:g}."
                )
            return self._arrays(pruned.astype(dtype), None, calibration)
        packed, scale, _ = kernels.int8_quantize_pack(pruned, False)
        return self._arrays(kernels.int8_unpack(packed, *pruned.shape), scale, calibration)

    def pack_quantized(
        self,
        quantized: npt.ArrayLike,
        scale: npt.ArrayLike,
        mean: npt.ArrayLike | None = None,
        calibration: Any = None,
    ) -> Arrays:
        """Prunes and packs a matrix that is int8 already: `scale * quantized (+ mean)`.

        With `values="int8"` and without a mean the int8 values that stay are kept exactly.

        Args:
            quantized: int8 `[in_features, out_features]`.
            scale: Floating-point `[out_features]`.
            mean: Floating-point `[out_features]` or `None`.
            calibration: See `pack`.

        Returns:
            The arrays named in the class's description.

        Raises:
            TypeError: If `quantized` is not int8.
            ValueError: If shapes do not fit, a value is -128, or `scale` is not finite.
        """
        values = np.asarray(quantized)
        if values.dtype != np.int8:
            raise TypeError(
                f"`quantized` must be int8; received {values.dtype.name} (shape {values.shape})."
            )
        scales = np.asarray(scale).astype(np.float32)
        if values.ndim != 2 or scales.shape != values.shape[1:]:
            raise ValueError(
                "`quantized` must be a matrix and `scale` a vector of one number per output; "
                f"received shapes {values.shape} and {scales.shape}."
            )
        if not np.isfinite(scales).all():
            raise ValueError("`scale` must be finite; received NaN or infinite values.")
        if (values == -128).any():
            raise ValueError("`quantized` must lie in -127 ... 127; received -128. Clip it.")
        if self.values != "int8" or mean is not None:
            return super().pack_quantized(values, scales, mean, calibration)
        keep = self._prune(as_matrix(values.astype(np.float32) * scales)) != 0
        return self._arrays(values * keep, scales, calibration)

    def unpack(self, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The float32 weights that the arrays stand for, zeros included.

        Args:
            arrays: What `pack` made.

        Returns:
            float32 array `[in_features, out_features]`.

        Raises:
            ValueError: If `arrays` are not what `pack` makes.
        """
        shape = np.asarray(arrays.get("shape", np.zeros(0)))
        in_features, out_features = map(int, shape) if shape.shape == (2,) else (0, 0)
        self.check_arrays(arrays, in_features, out_features)
        weights: npt.NDArray[Any] = kernels.sparse_unpack(
            **_for_kernels(arrays), in_features=in_features, reach=self._reach
        )
        if self.values == "int8":
            weights = weights.astype(np.float32) * arrays["scale"]
        elif self.values == "bfloat16":
            weights = weights.view(ml_dtypes.bfloat16)
        return np.asarray(weights, np.float32)

    def matmul(
        self, x: Any, arrays: Mapping[str, Any], bias: Any = None, activation: Any = None
    ) -> Any:
        """`activation(x @ unpack(arrays) + bias)` in one op; see `tfc.ops.sparse_matmul`.

        Args:
            x: float32, bfloat16 or float16 tensor `[..., in_features]`.
            arrays: Packed arrays as tensors or variables.
            bias: Tensor `[out_features]` or `None`.
            activation: Anything that `keras.activations.get` accepts.

        Returns:
            Tensor `[..., out_features]` of `x`'s dtype.
        """
        return ops.sparse_matmul(
            x,
            *(arrays[name] for name in _PACKED),
            scale=arrays.get("scale"),
            x_scale=arrays.get("x_scale"),
            bias=bias,
            activation=activation,
            reach=self._reach,
        )

    def kernel(
        self, arrays: Mapping[str, npt.NDArray[Any]], bias: Any = None, threads: int = 1
    ) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]:
        """The kernel of `matmul` alone, without TensorFlow; see `Format`."""
        return functools.partial(
            kernels.sparse_matmul,
            **_for_kernels(arrays),
            scale=arrays.get("scale"),
            x_scale=float(arrays["x_scale"][0]) if self.needs_calibration else None,
            bias=bias,
            reach=self._reach,
            threads=threads,
        )

    def array_specs(self, in_features: int, out_features: int) -> ArraySpecs:
        """Shape and dtype of each array; the number of steps depends on the weights."""
        entries = 16 * _ENTRIES[self.values]
        specs: ArraySpecs = {
            "structure": ((None,), "uint8"),
            "values": ((None, entries), self.values),
        }
        if self.values == "int8":
            specs["scale"] = ((out_features,), "float32")
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
        if min(shape) < 0:
            raise ValueError(f"`shape` must hold sizes >= 0; received {shape}.")
        numbers = {"scale", "x_scale"} | ({"values"} if self.values != "int8" else set())
        for name in sorted(numbers & set(arrays)):
            if not np.isfinite(np.asarray(arrays[name], np.float32)).all():
                raise ValueError(f"`{name}` must be finite; received NaN or infinite values.")
        # A product with no rows computes nothing: only the arrays are checked.
        product = kernels.sparse_matmul(
            np.zeros((0, in_features), np.float32),
            **_for_kernels(arrays),
            scale=np.asarray(arrays["scale"]) if self.values == "int8" else None,
            x_scale=float(np.asarray(arrays["x_scale"])[0]) if self.needs_calibration else None,
            reach=self._reach,
        )
        if product.shape[1] != out_features:
            raise ValueError(
                f"`structure` must have {out_features} outputs; received {product.shape[1]}."
            )

    def work(self, arrays: Mapping[str, npt.NDArray[Any]]) -> float:
        """Places of all steps, empty ones included, as a share of the dense matrix."""
        in_features, out_features = map(int, arrays["shape"])
        return float(arrays["values"].size / max(in_features * out_features, 1))

    @property
    def dense_alternative(self) -> Format | None:
        """With `values="int8"`, int8 weights with the same treatment of the activations."""
        return Int8(self.activations) if self.values == "int8" else None

    @property
    def pruning(self) -> dict[str, Any] | None:
        """What `sparsity`, `threshold`, `pattern` and `block` ask for."""
        if self.sparsity is None and self.threshold is None and self.pattern is None:
            return None
        names = ("sparsity", "threshold", "pattern", "block")
        return {name: getattr(self, name) for name in names}

    def calibration_of(self, arrays: Mapping[str, npt.NDArray[Any]]) -> float | None:
        """The largest magnitude that `x_scale` stands for."""
        return range_of(arrays["x_scale"]) if self.needs_calibration else None

    def describe(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
        """The sparsity found, how full the steps are, and bytes beside those of plain CSR.

        Args:
            arrays: What `pack` made.

        Returns:
            Name of each fact to its value as text.
        """
        in_features, out_features = map(int, arrays["shape"])
        stored = int((np.asarray(arrays["values"], np.float32) != 0).sum())
        places = max(arrays["values"].size, 1)
        facts = {"sparsity": f"{100 * (1 - stored / max(in_features * out_features, 1)):.1f} %"}
        if self.pattern is not None:
            facts["pattern"] = self.pattern
        csr = stored * (4 + arrays["values"].itemsize) + 4 * (out_features + 1)
        facts["fill"] = f"{100 * stored / places:.0f} %"
        facts["CSR bytes"] = f"{csr:,}"
        return facts

    def observe(self, state: float | None, x: Any) -> float:
        """Keeps the largest magnitude of a layer's inputs.

        Args:
            state: The largest so far, `None` at first.
            x: Tensor `[..., in_features]`.

        Returns:
            The largest with this batch, NaN once an input is NaN.
        """
        return largest_magnitude(state, x)

    def _prune(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        pruning = self.pruning
        if pruning is None:
            return matrix
        return np.where(patterns.keep_mask(matrix, **pruning), matrix, np.float32(0))

    def _arrays(
        self,
        weights: npt.NDArray[Any],
        scale: npt.NDArray[np.float32] | None,
        calibration: Any,
    ) -> Arrays:
        bits = weights.view(np.uint16) if self.values == "bfloat16" else weights
        arrays: Arrays = dict(zip(_PACKED, kernels.sparse_pack(bits, self._reach), strict=True))
        if self.values == "bfloat16":
            arrays["values"] = arrays["values"].view(ml_dtypes.bfloat16)
        if scale is not None:
            arrays["scale"] = scale
        if self.needs_calibration:
            arrays["x_scale"] = x_scale_of(calibration)
        arrays["shape"] = np.array(weights.shape, np.int32)
        return arrays


def _for_kernels(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The packed arrays by name; bfloat16 as the bits that NumPy has a name for."""
    named = {name: np.asarray(arrays[name]) for name in _PACKED}
    if named["values"].dtype == ml_dtypes.bfloat16:
        named["values"] = named["values"].view(np.uint16)
    return named
