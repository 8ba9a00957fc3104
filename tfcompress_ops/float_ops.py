"""The ops between the matrices: layer normalisation, attention, sums; and their gradients.

They multiply by no weights that a format could hold. What they save is TensorFlow's passes over
memory: one op in place of several, with the same numbers to float32's rounding. There are kernels
for CPUs alone; on a machine with a GPU, where TensorFlow's own ops are what is fast, the layers
that use them ask `on_cpu` and leave the work to those.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfcompress_ops import _loader
from tfcompress_ops.ops import FUSED_ACTIVATIONS, Activation, fused_activation_name

_module = _loader.load()
_DTYPES = (tf.float32, tf.bfloat16, tf.float16)
# What Keras puts in the place of scores that a mask hides.
_MASKED_SCORE = -0.7 * 3.38953e38


def on_cpu(*tensors: Any) -> bool:
    """Whether the ops serve these tensors here: no GPU is there, and the dtype is one of theirs."""
    return all(
        tensor.dtype in _DTYPES for tensor in tensors
    ) and not tf.config.list_physical_devices("GPU")


def layer_norm(x: Any, gamma: Any = None, beta: Any = None, *, epsilon: float) -> tf.Tensor:
    """Normalises the last dimension: `(x - mean) / sqrt(variance + epsilon) * gamma + beta`.

    Args:
        x: float32, bfloat16 or float16 tensor `[..., features]`. Sums are float32.
        gamma: float32 `[features]`, or `None` for ones.
        beta: float32 `[features]`, or `None` for zeros.
        epsilon: What is added to the variance; >= 0.

    Returns:
        Tensor of the shape and dtype of `x`. It has gradients with respect to `x`, `gamma` and
        `beta`.

    Raises:
        tf.errors.InvalidArgumentError: If shapes do not fit (`ValueError` while a graph is traced).

    References:
        Ba et al., "Layer Normalization", 2016.
    """
    return _module.tfcompress_layer_norm(
        x, gamma=_optional(gamma), beta=_optional(beta), epsilon=epsilon
    )


def _layer_norm_gradient(op: Any, dy: tf.Tensor) -> list[tf.Tensor | None]:
    x, *vectors = op.inputs
    scaled = op.get_attr("num_gamma")

    def reference(x: tf.Tensor, *vectors: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
        y = (x - mean) * tf.math.rsqrt(variance + op.get_attr("epsilon"))
        for index, vector in enumerate(vectors):
            y = y * vector if index < scaled else y + vector
        return y

    return _gradients(reference, [x, *vectors], dy)


tf.RegisterGradient("Tfcompress>LayerNorm")(_layer_norm_gradient)


def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    mask: Any = None,
    scale: float | None = None,
    zero_blind: bool = False,
) -> tf.Tensor:
    """Scaled dot-product attention of several heads, in one op.

    `softmax(scale * query @ key^T) @ value` for each head; sums are float32.

    Args:
        query: float32, bfloat16 or float16 tensor `[batch, queries, heads, key_dim]`.
        key: `[batch, keys, kv_heads, key_dim]`, of the same dtype. `heads` is a multiple of
            `kv_heads`: neighbouring heads share keys and values.
        value: `[batch, keys, kv_heads, value_dim]`, of the same dtype.
        mask: bool `[batch, heads, queries, keys]`, each of them or 1, or `None`: which keys a query
            looks at.
        scale: What scores are multiplied by; `None`: `1 / sqrt(key_dim)`.
        zero_blind: Whether a query that may look at no key takes zeros, as in Keras' layers with
            dropout, or the mean of all values, as in `keras.ops.dot_product_attention`.

    Returns:
        Tensor `[batch, queries, heads, value_dim]` of the same dtype. It has gradients with respect
        to `query`, `key` and `value`, by TensorFlow's ops.

    Raises:
        tf.errors.InvalidArgumentError: If shapes do not fit (`ValueError` while a graph is traced).

    References:
        Vaswani et al., "Attention Is All You Need", 2017, section 3.2.1. Scores are made and used
        up block by block, as in Dao et al., "FlashAttention", 2022, section 3.1.
    """
    query = tf.convert_to_tensor(query)
    if scale is None:
        if query.shape.rank != 4 or not query.shape[-1]:
            raise ValueError(
                "`query` must have shape [batch, queries, heads, key_dim] with a known key_dim "
                f"where `scale` is None; received shape {query.shape}. Pass a scale."
            )
        scale = float(query.shape[-1]) ** -0.5
    return _module.tfcompress_attention(
        query,
        key,
        value,
        mask=[] if mask is None else [mask],
        scale=scale,
        zero_blind=zero_blind,
    )


def _attention_gradient(op: Any, dy: tf.Tensor) -> list[tf.Tensor | None]:
    query, key, value, *mask = op.inputs

    def reference(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        shared = tf.shape(query)[2] // tf.shape(key)[2]
        key, value = (tf.repeat(x, shared, axis=2) for x in (key, value))
        scores = tf.einsum("btnh,bsnh->bnts", query, key) * op.get_attr("scale")
        for one in mask:
            scores = tf.where(one, scores, _MASKED_SCORE)
        shares = tf.nn.softmax(scores)
        if op.get_attr("zero_blind"):
            for one in mask:
                shares = tf.where(one, shares, 0.0)
        return tf.einsum("bnts,bsnh->btnh", shares, value)

    return [*_gradients(reference, [query, key, value], dy), *[None for _ in mask]]


tf.RegisterGradient("Tfcompress>Attention")(_attention_gradient)


def add(tensors: Sequence[Any], activation: Activation = None) -> tf.Tensor:
    """The sum of tensors of one shape, and an activation, in one op.

    Args:
        tensors: float32, bfloat16 or float16 tensors of one dtype, at least one. Sums are float32.
        activation: Anything that `keras.activations.get` accepts, or `"gelu_tanh"`. Fused where
            `fused_activation_name` says so, otherwise it runs on the op's output.

    Returns:
        Tensor of the same shape and dtype. It has gradients with respect to all of them.

    Raises:
        ValueError: If `activation` is unknown.
        tf.errors.InvalidArgumentError: If shapes differ (`ValueError` while a graph is traced).
    """
    name, rest = fused_activation_name(activation)
    y = _module.tfcompress_add(list(tensors), activation=name)
    return y if rest is None else rest(y)


def _add_gradient(op: Any, dy: tf.Tensor) -> list[tf.Tensor | None]:
    activation = FUSED_ACTIVATIONS[op.get_attr("activation").decode()]
    return _gradients(lambda *x: activation(tf.add_n(x)), list(op.inputs), dy)


tf.RegisterGradient("Tfcompress>Add")(_add_gradient)


def _gradients(
    function: Callable[..., tf.Tensor], inputs: list[tf.Tensor], dy: tf.Tensor
) -> list[tf.Tensor | None]:
    """Gradients of a float32 function of inputs of any dtype."""
    wide = [tf.cast(x, tf.float32) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(wide)
        y = function(*wide)
    found = tape.gradient(y, wide, output_gradients=tf.cast(dy, tf.float32))
    return [
        None if dx is None else tf.cast(dx, x.dtype) for dx, x in zip(found, inputs, strict=True)
    ]


def _optional(value: Any) -> list[tf.Tensor]:
    """The list of none or one float32 tensor that the ops take an optional input as."""
    return [] if value is None else [tf.cast(value, tf.float32)]
