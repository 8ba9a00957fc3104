"""The base of the compressed layers, and which of them stands in for which Keras layer.

Adding a layer is one file beside this one: a class that derives from `CompressedLayer` under
`@replaces(keras.layers.X)`. `compress`, `decompress` and the report then know it.
"""

import abc
import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import keras
import numpy as np
import numpy.typing as npt

from tfcompress_ops import formats, quantizers
from tfcompress_ops.formats.format import (
    SIGNS_PER_WORD,
    Arrays,
    Format,
    check_array,
    check_names,
    check_shape,
)

_REPLACEMENTS: dict[type[keras.layers.Layer], type["CompressedLayer"]] = {}
# Compressed layers to the class of layers that are trained quantised for them.
_TRAINED: dict[type["CompressedLayer"], type[keras.layers.Layer]] = {}
_L = TypeVar("_L", bound=type["CompressedLayer"])
# Packed arrays are attributes, not values of a dict: TensorFlow's checkpoints follow attributes.
_ATTRIBUTE = "packed_{}"
_COMPUTE_DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a layer as a format takes them.

    Attributes:
        matrix: `[in_features, out_features]`: floating-point, or int8 that `scale` goes with.
        scale: float32 `[out_features]`, with an int8 matrix only.
        bias: float32 `[out_features]`, or `None`.
    """

    matrix: npt.NDArray[Any]
    scale: npt.NDArray[np.float32] | None
    bias: npt.NDArray[np.float32] | None

    def pack(self, format: Format, calibration: Any) -> Arrays:
        """The matrix in a format."""
        if self.scale is None:
            return format.pack(self.matrix, calibration)
        return format.pack_quantized(self.matrix, self.scale, calibration=calibration)

    def dense(self) -> npt.NDArray[np.float32]:
        """The matrix in float32."""
        matrix = np.asarray(self.matrix, np.float32)
        return matrix if self.scale is None else matrix * self.scale


class CompressedLayer(keras.layers.Layer, abc.ABC):  # type: ignore[misc]
    """A layer that keeps its kernel packed by a `Format` and multiplies by it as it is.

    The packed arrays are variables of the layer, saved under the names that the format gives them;
    only those are trained that the format says can be (`Format.trainable_arrays`). They are created
    with their final shapes, so that loading a file fills them and needs no other copy of the
    weights. The bias is an ordinary trainable float32 variable.

    XLA cannot compile the ops, so `supports_jit` is False.

    Args:
        format: A `Format`, or the name of one.
        **kwargs: Arguments of `keras.layers.Layer`.

    Attributes:
        format: The `Format`.
        bias: The bias variable, or `None`.
    """

    replaces: ClassVar[type[keras.layers.Layer]]

    bias: Any = None

    def __init__(self, *, format: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.compute_dtype not in _COMPUTE_DTYPES:
            raise ValueError(
                f"`dtype` must compute in one of {_COMPUTE_DTYPES}; received "
                f"{self.dtype_policy.name!r}. Use 'float32' or 'mixed_bfloat16'."
            )
        self.supports_jit = False
        self.format = formats.get(format)
        self._packed_names: tuple[str, ...] = ()
        # Set while weights are about to be loaded: their shapes, for which zeros will do.
        self._packed_shapes: dict[str, tuple[int, ...]] | None = None

    @classmethod
    @abc.abstractmethod
    def refusal(cls, layer: keras.layers.Layer) -> str | None:
        """Why a built layer of the class that this one replaces cannot be compressed, or `None`."""

    @classmethod
    def format_for(cls, format: Format) -> Format | None:
        """The format that a layer uses where this one is asked for, or `None` if it has no use."""
        return format

    @classmethod
    @abc.abstractmethod
    def arguments(cls, layer: keras.layers.Layer) -> dict[str, Any]:
        """Constructor arguments that both layer classes share, taken from a layer of either."""

    @classmethod
    @abc.abstractmethod
    def source_weights(cls, layer: keras.layers.Layer) -> Weights:
        """The weights of a layer of the class that this one replaces."""

    @classmethod
    def float_kernel(cls, layer: keras.layers.Layer) -> Any:
        """The variable whose values, in whatever shape, are a Keras layer's weight matrix.

        Args:
            layer: A built layer of the class that this one replaces.

        Returns:
            A floating-point `keras.Variable`, or `None` if Keras has quantised the matrix or LoRA
            weights add to it.
        """
        kernel = layer.kernel
        is_float = isinstance(kernel, keras.Variable) and keras.backend.is_float_dtype(kernel.dtype)
        return kernel if is_float else None

    @classmethod
    def assign_matrix(cls, layer: keras.layers.Layer, matrix: npt.NDArray[Any]) -> None:
        """Gives a Keras layer other weights; the inverse of `source_weights`.

        Args:
            layer: A built layer of the class that this one replaces, which has a `float_kernel`.
            matrix: Floating-point `[in_features, out_features]`.
        """
        kernel = cls.float_kernel(layer)
        kernel.assign(np.reshape(matrix, kernel.shape))

    @classmethod
    def scaled(
        cls, layer: keras.layers.Layer, scale: npt.NDArray[Any], shift: npt.NDArray[Any]
    ) -> keras.layers.Layer | None:
        """A Keras layer that gives `scale * outputs + shift`.

        Args:
            layer: A built layer of the class that this one replaces, with a linear activation.
            scale: `[out_features]`.
            shift: `[out_features]`.

        Returns:
            A new layer of the same class, or `None` if these weights cannot be scaled.
        """
        if getattr(layer, "use_bias", None) is None or cls.float_kernel(layer) is None:
            return None
        return cls._scaled(layer, scale, shift)

    @classmethod
    def _scaled(
        cls, layer: keras.layers.Layer, scale: npt.NDArray[Any], shift: npt.NDArray[Any]
    ) -> keras.layers.Layer:
        new = type(layer).from_config({**layer.get_config(), "use_bias": True})
        new.build_from_config(layer.get_build_config())
        weights = cls.source_weights(layer)
        cls.assign_matrix(new, weights.dense() * scale)
        new.bias.assign((0 if weights.bias is None else weights.bias) * scale + shift)
        return new

    @abc.abstractmethod
    def restore_weights(self, layer: keras.layers.Layer) -> None:
        """Gives a built Keras layer the weights that the packed arrays stand for."""

    @abc.abstractmethod
    def matrix_shape(self, input_shape: Any) -> tuple[int, int]:
        """`(in_features, out_features)` of the weight matrix for this input shape."""

    @abc.abstractmethod
    def initial_matrix(self, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Weights of a new layer."""

    @abc.abstractmethod
    def build_rest(self, input_shape: Any) -> None:
        """Creates what the layer has beside packed arrays, such as its bias."""

    @classmethod
    def from_layer(
        cls, layer: keras.layers.Layer, format: Any, calibration: Any = None
    ) -> "CompressedLayer":
        """Compresses a built layer of the class that this one replaces.

        Args:
            layer: The layer; it is left as it is, and no variable is shared with it.
            format: A `Format`, or the name of one.
            calibration: What the format's `observe` gathered from the layer's inputs.

        Returns:
            A built layer of the same name, trainability and dtype policy.

        Raises:
            ValueError: If the layer or its weights cannot be compressed.
        """
        if replacement(layer) is cls:
            reason = refusal(layer)
        else:
            reason = f"{cls.__name__} replaces {cls.replaces.__name__}, not {type(layer).__name__}"
        if reason is not None:
            raise ValueError(f"`layer` must be compressible; received {layer.name!r}: {reason}.")
        new = cls(format=format, **cls.arguments(layer))
        weights = cls.source_weights(layer)
        arrays = weights.pack(new.format, calibration)
        shapes = {name: array.shape for name, array in arrays.items()}
        new.build_from_config({**layer.get_build_config(), "packed_shapes": shapes})
        for name, variable in new._packed.items():
            variable.assign(arrays[name])
        if weights.bias is not None:
            new.bias.assign(weights.bias)
        return new

    def to_layer(self) -> keras.layers.Layer:
        """The plain Keras layer with the weights that the packed arrays stand for.

        Returns:
            A built layer of the same name: of the class that this one replaces, or, where inputs
            count by their signs alone, of that which is trained so.
        """
        layer = self._plain_layer()
        config = self.get_build_config() or {}
        if self.format.packed_inputs:
            *before, words = config["input_shape"]
            config = {"input_shape": (*before, words * SIGNS_PER_WORD)}
        layer.build_from_config(config)
        self.restore_weights(layer)
        return layer

    def _plain_layer(self) -> keras.layers.Layer:
        """A new layer that treats inputs as the format does, as far as there is one."""
        arguments = self.arguments(self)
        trained, found = _TRAINED.get(type(self)), quantizers.training(self.format)
        if not self.format.takes_signs or found is None:
            return self.replaces(**arguments)
        if trained is None:
            warnings.warn(
                f"Layer {self.name!r} becomes a {self.replaces.__name__}, which multiplies its "
                f"inputs, not their signs as {self.format} does: its outputs are others.",
                stacklevel=3,
            )
            return self.replaces(**arguments)
        kernel_quantizer, input_quantizer = found
        weights = self.weight_matrix()
        exact = np.array_equal(kernel_quantizer(weights), weights)
        return trained(
            kernel_quantizer=kernel_quantizer if exact else None,
            input_quantizer=input_quantizer,
            **arguments,
        )

    def build(self, input_shape: Any) -> None:
        """Draws the weights from their initializer and packs them.

        A format that needs calibration starts from zeros instead: its arrays are loaded, or come
        from `tfc.compress`.

        Args:
            input_shape: Shape of the input, its feature dimensions known.

        Raises:
            ValueError: If there are no weights to pack, and the arrays' shapes depend on them.
        """
        self._input_shape = tuple(input_shape)
        shape = self.matrix_shape(self._input_shape)
        specs = self.format.array_specs(*shape)
        arrays = None
        if self._packed_shapes is not None:
            specs = {name: (self._packed_shapes[name], spec[1]) for name, spec in specs.items()}
        elif not self.format.needs_calibration:
            arrays = self.format.pack(self.initial_matrix(shape))
        if arrays is None and any(None in array_shape for array_shape, _ in specs.values()):
            raise ValueError(
                f"Layer {self.name!r} must be made from weights: how large the arrays of "
                f"{self.format} are depends on them. Use tfc.compress, or load a whole model."
            )
        self._packed_names = tuple(specs)
        for name, (array_shape, dtype) in specs.items():
            variable = self.add_weight(
                name=name,
                shape=array_shape if arrays is None else arrays[name].shape,
                initializer="zeros",
                dtype=dtype,
                trainable=name in self.format.trainable_arrays,
                autocast=False,
            )
            if arrays is not None:
                variable.assign(arrays[name])
            setattr(self, _ATTRIBUTE.format(name), variable)
        self.build_rest(self._input_shape)

    def get_build_config(self) -> dict[str, Any] | None:
        """The input shape, and the packed arrays' shapes: some formats' depend on the weights."""
        if not self.built:
            return None
        shapes = {name: list(variable.shape) for name, variable in self._packed.items()}
        return {"input_shape": self._input_shape, "packed_shapes": shapes}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Creates the variables that `get_build_config` describes, filled with zeros.

        Keras calls this before it loads weights; nothing is drawn or packed.

        Args:
            config: The result of `get_build_config`. Without `packed_shapes` they are those that
                the format makes whatever the weights are.

        Raises:
            ValueError: If the shapes are not what the format makes for this input shape.
        """
        if not config or self.built:
            return
        input_shape = tuple(config["input_shape"])
        specs = self.format.array_specs(*self.matrix_shape(input_shape))
        shapes = config.get("packed_shapes", {name: spec[0] for name, spec in specs.items()})
        try:
            check_names(shapes, specs)
            for name, (shape, _) in specs.items():
                check_shape(name, shapes[name], shape)
        except ValueError as error:
            raise ValueError(
                f"`packed_shapes` of layer {self.name!r} must fit {self.format}: {error}"
            ) from error
        self._packed_shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.build(input_shape)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuses: the weights are packed. `keras.Model.quantize` warns so and goes on.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            f"Layer {self.name!r} is compressed already, to {self.format}. Quantize the model that "
            "it was made from, or what tfc.decompress makes of this one."
        )

    @property
    def _packed(self) -> dict[str, Any]:
        """The variables of the packed arrays by name."""
        return {name: getattr(self, _ATTRIBUTE.format(name)) for name in self._packed_names}

    def __getattr__(self, name: str) -> Any:
        """Says why there is no float variable to use elsewhere."""
        if name in ("kernel", "embeddings", "recurrent_kernel"):
            raise AttributeError(
                f"`{name}` of layer {self.name!r} is packed as {self.format} and is no variable. "
                "Leave a layer whose weights are used outside of it uncompressed: give its path "
                f"the format None. weight_matrix() unpacks a copy."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def packed_arrays(self) -> Arrays:
        """The packed arrays as NumPy arrays."""
        return {name: variable.numpy() for name, variable in self._packed.items()}

    def weight_matrix(self) -> npt.NDArray[np.float32]:
        """The float32 matrix `[in_features, out_features]` that the packed arrays stand for."""
        return self.format.unpack(self.packed_arrays())

    def matmul(self, x: Any, activation: Any = None) -> Any:
        """`activation(x @ weight_matrix() + bias)` in the compute dtype, whatever `x` has."""
        if not self.format.packed_inputs:
            x = keras.ops.cast(x, self.compute_dtype)
        return self.format.matmul(x, self._packed, bias=self.bias, activation=activation)

    def save_own_variables(self, store: Any) -> None:
        """Saves the packed arrays and the bias under their names.

        Args:
            store: The dict-like place to save to.
        """
        for name, variable in self._named_variables().items():
            store[name] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved, after checking that it fits.

        Args:
            store: The dict-like place to load from.

        Raises:
            ValueError: If names, shapes, dtypes or values are not what the layer's format makes.
        """
        variables = self._named_variables()
        try:
            check_names(store.keys(), variables)
            arrays = {name: np.asarray(store[name]) for name in variables}
            for name, variable in variables.items():
                check_array(name, arrays[name], (tuple(variable.shape), variable.dtype))
            packed = {name: arrays[name] for name in self._packed}
            self.format.check_arrays(packed, *self.matrix_shape(self._input_shape))
        except ValueError as error:
            raise ValueError(
                f"The weights file does not fit layer {self.name!r} ({self.format}): {error} "
                "Save the model again from its source."
            ) from error
        for name, variable in variables.items():
            variable.assign(arrays[name])

    def _named_variables(self) -> dict[str, Any]:
        return self._packed if self.bias is None else {**self._packed, "bias": self.bias}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        format_config = keras.saving.serialize_keras_object(self.format)
        return {**super().get_config(), "format": format_config}


def replaces(keras_class: type[keras.layers.Layer]) -> Callable[[_L], _L]:
    """Class decorator: makes a compressed layer the replacement of a Keras layer class.

    Subclasses of `keras_class` are not replaced: their `call` may do something else.
    """

    def register(cls: _L) -> _L:
        cls.replaces = keras_class
        _REPLACEMENTS[keras_class] = cls
        registered: _L = keras.saving.register_keras_serializable(package="tfcompress")(cls)
        return registered

    return register


def packs_into(
    cls: type[CompressedLayer],
) -> Callable[[type[keras.layers.Layer]], type[keras.layers.Layer]]:
    """Class decorator: makes a layer class that is trained quantised one that `cls` replaces.

    Args:
        cls: The compressed layer. What it takes from a layer of the class that it replaces, it can
            take from one of the decorated class, whose `kernel` is the quantised one.

    Returns:
        The decorator. The class has a method `trained_format`, which gives the format that holds
        the quantised kernel exactly, or raises ValueError.
    """

    def register(trained: type[keras.layers.Layer]) -> type[keras.layers.Layer]:
        _REPLACEMENTS[trained] = cls
        _TRAINED[cls] = trained
        return trained

    return register


def trained_format(layer: keras.layers.Layer) -> Format | None:
    """The format that a layer was trained for, or `None` for a float layer.

    Raises:
        ValueError: If no format computes what the layer was trained to compute.
    """
    method: Callable[[], Format] | None = getattr(type(layer), "trained_format", None)
    return None if method is None else layer.trained_format()


def replacement(layer: keras.layers.Layer) -> type[CompressedLayer] | None:
    """The compressed layer class that can stand in for a layer of this class, or `None`."""
    return _REPLACEMENTS.get(type(layer))


def refusal(layer: keras.layers.Layer) -> str | None:
    """Why a layer cannot be compressed, in a few words, or `None` if it can."""
    cls = replacement(layer)
    if cls is None:
        return f"{type(layer).__name__} has no compressed counterpart"
    if not layer.built:
        return "it is not built"
    if layer.compute_dtype not in _COMPUTE_DTYPES:
        return f"it computes in {layer.compute_dtype}"
    try:
        trained_format(layer)
    except ValueError as error:
        return str(error)
    return cls.refusal(layer)
