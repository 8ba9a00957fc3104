"""The TensorFlow ops on packed weights, their gradients, and the table of fused activations."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress_ops import _loader, kernels

Activation = str | Callable[[Any], Any] | None

_module = _loader.load()

# What the ops fuse, by the name that their `activation` attribute takes. The function is both what
# a Keras layer's activation is recognised by and what its gradient is derived from.
FUSED_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "linear": keras.activations.linear,
    "relu": keras.activations.relu,
    "relu6": keras.activations.relu6,
    "leaky_relu": keras.activations.leaky_relu,
    "elu": keras.activations.elu,
    "selu": keras.activations.selu,
    "gelu": keras.activations.gelu,
    "gelu_tanh": functools.partial(keras.activations.gelu, approximate=True),
    "silu": keras.activations.silu,
    "sigmoid": keras.activations.sigmoid,
    "tanh": keras.activations.tanh,
    "softplus": keras.activations.softplus,
    "softsign": keras.activations.softsign,
    "exponential": keras.activations.exponential,
    "hard_sigmoid": keras.activations.hard_sigmoid,
    "hard_silu": keras.activations.hard_silu,
}
_FUSED_NAMES = {function: name for name, function in FUSED_ACTIVATIONS.items()}
_X_DTYPES = (tf.float32, tf.bfloat16, tf.float16)


def fused_activation_name(
    activation: Activation,
) -> tuple[str, Callable[[Any], Any] | None]:
    """Splits an activation into what the ops fuse and what runs after them.

    Args:
        activation: Name, function or other callable that `keras.activations.get` accepts, or
            `"gelu_tanh"` for the tanh approximation of GELU.

    Returns:
        `(name, rest)`: the value of an op's `activation` attribute, and the callable that its
        output must still go through, or `None`.

    Raises:
        ValueError: If Keras knows no such activation.

    Example:
        >>> fused_activation_name("relu")
        ('relu', None)
    """
    if isinstance(activation, str) and activation in FUSED_ACTIVATIONS:
        return activation, None
    function = keras.activations.get(activation)
    try:
        return _FUSED_NAMES[function], None
    except (KeyError, TypeError):  # TypeError: a callable that cannot be hashed.
        return "linear", function


def int8_matmul(
    x: Any,
    kernel: Any,
    scale: Any,
    *,
    x_scale: Any = None,
    mean: Any = None,
    bias: Any = None,
    activations: str = "dynamic",
    activation: Activation = None,
) -> tf.Tensor:
    """Multiplies by packed int8 weights, in one op from quantising `x` to the activation.

    `y = activation(x @ (scale * w_q + mean) + bias)`, with `x` quantised to int8 first unless
    `activations="float"`. The gradient with respect to `x` goes through the float32 weights that
    the arrays stand for, straight through the quantisation of `x`; `bias` has its gradient too, the
    packed arrays have none.

    `x_q = clip(round(x / x_scale), -127, 127)`, rounded to the nearest, ties to even. A row of
    zeros (of magnitudes below 2^-100) gives the bias alone. A row with a NaN gives NaN in all its
    outputs. So does, with dynamic activations, a row with an infinity; static ones saturate it.
    With float activations both go through the product as usual.

    Args:
        x: float32, bfloat16 or float16 tensor `[..., in_features]`, rank >= 1.
        kernel: uint8 `[packed bytes]`, as `tfc.Int8` packs it.
        scale: float32 `[out_features]`.
        x_scale: float32 `[1]`, the step of a quantised `x`; given exactly with
            `activations="static"`.
        mean: float32 `[out_features]` or `None`: what was subtracted before quantising.
        bias: floating-point `[out_features]` or `None`.
        activations: `"dynamic"` quantises each row of `x` by its largest magnitude, `"static"` by
            `x_scale`, `"float"` leaves it as it is.
        activation: Anything that `keras.activations.get` accepts, or `"gelu_tanh"`. Fused where
            `fused_activation_name` says so, otherwise it runs on the op's output.

    Returns:
        Tensor `[..., out_features]` of `x`'s dtype.

    Raises:
        TypeError: If `x` has another dtype, or is ragged or sparse.
        ValueError: If `activations` or `activation` is unknown, or `x_scale` does not go with it.
        tf.errors.InvalidArgumentError: If shapes do not fit (`ValueError` while a graph is traced).
    """
    if activations not in ("dynamic", "static", "float"):
        raise ValueError(
            f"`activations` must be 'dynamic', 'static' or 'float'; received {activations!r}."
        )
    if (x_scale is not None) != (activations == "static"):
        raise ValueError(
            "`x_scale` must be given with activations='static', and only then; received "
            f"x_scale={x_scale!r} with activations={activations!r}."
        )
    x = _check_x(x)
    name, rest = fused_activation_name(activation)
    y = _module.tfcompress_int8_mat_mul(
        x,
        kernel,
        scale,
        x_scale=_optional(x_scale),
        mean=_optional(mean),
        bias=_optional(bias),
        activations=activations,
        activation=name,
    )
    return y if rest is None else rest(y)


def int8_unpack(kernel: Any, scale: Any, in_features: int, *, mean: Any = None) -> tf.Tensor:
    """The float32 weights that packed int8 arrays stand for.

    Args:
        kernel: uint8 `[packed bytes]`, as `tfc.Int8` packs it.
        scale: float32 `[out_features]`.
        in_features: Rows of the matrix, >= 0.
        mean: float32 `[out_features]` or `None`.

    Returns:
        float32 tensor `[in_features, out_features]`, `scale * w_q + mean`.

    Raises:
        tf.errors.InvalidArgumentError: If shapes do not fit (`ValueError` while a graph is traced).
    """
    return _module.tfcompress_int8_unpack(
        kernel, scale, mean=_optional(mean), in_features=in_features
    )


def int8_lookup(
    indices: Any, rows: Any, scale: Any, *, mean: Any = None, dtype: Any = tf.float32
) -> tf.Tensor:
    """Rows of an int8 table as floating-point numbers, in one op; others are not touched.

    `y[...] = scale[r] * rows[r] + mean[r]` with `r = indices[...]`. Nothing has a gradient.

    Args:
        indices: int32 or int64 tensor of any shape, in 0 ... n - 1.
        rows: int8 `[n, k]`, as the format that `tfc.Int8().lookup_format` gives packs them.
        scale: float32 `[n]`.
        mean: floating-point `[n]` or `None`: what was subtracted before quantising.
        dtype: Of the result: float32, bfloat16 or float16, rounded to the nearest, ties to even.

    Returns:
        Tensor `[..., k]`.

    Raises:
        TypeError: If a dtype is another.
        tf.errors.InvalidArgumentError: If an index is out of range (on a CPU; on a GPU its row is
            zeros), or shapes do not fit (`ValueError` while a graph is traced).
    """
    found = tf.as_dtype(dtype)
    if found not in _X_DTYPES:
        raise TypeError(f"`dtype` must be float32, bfloat16 or float16; received {dtype!r}.")
    return _module.tfcompress_int8_lookup(indices, rows, scale, mean=_optional(mean), T=found)


tf.no_gradient("Tfcompress>Int8Lookup")


def sparse_matmul(
    x: Any,
    structure: Any,
    values: Any,
    *,
    scale: Any = None,
    x_scale: Any = None,
    bias: Any = None,
    activation: Activation = None,
    reach: int = 64,
) -> tf.Tensor:
    """Multiplies by pruned weights, in one op from `x` to the activation.

    `y = activation(x @ w + bias)`, where `w` is what the packed arrays of `tfc.Sparse` stand for.
    With int8 values `x` is quantised first, as in `int8_matmul`: each row by its largest magnitude,
    or by `x_scale`. The gradient with respect to `x` goes through the float32 weights that the
    arrays stand for; `bias` has its gradient too, and so have float32 `values` (the sampled
    dense-dense product: only at the stored weights).

    Float values take `x` as it is, but for tensor cores: on GPUs of compute capability 8.0 or later
    float32 products may be rounded to TensorFloat-32 and `x` of bfloat16 values to bfloat16, unless
    `tf.config.experimental.enable_tensor_float_32_execution(False)`. An infinity or a NaN in a row
    of `x` makes some or all of its outputs infinite or NaN, since zeros are not multiplied. With
    int8 values special values are treated as in `int8_matmul`.

    Args:
        x: float32, bfloat16 or float16 tensor `[..., in_features]`, rank >= 1.
        structure: uint8 `[bytes]`, where the stored weights lie, as `tfc.Sparse` packs it.
        values: float32, bfloat16 or int8 `[steps, 16 * entries]`, the stored weights.
        scale: float32 `[out_features]`, given exactly with int8 values.
        x_scale: float32 `[1]`, the step of a quantised `x`, or `None`: found for each row.
        bias: floating-point `[out_features]` or `None`.
        activation: Anything that `keras.activations.get` accepts, or `"gelu_tanh"`. Fused where
            `fused_activation_name` says so, otherwise it runs on the op's output.
        reach: Inputs that a step reaches, 64, or with int8 values 128.

    Returns:
        Tensor `[..., out_features]` of `x`'s dtype.

    Raises:
        TypeError: If `x` has another dtype, or is ragged or sparse.
        ValueError: If `activation` is unknown.
        tf.errors.InvalidArgumentError: If shapes do not fit (`ValueError` while a graph is traced),
            or the arrays are no packed matrix.
    """
    x = _check_x(x)
    name, rest = fused_activation_name(activation)
    y = _module.tfcompress_sparse_mat_mul(
        x,
        structure,
        values,
        scale=_optional(scale),
        x_scale=_optional(x_scale),
        bias=_optional(bias),
        reach=reach,
        activations="dynamic" if x_scale is None else "static",
        activation=name,
    )
    return y if rest is None else rest(y)


def binary_matmul(
    x: Any,
    kernel: Any,
    scale: Any,
    in_features: int,
    *,
    mean: Any = None,
    bias: Any = None,
    threshold: Any = None,
    levels: str = "binary",
    activations: str = "float",
    scale_x: bool = False,
    activation: Activation = None,
    dtype: Any = None,
) -> tf.Tensor:
    """Multiplies by packed binary or ternary weights, in one op from `x` to the activation.

    `y = activation(x @ (scale * w_l + mean) + bias)` with `w_l` of -1 and +1, or -1, 0 and +1.
    What becomes of `x` first: nothing with `activations="float"`; each row is quantised to int8 by
    its largest magnitude with `"int8"`, as in `int8_matmul`; with `"binary"` its signs are taken,
    sign(0) = +1, times the row's mean magnitude where `scale_x` is true (K of XNOR-Net, Rastegari
    et al. 2016, section 3.2, for a fully connected layer). A row with a NaN gives NaN.

    The gradient with respect to `x` goes through the float32 weights that the arrays stand for,
    straight through quantisation, and straight through the sign where |x| <= 1 (zero elsewhere;
    Courbariaux et al. 2016, section 1.2), the row's scale taken as constant. `bias` has its
    gradient too, the packed arrays have none.

    Signs travel from op to op packed, one bit each: with `threshold` the result is int32
    `[..., ceil(out_features / 32)]`, bit `n % 32` of word `n // 32` set where the integer sum of
    output `n` is at least `threshold[n]`. Such a tensor is an `x` of the next op.

    Args:
        x: float32, bfloat16 or float16 tensor `[..., in_features]`, rank >= 1, or, with
            `activations="binary"`, int32 `[..., ceil(in_features / 32)]`: packed signs.
        kernel: uint8 `[packed bytes]`, as `tfc.Binary` or `tfc.Ternary` packs it.
        scale: float32 `[out_features]`.
        in_features: Rows of the weight matrix, >= 0.
        mean: float32 `[out_features]` or `None`: what was subtracted before taking signs.
        bias: floating-point `[out_features]` or `None`.
        threshold: int32 `[out_features]` or `None`; with `activations="binary"` only. `scale`,
            `mean`, `bias` and `activation` are not used then.
        levels: `"binary"` or `"ternary"`.
        activations: `"float"`, `"int8"` or, with binary weights, `"binary"`.
        scale_x: Whether signs of `x` are scaled; with `activations="binary"` only.
        activation: Anything that `keras.activations.get` accepts, or `"gelu_tanh"`. Fused where
            `fused_activation_name` says so, otherwise it runs on the op's output.
        dtype: Of the result, where `x` is packed signs; default float32. Otherwise `x`'s.

    Returns:
        Tensor `[..., out_features]`, or packed signs.

    Raises:
        TypeError: If `x` has another dtype, or is ragged or sparse.
        ValueError: If `levels`, `activations` or `activation` is unknown, or they do not go
            together.
        tf.errors.InvalidArgumentError: If shapes do not fit (`ValueError` while a graph is traced).
    """
    if levels not in ("binary", "ternary"):
        raise ValueError(f"`levels` must be 'binary' or 'ternary'; received {levels!r}.")
    if activations not in ("float", "int8", "binary"):
        raise ValueError(
            f"`activations` must be 'float', 'int8' or 'binary'; received {activations!r}."
        )
    if activations == "binary" and levels != "binary":
        raise ValueError(
            "`activations` must be 'float' or 'int8' with ternary weights; received 'binary'."
        )
    if activations != "binary" and (scale_x or threshold is not None):
        raise ValueError(
            "`scale_x` and `threshold` go with activations='binary' only; received "
            f"activations={activations!r}."
        )
    x = tf.convert_to_tensor(x)
    if x.dtype != tf.int32 or activations != "binary":
        x = _check_x(x)
    y_dtype = tf.as_dtype(dtype or tf.float32) if x.dtype == tf.int32 else x.dtype
    name, rest = fused_activation_name(activation)
    y = _module.tfcompress_binary_mat_mul(
        x,
        kernel,
        scale,
        mean=_optional(mean),
        bias=_optional(bias),
        threshold=[] if threshold is None else [threshold],
        Ty=tf.int32 if threshold is not None else y_dtype,
        in_features=in_features,
        levels=levels,
        activations=activations,
        scale_x=scale_x,
        activation=name,
    )
    return y if rest is None or threshold is not None else rest(y)


def binary_unpack(
    kernel: Any, scale: Any, in_features: int, *, mean: Any = None, levels: str = "binary"
) -> tf.Tensor:
    """The float32 weights that packed binary or ternary arrays stand for.

    Args:
        kernel: uint8 `[packed bytes]`, as `tfc.Binary` or `tfc.Ternary` packs it.
        scale: float32 `[out_features]`.
        in_features: Rows of the matrix, >= 0.
        mean: float32 `[out_features]` or `None`.
        levels: `"binary"` or `"ternary"`.

    Returns:
        float32 tensor `[in_features, out_features]`, `scale * w_l + mean`.

    Raises:
        tf.errors.InvalidArgumentError: If shapes do not fit (`ValueError` while a graph is traced).
    """
    return _module.tfcompress_binary_unpack(
        kernel, scale, mean=_optional(mean), in_features=in_features, levels=levels
    )


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where the windows of a convolution lie.

    Attributes:
        kernel_size: Sizes of the window.
        strides: Steps of the window.
        dilations: Steps between the inputs of a window.
        padding: `"valid"`, `"same"` (as TensorFlow pads) or `"causal"` (all in front).
    """

    kernel_size: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    padding: str

    def output_size(self, axis: int, size: Any) -> Any:
        """How many windows there are along an axis of this many inputs (a number or a tensor)."""
        stride = self.strides[axis]
        if self.padding != "valid":
            return (size + stride - 1) // stride
        extent = (self.kernel_size[axis] - 1) * self.dilations[axis] + 1
        windows = (size - extent + stride) // stride
        return max(windows, 0) if isinstance(windows, int) else tf.maximum(windows, 0)

    def output_space(self, height: Any, width: Any) -> tuple[Any, Any]:
        """`output_size` of both axes."""
        return self.output_size(0, height), self.output_size(1, width)


def patches(x: Any, first: Any, rows: Any, geometry: Geometry) -> tf.Tensor:
    """What the windows of a convolution see, as rows of a matrix.

    Args:
        x: float32, bfloat16 or float16 tensor `[batch, height, width, channels]`.
        first: Scalar, the first window, counted over batch, output height and output width.
        rows: Scalar, how many windows.
        geometry: Where they lie; zeros are put around `x`.

    Returns:
        Tensor `[rows, kernel height * kernel width * channels]` of `x`'s dtype. It has a gradient
        with respect to `x`.

    Raises:
        TypeError: If `x` has another dtype, or is ragged or sparse.
        tf.errors.InvalidArgumentError: If the windows are not all there, or shapes do not fit.
    """
    return _module.tfcompress_patches(
        _check_x(x),
        tf.cast(first, tf.int64),
        tf.cast(rows, tf.int64),
        kernel_size=list(geometry.kernel_size),
        strides=list(geometry.strides),
        dilations=list(geometry.dilations),
        padding=geometry.padding,
    )


def _patches_gradient(op: Any, dy: tf.Tensor) -> list[tf.Tensor | None]:
    x, first, _ = op.inputs
    names = ("kernel_size", "strides", "dilations")
    dx = _module.tfcompress_patches_gradient(
        tf.cast(dy, tf.float32),
        tf.shape(x, tf.int64),
        first,
        padding=op.get_attr("padding").decode(),
        **{name: op.get_attr(name) for name in names},
    )
    return [tf.cast(dx, x.dtype), None, None]


tf.RegisterGradient("Tfcompress>Patches")(_patches_gradient)


def depthwise_conv2d(
    x: Any, kernel: Any, geometry: Geometry, *, bias: Any = None, activation: Activation = None
) -> tf.Tensor:
    """Convolves each channel by itself, adds a bias and activates, in one op.

    Args:
        x: float32 tensor `[batch, height, width, channels]`.
        kernel: float32 `[kernel height * kernel width, channels]`.
        geometry: Where the windows lie; zeros are put around `x`.
        bias: floating-point `[channels]` or `None`.
        activation: Anything that `keras.activations.get` accepts, or `"gelu_tanh"`. Fused where
            `fused_activation_name` says so, otherwise it runs on the op's output.

    Returns:
        float32 tensor `[batch, new height, new width, channels]`. It has gradients with respect to
        `x`, `kernel` and `bias`, by `tf.nn.depthwise_conv2d`, where the strides are equal and the
        padding is not `"causal"`.

    Raises:
        ValueError: If `activation` is unknown.
        tf.errors.InvalidArgumentError: If shapes do not fit (`ValueError` while a graph is traced).
    """
    x = tf.convert_to_tensor(x)
    name, rest = fused_activation_name(activation)
    y = _module.tfcompress_depthwise_conv2d(
        x,
        kernel,
        bias=_optional(bias),
        activation=name,
        kernel_size=list(geometry.kernel_size),
        strides=list(geometry.strides),
        dilations=list(geometry.dilations),
        padding=geometry.padding,
    )
    if x.shape.rank == 4 and y.shape.rank == 4:
        space = [
            None if size is None else geometry.output_size(axis, size)
            for axis, size in enumerate(x.shape[1:3])
        ]
        y = tf.ensure_shape(y, (None, *space, None))
    return y if rest is None else rest(y)


def _depthwise_gradient(op: Any, dy: tf.Tensor) -> list[tf.Tensor | None]:
    """Gradient with respect to `x`, `kernel` and `bias`, by TensorFlow's own convolution."""
    x, kernel, *bias = op.inputs
    stride, other = op.get_attr("strides")
    padding = op.get_attr("padding").decode()
    if stride != other or padding == "causal":
        raise LookupError(
            "depthwise_conv2d has a gradient where strides are equal and padding is 'valid' or "
            f"'same'; received strides {(stride, other)} and padding {padding!r}."
        )
    with tf.GradientTape() as tape:
        tape.watch([x, kernel, *bias])
        filters = tf.reshape(kernel, [*op.get_attr("kernel_size"), -1, 1])
        y = tf.nn.depthwise_conv2d(
            x,
            filters,
            [1, stride, stride, 1],
            padding.upper(),
            dilations=list(op.get_attr("dilations")),
        )
        for vector in bias:
            y += vector
        y = FUSED_ACTIVATIONS[op.get_attr("activation").decode()](y)
    gradients: list[tf.Tensor | None] = tape.gradient(y, list(op.inputs), output_gradients=dy)
    return gradients


tf.RegisterGradient("Tfcompress>DepthwiseConv2D")(_depthwise_gradient)


def _check_x(x: Any) -> tf.Tensor:
    if isinstance(x, tf.RaggedTensor | tf.SparseTensor):
        dense = "x.to_tensor()" if isinstance(x, tf.RaggedTensor) else "tf.sparse.to_dense(x)"
        raise TypeError(
            f"`x` must be a dense tensor; received a {type(x).__name__} (shape {x.shape}). Make it "
            f"one: {dense}."
        )
    x = tf.convert_to_tensor(x)
    if x.dtype not in _X_DTYPES:
        raise TypeError(
            f"`x` must be float32, bfloat16 or float16; received {x.dtype.name} "
            f"(shape {x.shape}). Cast it with tf.cast(x, 'float32')."
        )
    return x


def _optional(value: Any) -> list[tf.Tensor]:
    """The list of none or one float32 tensor that the ops take an optional input as."""
    return [] if value is None else [tf.cast(value, tf.float32)]


def _activation_gradient(
    op: Any, dy: tf.Tensor, linear: Callable[[], tf.Tensor], weights: tf.Tensor
) -> tf.Tensor:
    """The gradient before the op's activation, float32 `[rows, out_features]`.

    `linear` computes the op's result without its activation.
    """
    dz = tf.cast(dy, tf.float32)
    activation = op.get_attr("activation").decode()
    if activation != "linear":
        z = linear()
        with tf.GradientTape() as tape:
            tape.watch(z)
            y = FUSED_ACTIVATIONS[activation](z)
        dz = tape.gradient(y, z, output_gradients=dz)
    rows = tf.reduce_prod(tf.shape(dy)[:-1])
    return tf.reshape(dz, tf.stack([rows, tf.shape(weights)[1]]))


def _x_gradient(dz: tf.Tensor, weights: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    dx = tf.reshape(tf.matmul(dz, weights, transpose_b=True), tf.shape(x))
    return tf.cast(dx, x.dtype)


def _int8_matmul_gradient(op: Any, dy: tf.Tensor) -> list[tf.Tensor | None]:
    """Gradient with respect to `x` and `bias`, through the unpacked float32 weights."""
    inputs = iter(op.inputs)
    x, kernel, scale = itertools.islice(inputs, 3)
    x_scale = list(itertools.islice(inputs, op.get_attr("num_x_scale")))
    mean = list(itertools.islice(inputs, op.get_attr("num_mean")))
    bias = list(inputs)

    def linear() -> tf.Tensor:
        return _module.tfcompress_int8_mat_mul(
            tf.cast(x, tf.float32),
            kernel,
            scale,
            x_scale=x_scale,
            mean=mean,
            bias=bias,
            activations=op.get_attr("activations").decode(),
            activation="linear",
        )

    weights = _unpack_for(x, kernel, scale, mean)
    dz = _activation_gradient(op, dy, linear, weights)
    dbias = [tf.reduce_sum(dz, axis=0) for _ in bias]
    dx = _x_gradient(dz, weights, x)
    return [dx, None, None, *[None for _ in x_scale + mean], *dbias]


tf.RegisterGradient("Tfcompress>Int8MatMul")(_int8_matmul_gradient)


def _unpack_for(
    x: tf.Tensor, kernel: tf.Tensor, scale: tf.Tensor, mean: list[tf.Tensor]
) -> tf.Tensor:
    """Unpacks `[in_features, out_features]` where `in_features` may be known at run time only."""
    in_features = x.shape[-1] if x.shape.rank is not None else None
    if in_features is not None:
        return _module.tfcompress_int8_unpack(kernel, scale, mean=mean, in_features=in_features)
    packed_bytes, out_features = kernel.shape.num_elements(), scale.shape.num_elements()
    if packed_bytes is None or not out_features:
        raise ValueError(
            "`x` must have a known last dimension for the gradient of int8_matmul where the shape "
            f"of `kernel` or `scale` is unknown too; received shape {x.shape}. Set it with "
            "tf.ensure_shape."
        )
    # Rows come in groups of 4: unpack whole groups, keep those that `x` has.
    padded = 4 * (packed_bytes // kernels.int8_packed_size(4, out_features))
    weights = _module.tfcompress_int8_unpack(kernel, scale, mean=mean, in_features=padded)
    return weights[: tf.shape(x)[-1]]


def _sparse_matmul_gradient(op: Any, dy: tf.Tensor) -> list[tf.Tensor | None]:
    """Gradient with respect to `x`, float `values` and `bias`."""
    inputs = iter(op.inputs)
    x = next(inputs)
    structure, values = itertools.islice(inputs, 2)
    scale = list(itertools.islice(inputs, op.get_attr("num_scale")))
    x_scale = list(itertools.islice(inputs, op.get_attr("num_x_scale")))
    bias = list(inputs)
    reach = op.get_attr("reach")
    if x.shape.rank is None or x.shape[-1] is None:
        raise ValueError(
            "`x` must have a known last dimension for the gradient of sparse_matmul; received "
            f"shape {x.shape}. Set it with tf.ensure_shape."
        )

    def linear() -> tf.Tensor:
        return _module.tfcompress_sparse_mat_mul(
            tf.cast(x, tf.float32),
            structure,
            values,
            scale=scale,
            x_scale=x_scale,
            bias=bias,
            reach=reach,
            activations=op.get_attr("activations").decode(),
            activation="linear",
        )

    weights = _module.tfcompress_sparse_unpack(
        structure,
        values,
        scale=scale,
        in_features=x.shape[-1],
        reach=reach,
    )
    dz = _activation_gradient(op, dy, linear, weights)
    dvalues = None
    if values.dtype == tf.float32:
        rows = tf.reshape(tf.cast(x, tf.float32), [-1, x.shape[-1]])
        dvalues = _module.tfcompress_sparse_values_gradient(
            rows, dz, structure, values, reach=reach
        )
    dbias = [tf.reduce_sum(dz, axis=0) for _ in bias]
    return [_x_gradient(dz, weights, x), None, dvalues, *[None for _ in scale + x_scale], *dbias]


tf.RegisterGradient("Tfcompress>SparseMatMul")(_sparse_matmul_gradient)


def _binary_matmul_gradient(op: Any, dy: tf.Tensor) -> list[tf.Tensor | None]:
    """Gradient with respect to `x` and `bias`, through the unpacked float32 weights."""
    inputs = iter(op.inputs)
    x, kernel, scale = itertools.islice(inputs, 3)
    mean = list(itertools.islice(inputs, op.get_attr("num_mean")))
    bias = list(itertools.islice(inputs, op.get_attr("num_bias")))
    threshold = list(inputs)
    if threshold:  # Packed signs: nothing flows through them.
        return [None for _ in op.inputs]
    attributes = {
        name: op.get_attr(name).decode() for name in ("levels", "activations", "activation")
    }
    in_features, scale_x = op.get_attr("in_features"), op.get_attr("scale_x")

    def linear() -> tf.Tensor:
        return _module.tfcompress_binary_mat_mul(
            x if x.dtype == tf.int32 else tf.cast(x, tf.float32),
            kernel,
            scale,
            mean=mean,
            bias=bias,
            threshold=[],
            Ty=tf.float32,
            in_features=in_features,
            scale_x=scale_x,
            **{**attributes, "activation": "linear"},
        )

    weights = _module.tfcompress_binary_unpack(
        kernel, scale, mean=mean, in_features=in_features, levels=attributes["levels"]
    )
    dz = _activation_gradient(op, dy, linear, weights)
    dbias = [tf.reduce_sum(dz, axis=0) for _ in bias]
    rest = [None, None, *[None for _ in mean], *dbias]
    if x.dtype == tf.int32:
        return [None, *rest]
    wide = tf.cast(x, tf.float32)
    dx = _x_gradient(dz, weights, wide)
    if attributes["activations"] == "binary":
        magnitude = tf.abs(wide)
        if scale_x:
            dx *= tf.reduce_mean(magnitude, axis=-1, keepdims=True)
        dx = tf.where(magnitude <= 1, dx, tf.zeros_like(dx))
    return [tf.cast(dx, x.dtype), *rest]


tf.RegisterGradient("Tfcompress>BinaryMatMul")(_binary_matmul_gradient)
