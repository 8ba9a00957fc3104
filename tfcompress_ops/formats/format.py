"""What a compressed format is, and the registry that formats are found in by name.

Adding a format is one file beside this one: a frozen dataclass that derives from `Format` under
`@register_format`. Layers, `compress`, the report, the command line, the demo and the benchmarks
then know it, and nothing else names it.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import keras
import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
# Signs in a word of a tensor of packed signs.
SIGNS_PER_WORD = 32
# Name to (shape, dtype). A dimension of None is known only once the weights are packed.
ArraySpecs = dict[str, tuple[tuple[int | None, ...], str]]

_FORMATS: dict[str, type["Format"]] = {}
_F = TypeVar("_F", bound=type["Format"])


@dataclasses.dataclass(frozen=True)
class Format(abc.ABC):
    """One way to store a weight matrix `[in_features, out_features]` and to multiply by it.

    A format is a value: a frozen dataclass whose fields are its options. It holds no weights. Its
    packed form is a dict of named NumPy arrays, which layers keep as variables of the same names.

    Attributes:
        name: What the format is registered as, such as `"int8"`.
    """

    name: ClassVar[str]

    @property
    def needs_calibration(self) -> bool:
        """Whether `pack` needs what `observe` gathered from a layer's inputs."""
        return False

    @property
    def trainable_arrays(self) -> tuple[str, ...]:
        """Packed arrays that a layer may train: those that the op has a gradient for."""
        return ()

    @property
    def takes_signs(self) -> bool:
        """Whether a layer's inputs count by their signs alone, so that a float product differs."""
        return False

    @property
    def packed_inputs(self) -> bool:
        """Whether a layer's inputs are packed signs, int32 `[..., in_features / 32]`."""
        return False

    @property
    def packed_outputs(self) -> bool:
        """Whether a layer's outputs are packed signs, int32 `[..., out_features / 32]`."""
        return False

    @property
    def label(self) -> str:
        """Short text for tables, such as `"int8 dynamic"`."""
        return self.name

    @classmethod
    def variants(cls) -> list[tuple[str, "Format"]]:
        """The `(label, format)` pairs that the demo and the benchmarks show."""
        return [(cls().label, cls())]

    @abc.abstractmethod
    def pack(self, kernel: npt.ArrayLike, calibration: Any = None) -> Arrays:
        """Compresses a weight matrix.

        Args:
            kernel: Finite floating-point array `[in_features, out_features]`.
            calibration: What `observe` returned last, or `None`.

        Returns:
            Named arrays, with the shapes and dtypes of `array_specs`.

        Raises:
            TypeError: If `kernel` is not floating-point.
            ValueError: If it is not a finite matrix, or `calibration` is needed and missing.
        """

    def pack_quantized(
        self,
        quantized: npt.ArrayLike,
        scale: npt.ArrayLike,
        mean: npt.ArrayLike | None = None,
        calibration: Any = None,
    ) -> Arrays:
        """Compresses a matrix that is int8 already: `scale * quantized + mean`.

        Args:
            quantized: int8 `[in_features, out_features]`.
            scale: Floating-point `[out_features]`.
            mean: Floating-point `[out_features]` or `None`.
            calibration: See `pack`.

        Returns:
            Named arrays. Formats that hold int8 values keep the given ones exactly.

        Raises:
            TypeError: If `quantized` is not int8.
            ValueError: If shapes do not fit, or values are out of range.
        """
        matrix = np.asarray(quantized, np.float32) * np.asarray(scale, np.float32)
        return self.pack(matrix if mean is None else matrix + np.asarray(mean), calibration)

    @abc.abstractmethod
    def unpack(self, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The float32 matrix `[in_features, out_features]` that packed arrays stand for.

        Raises:
            ValueError: If `arrays` are not what `pack` makes.
        """

    @abc.abstractmethod
    def matmul(
        self, x: Any, arrays: Mapping[str, Any], bias: Any = None, activation: Any = None
    ) -> Any:
        """`activation(x @ unpack(arrays) + bias)` as TensorFlow ops.

        Args:
            x: Floating-point tensor `[..., in_features]`.
            arrays: Packed arrays as tensors or variables.
            bias: Tensor `[out_features]` or `None`.
            activation: Anything that `keras.activations.get` accepts.

        Returns:
            Tensor `[..., out_features]` of `x`'s dtype.
        """

    def kernel(
        self, arrays: Mapping[str, npt.NDArray[Any]], bias: Any = None, threads: int = 1
    ) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]:
        """The kernel of `matmul` alone, without TensorFlow.

        Args:
            arrays: What `pack` made.
            bias: float32 array `[out_features]` or `None`.
            threads: Threads that it uses, >= 1.

        Returns:
            A function from float32 `[rows, in_features]` to `[rows, out_features]`.
        """
        raise NotImplementedError(f"{self} has no kernel that runs on NumPy arrays.")

    @abc.abstractmethod
    def array_specs(self, in_features: int, out_features: int) -> ArraySpecs:
        """Shape and dtype of each packed array of an `[in_features, out_features]` matrix."""

    def observe(self, state: Any, x: Any) -> Any:
        """Takes one batch of a layer's inputs into the calibration.

        Args:
            state: What the last call returned, `None` at first.
            x: Tensor `[..., in_features]`.

        Returns:
            The new state, which `pack` takes as `calibration`.
        """
        raise NotImplementedError(f"{self} takes no calibration.")

    def check_arrays(self, arrays: Mapping[str, Any], in_features: int, out_features: int) -> None:
        """Compares names, shapes, dtypes and values with what `pack` would make.

        Raises:
            ValueError: If `arrays` cannot be a packed `[in_features, out_features]` matrix.
        """
        specs = self.array_specs(in_features, out_features)
        check_names(arrays, specs)
        for name, spec in specs.items():
            check_array(name, arrays[name], spec)

    def nbytes(self, arrays: Mapping[str, npt.NDArray[Any]]) -> int:
        """Bytes that packed arrays take."""
        return sum(array.nbytes for array in arrays.values())

    def work(self, arrays: Mapping[str, npt.NDArray[Any]]) -> float | None:
        """Multiply-adds that packed arrays cost, as a share of those of the dense matrix.

        Args:
            arrays: What `pack` made.

        Returns:
            The share, padding included, or `None` for formats that multiply every weight: whether
            they pay is no question of the weights.
        """
        del arrays
        return None

    @property
    def dense_alternative(self) -> "Format | None":
        """A format that stores values as this one does, and all of them; `None` if there is none.

        It takes over where this one multiplies too much to pay.
        """
        return None

    @property
    def lookup_format(self) -> "Format | None":
        """The format that an embedding table takes where this one is asked for, if there is one.

        It has `lookup`, and needs no calibration.
        """
        return None

    def lookup(
        self, indices: Any, arrays: Mapping[str, Any], in_features: int, dtype: Any = "float32"
    ) -> Any:
        """Columns of the matrix that packed arrays stand for, and no others unpacked.

        Args:
            indices: int32 or int64 tensor `[...]` in 0 ... out_features - 1.
            arrays: Packed arrays of a `[in_features, out_features]` matrix, as tensors or
                variables.
            in_features: Rows of the matrix.
            dtype: Of the result: float32, bfloat16 or float16.

        Returns:
            Tensor `[..., in_features]`.
        """
        raise NotImplementedError(f"{self} looks nothing up.")

    @property
    def pruning(self) -> dict[str, Any] | None:
        """Arguments of `tfc.prune` that remove what `pack` would, or `None` if it removes nothing.

        Pruned weights want training: prune with these, train on, then pack.
        """
        return None

    def calibration_of(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
        """The calibration that packed arrays were made with, for another format's `pack`."""
        del arrays
        return None

    def describe(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
        """What there is to say of packed arrays besides their bytes.

        Args:
            arrays: What `pack` made.

        Returns:
            Name of each fact to its value as text.
        """
        del arrays
        return {}

    def get_config(self) -> dict[str, Any]:
        """The options, for `from_config`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Format":
        """The format with these options."""
        return cls(**config)


def check_names(arrays: Iterable[str], expected: Iterable[str]) -> None:
    """Compares the names of packed arrays with the expected ones.

    Raises:
        ValueError: If they differ.
    """
    if set(arrays) != set(expected):
        raise ValueError(f"`arrays` must be named {sorted(expected)}; received {sorted(arrays)}.")


def check_shape(name: str, shape: Sequence[int], expected: Sequence[int | None]) -> None:
    """Compares a shape with the expected one, where `None` stands for any size.

    Raises:
        ValueError: If they differ.
    """
    fits = len(shape) == len(expected) and all(
        want in (None, have) for want, have in zip(expected, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"`{name}` must have shape {tuple(expected)}; received {tuple(shape)}.")


def check_array(name: str, array: Any, spec: tuple[tuple[int | None, ...], str]) -> None:
    """Compares one array's shape and dtype with its spec.

    Raises:
        ValueError: If they differ.
    """
    check_shape(name, array.shape, spec[0])
    dtype = np.dtype(array.dtype).name
    if dtype != spec[1]:
        raise ValueError(f"`{name}` must be {spec[1]}; received {dtype}.")


def as_matrix(kernel: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Checks a weight matrix and gives it as contiguous float32.

    Raises:
        TypeError: If `kernel` is not floating-point.
        ValueError: If it is not a matrix, or not finite.
    """
    array = np.asarray(kernel)
    if not array.dtype.name.startswith(("float", "bfloat")):
        raise TypeError(
            f"`kernel` must be floating-point; received {array.dtype.name} (shape {array.shape}). "
            "Weights that are int8 already go through `pack_quantized`."
        )
    if array.ndim != 2:
        raise ValueError(
            f"`kernel` must be a matrix [in_features, out_features]; received shape {array.shape}. "
            "Reshape it."
        )
    matrix = np.ascontiguousarray(array, np.float32)
    # A NaN or an infinity is an extreme; this needs no matrix of booleans.
    if not np.isfinite([matrix.min(initial=0), matrix.max(initial=0)]).all():
        count = int(matrix.size - np.isfinite(matrix).sum())
        raise ValueError(
            f"`kernel` must be finite; received {count} NaN or infinite values (shape "
            f"{array.shape}). Check the training that made them."
        )
    return matrix


def register_format(cls: _F) -> _F:
    """Class decorator: makes a format known by its `name`, and to Keras' serialisation.

    Raises:
        ValueError: If another format has that name.
    """
    known = _FORMATS.get(cls.name)
    if known is not None and known.__qualname__ != cls.__qualname__:
        raise ValueError(f"`name` must be unused; received {cls.name!r}, which {known} has.")
    _FORMATS[cls.name] = cls
    registered: _F = keras.saving.register_keras_serializable(package="tfcompress")(cls)
    return registered


def names() -> list[str]:
    """Names of the registered formats."""
    return sorted(_FORMATS)


def get(identifier: Any) -> Format:
    """Finds a format.

    Args:
        identifier: A `Format`, the name of one (with its default options), or the config that
            `keras.saving.serialize_keras_object` makes of one.

    Returns:
        The format.

    Raises:
        ValueError: If no format has that name.
        TypeError: If `identifier` is something else.

    Example:
        >>> get("int8")
        Int8(activations='dynamic', center=False)
    """
    if isinstance(identifier, Format):
        return identifier
    if isinstance(identifier, str):
        if identifier not in _FORMATS:
            raise ValueError(f"`format` must be one of {names()}; received {identifier!r}.")
        return _FORMATS[identifier]()
    if isinstance(identifier, Mapping):
        found = keras.saving.deserialize_keras_object(dict(identifier))
        if isinstance(found, Format):
            return found
    raise TypeError(
        f"`format` must be a Format such as tfc.Int8(), a name out of {names()}, or a serialised "
        f"format; received {identifier!r}."
    )
