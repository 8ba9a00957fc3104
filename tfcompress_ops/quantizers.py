"""Quantisers for training: their forward pass is what a packed format computes.

A quantiser reduces weights or activations to a few levels and one scale per output or per row,
`x ~ scale * levels(x)`. Rounding has no useful gradient, so the backward pass puts another function
in its place: a straight-through estimator (Bengio, Léonard, Courville, "Estimating or Propagating
Gradients Through Stochastic Neurons for Conditional Computation", 2013). The layers of
`tfcompress_ops.layers.quantized` multiply by quantised weights while the optimizer updates the
float ones behind them.

| quantiser | levels | gradient | format of a kernel |
|---|---|---|---|
| `SteSign` | sign(x) | 1 where abs(x) <= clip_value | `Binary` |
| `ApproxSign` | sign(x) | 2 - 2 abs(x) where abs(x) <= 1 | `Binary` |
| `SteTern` | -1, 0, +1 | 1 where abs(x) <= clip_value | `Ternary` |
| `FakeInt8` | -127 ... 127 | 1 | `Int8` |
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar, get_args

import keras
import tensorflow as tf

from tfcompress_ops.formats import Binary, Format, Int8, Ternary

Threshold = Literal["twn", "absmean"]

_LARGEST = 127.0
_TINY = 2.0**-100  # A row of smaller magnitudes counts as zeros, as it does in the kernels.
_TWN = 0.7
_Q = TypeVar("_Q", bound=type["Quantizer"])
_QUANTIZERS: dict[str, type["Quantizer"]] = {}


def register_quantizer(cls: _Q) -> _Q:
    """Class decorator: makes a quantiser known by its class name, and to Keras' serialisation."""
    _QUANTIZERS[cls.__name__] = cls
    registered: _Q = keras.saving.register_keras_serializable(package="tfcompress")(cls)
    return registered


class Quantizer(abc.ABC):
    """Reduces a tensor to levels and scales.

    Attributes:
        input_options: Options of a format whose inputs are treated as this quantiser treats them.
        keeps_zeros: Whether a weight of zero stays zero, so that a kernel can be pruned.
    """

    keeps_zeros: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def input_options(self) -> dict[str, Any]:
        """Options of a format that quantises its inputs like this, such as their `activations`."""

    @abc.abstractmethod
    def format(self, input_options: Mapping[str, Any]) -> Format:
        """The format that holds a kernel of this quantiser exactly.

        Args:
            input_options: `input_options` of the quantiser of the inputs, `{}` if there is none.

        Returns:
            A format.

        Raises:
            TypeError, ValueError: If the format cannot treat inputs so.
        """

    @abc.abstractmethod
    def levels(self, x: Any, axis: Sequence[int]) -> tuple[Any, Any]:
        """Levels and their scales, both differentiable.

        Args:
            x: Floating-point tensor.
            axis: Axes along which a scale is shared: all but the last for a kernel, the last for
                activations.

        Returns:
            Levels, of `x`'s shape and dtype, and scales that broadcast against them, or `None` for
            a scale of 1.
        """

    def __call__(self, x: Any) -> Any:
        """Quantises a kernel: one scale per output, which is the last axis.

        Args:
            x: Floating-point tensor `[..., out_features]`.

        Returns:
            Tensor of the same shape and dtype.
        """
        x = tf.convert_to_tensor(x)
        levels, scale = self.levels(x, tuple(range(x.shape.rank - 1)))
        return levels if scale is None else levels * scale

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Quantizer":
        """The quantiser with these arguments."""
        return cls(**config)


class _Sign(Quantizer):
    """Signs, and what the estimators of their gradient share."""

    keeps_zeros = False

    def __init__(self, scale: bool) -> None:
        if not isinstance(scale, bool):
            raise TypeError(f"`scale` must be a bool; received {scale!r}.")
        self.scale = scale

    @property
    def input_options(self) -> dict[str, Any]:
        """Binary activations, scaled by rows with `scale=True`."""
        return {"activations": "binary", **({"scale_inputs": True} if self.scale else {})}

    def format(self, input_options: Mapping[str, Any]) -> Format:
        """`tfc.Binary`, for inputs of every kind."""
        return Binary(**input_options)

    def levels(self, x: Any, axis: Sequence[int]) -> tuple[Any, Any]:
        """sign(x), and mean |x| with `scale=True`."""
        return _straight_through(_sign(x), x, self.gradient), (
            _mean_magnitude(x, axis) if self.scale else None
        )

    @abc.abstractmethod
    def gradient(self, x: Any) -> Any:
        """The derivative that stands for that of sign(x)."""


@register_quantizer
class SteSign(_Sign):
    r"""sign(x) with the clipped straight-through estimator.

        q(x) = +1 where x >= 0, -1 where x < 0
        dq/dx = 1 where |x| <= clip_value, 0 elsewhere

    With `scale=True`, q(x) is multiplied by the mean of |x|: of each output's weights for a kernel
    (alpha of XNOR-Net), of each row for inputs. The scale is differentiated, too: with n weights an
    output and g the gradient of its loss by the quantised weights, weight i gets
    `alpha * dq/dw_i * g_i + sign(w_i) / n * sum_j(g_j * sign(w_j))`. XNOR-Net's equation in section
    3.1 keeps the term j = i of that sum alone.

    Args:
        clip_value: Positive number. Beyond it the gradient is zero: combine it with
            `tfc.constraints.WeightClip`, so that no weight gets stuck there.
        scale: Whether levels are scaled by the mean magnitude.

    Raises:
        ValueError: If `clip_value` is not positive.

    Example:
        >>> SteSign()(np.array([[-0.5], [0.0], [2.0]], "float32")).numpy().ravel()
        array([-1.,  1.,  1.], dtype=float32)

    References:
        Hubara et al., "Binarized Neural Networks", 2016, equation 4. Rastegari et al., "XNOR-Net:
        ImageNet Classification Using Binary Convolutional Neural Networks", 2016, section 3.1.
    """

    def __init__(self, clip_value: float = 1.0, scale: bool = False) -> None:
        super().__init__(scale)
        self.clip_value = check_clip_value(clip_value)

    def gradient(self, x: Any) -> Any:
        """1 where |x| <= clip_value."""
        return tf.cast(tf.abs(x) <= self.clip_value, x.dtype)


@register_quantizer
class ApproxSign(_Sign):
    """sign(x) with the gradient of a piecewise quadratic approximation.

        q(x) = +1 where x >= 0, -1 where x < 0
        dq/dx = 2 - 2 |x| where |x| <= 1, 0 elsewhere

    Args:
        scale: See `SteSign`.

    Example:
        >>> ApproxSign()(np.array([[-0.5], [0.0]], "float32")).numpy().ravel()
        array([-1.,  1.], dtype=float32)

    References:
        Liu et al., "Bi-Real Net: Enhancing the Performance of 1-bit CNNs With Improved
        Representational Capability and Advanced Training Algorithm", 2018, equation 5.
    """

    def __init__(self, scale: bool = False) -> None:
        super().__init__(scale)

    def gradient(self, x: Any) -> Any:
        """2 - 2 |x| where |x| <= 1."""
        return tf.nn.relu(2 - 2 * tf.abs(x))


@register_quantizer
class SteTern(Quantizer):
    """-1, 0 and +1 times a scale, with the clipped straight-through estimator; for kernels.

        "twn": delta = 0.7 mean |w|;  t = sign(w) where |w| > delta, 0 elsewhere;
               q(w) = scale * t,  scale = mean |w| where |w| > delta; one of each per output
        "absmean": q(w) = scale * clip(round(w / scale), -1, 1),  scale = mean |w| of all weights
        dq/dw = 1 where |w| <= clip_value, 0 elsewhere; scale and delta are held constant

    Args:
        threshold: `"twn"` or `"absmean"`.
        clip_value: Positive number, or `None` for a gradient of 1 everywhere.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> SteTern()(np.array([[0.1], [-1.5], [2.5]], "float32")).numpy().ravel()
        array([ 0., -2.,  2.], dtype=float32)

    References:
        Li et al., "Ternary Weight Networks", 2016, equations 5 and 6, here per output. Ma et al.,
        "The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits", 2024, equations 1 to 3.
    """

    def __init__(self, threshold: Threshold = "twn", clip_value: float | None = None) -> None:
        if threshold not in get_args(Threshold):
            raise ValueError(
                f"`threshold` must be one of {get_args(Threshold)}; received {threshold!r}."
            )
        self.threshold = threshold
        self.clip_value = None if clip_value is None else check_clip_value(clip_value)

    @property
    def input_options(self) -> dict[str, Any]:
        """Ternary activations, which no format has."""
        return {"activations": "ternary"}

    def format(self, input_options: Mapping[str, Any]) -> Format:
        """`tfc.Ternary`, for float and int8 inputs.

        Its threshold is always `"twn"`, which keeps levels of one magnitude and zeros; absmean
        would take its scale from the zeros, too.
        """
        return Ternary(**input_options)

    def levels(self, x: Any, axis: Sequence[int]) -> tuple[Any, Any]:
        """-1, 0 and +1, and the scale of what is not 0."""
        magnitude = tf.abs(x)
        if self.threshold == "twn":
            kept = magnitude > _TWN * tf.reduce_mean(magnitude, axis, keepdims=True)
            kept_sum = tf.reduce_sum(tf.where(kept, magnitude, 0), axis, keepdims=True)
            count = tf.reduce_sum(tf.cast(kept, x.dtype), axis, keepdims=True)
            scale = tf.math.divide_no_nan(kept_sum, count)
            levels = tf.where(kept, tf.sign(x), 0)
        else:
            scale = tf.reduce_mean(magnitude)
            levels = tf.clip_by_value(tf.round(tf.math.divide_no_nan(x, scale)), -1, 1)
        scale = tf.stop_gradient(scale)

        def gradient(x: Any) -> Any:
            # Of the levels: multiplied by the scale it is that of q(w).
            inverse = tf.broadcast_to(tf.math.divide_no_nan(tf.ones((), x.dtype), scale), x.shape)
            if self.clip_value is None:
                return inverse
            return tf.where(tf.abs(x) <= self.clip_value, inverse, 0)

        return _straight_through(levels, x, gradient), scale


@register_quantizer
class FakeInt8(Quantizer):
    """Rounds to int8 and back, with the straight-through estimator.

        q(x) = scale * round(x / scale),  scale = max |x| / 127
        dq/dx = 1

    Rounding is to the nearest, ties to even. A kernel has one scale per output, inputs one per row,
    as `tfc.Int8` has them; a scale is held constant in the backward pass. It trains a network to
    live with the rounding: quantisation-aware training.

    Example:
        >>> FakeInt8()(np.array([[127.0], [1.4]], "float32")).numpy().ravel()
        array([127.,   1.], dtype=float32)

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", 2018, section 3; here symmetric, with one scale per
        output.
    """

    @property
    def input_options(self) -> dict[str, Any]:
        """int8 activations."""
        return {"activations": "int8"}

    def format(self, input_options: Mapping[str, Any]) -> Format:
        """`tfc.Int8`, for float inputs or int8 ones, which it calls dynamic."""
        options = {"activations": "float", **input_options}
        if options["activations"] == "int8":
            options["activations"] = "dynamic"
        return Int8(**options)

    def levels(self, x: Any, axis: Sequence[int]) -> tuple[Any, Any]:
        """Integers, and the largest magnitude over 127."""
        largest = tf.stop_gradient(tf.reduce_max(tf.abs(x), axis, keepdims=True))
        largest = tf.where(largest < _TINY, tf.zeros((), x.dtype), largest)
        # A multiplication by the inverse, as in the kernels: they round the same products.
        inverse = tf.math.divide_no_nan(tf.constant(_LARGEST, x.dtype), largest)

        def gradient(x: Any) -> Any:
            return tf.broadcast_to(inverse, tf.shape(x))

        return _straight_through(tf.round(x * inverse), x, gradient), largest / _LARGEST


def get(identifier: Any) -> Quantizer | None:
    """Finds a quantiser.

    Args:
        identifier: `None`, a `Quantizer`, the name of one (with its default arguments), or the
            config that `keras.saving.serialize_keras_object` makes of one.

    Returns:
        The quantiser, or `None`.

    Raises:
        ValueError: If no quantiser has that name.
        TypeError: If `identifier` is something else.

    Example:
        >>> get("SteSign").get_config()
        {'scale': False, 'clip_value': 1.0}
    """
    if identifier is None or isinstance(identifier, Quantizer):
        return identifier
    if isinstance(identifier, str):
        if identifier not in _QUANTIZERS:
            raise ValueError(
                f"A quantizer must be one of {sorted(_QUANTIZERS)}; received {identifier!r}."
            )
        return _QUANTIZERS[identifier]()
    if isinstance(identifier, Mapping):
        found = keras.saving.deserialize_keras_object(dict(identifier))
        if isinstance(found, Quantizer):
            return found
    raise TypeError(
        "A quantizer must be None, a Quantizer such as tfc.quantizers.SteSign(), a name out of "
        f"{sorted(_QUANTIZERS)}, or a serialised quantizer; received {identifier!r}."
    )


def format_of(kernel_quantizer: Quantizer | None, input_quantizer: Quantizer | None) -> Format:
    """The format that computes what a layer with these quantisers does.

    Args:
        kernel_quantizer: Quantiser of the kernel.
        input_quantizer: Quantiser of the inputs.

    Returns:
        A format whose `pack` keeps the quantised kernel.

    Raises:
        ValueError: If there is none.

    Example:
        >>> format_of(SteSign(), FakeInt8()).label
        'binary int8'
    """
    options = {} if input_quantizer is None else input_quantizer.input_options
    try:
        if kernel_quantizer is not None:
            return kernel_quantizer.format(options)
    except (TypeError, ValueError):
        pass
    names = [
        "None" if quantizer is None else type(quantizer).__name__
        for quantizer in (kernel_quantizer, input_quantizer)
    ]
    raise ValueError(f"no format holds kernel_quantizer={names[0]} with input_quantizer={names[1]}")


def check_clip_value(value: Any) -> float:
    """Checks the magnitude that weights are clipped at.

    Raises:
        ValueError: If it is not a positive number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"`clip_value` must be a positive number; received {value!r}.")
    return float(value)


def _mean_magnitude(x: Any, axis: Sequence[int]) -> Any:
    """The mean of |x|, exact where all magnitudes are one, as those of a quantised kernel are."""
    magnitude = tf.abs(x)
    mean = tf.reduce_mean(magnitude, axis, keepdims=True)
    rest = tf.stop_gradient(magnitude)
    most = tf.reduce_max(rest, axis, keepdims=True)
    same = tf.reduce_min(rest, axis, keepdims=True) == most
    # The difference of numbers this close is exact; the gradient is that of the mean.
    return mean + tf.where(same, most - tf.stop_gradient(mean), tf.zeros((), x.dtype))


def _sign(x: Any) -> Any:
    one = tf.ones((), x.dtype)
    return tf.where(x >= 0, one, -one)


def _straight_through(levels: Any, x: Any, gradient: Callable[[Any], Any]) -> Any:
    """`levels` in the forward pass, `gradient(x)` times what comes from above in the backward."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def forward(x: Any) -> tuple[Any, Callable[[Any], Any]]:
        return tf.stop_gradient(levels), lambda upstream: upstream * gradient(x)

    return forward(x)


__all__ = [
    "ApproxSign",
    "FakeInt8",
    "Quantizer",
    "SteSign",
    "SteTern",
    "aware",
    "format_of",
    "get",
    "register_quantizer",
    "training",
]


def training(format: Format) -> tuple[Quantizer, Quantizer | None] | None:
    """What layers are trained with that are to be packed in a format of one or two bits.

    Args:
        format: Any format.

    Returns:
        A quantiser of the kernel and one of the inputs or `None`, of which `format_of` gives the
        format again (without `center`, which no quantiser has); `None` for formats that are close
        enough to float weights to need no training.
    """
    if isinstance(format, Binary):
        kernel: Quantizer = SteSign(scale=True)
        signs: Quantizer | None = SteSign(scale=format.scale_inputs)
    elif isinstance(format, Ternary):
        kernel, signs = SteTern(format.threshold), None
    else:
        return None
    return kernel, {"float": None, "int8": FakeInt8(), "binary": signs}[format.activations]


def aware(format: Format) -> tuple[Quantizer, Quantizer | None] | None:
    """What layers are fine-tuned with that are to be packed in a format: quantisation-aware.

    Args:
        format: Any format.

    Returns:
        Quantisers of the kernel and of the inputs (or `None`), such that the format computes what
        they do; `None` where there are none: float values, means (`center`), static ranges.
    """
    if getattr(format, "center", False):
        return None
    dense = format.dense_alternative or format
    if isinstance(dense, Int8) and dense.activations in ("dynamic", "float"):
        return FakeInt8(), FakeInt8() if dense.activations == "dynamic" else None
    return training(format)
