"""Depthwise convolutions in one op, against plain loops in NumPy and against Keras."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops import layers, ops
from tfcompress_ops.ops import Geometry

K = keras.layers
RNG = np.random.default_rng(5)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def axis_of(size, kernel, stride, dilation, padding):
    """How many windows there are along an axis, and how many zeros come before it."""
    extent = (kernel - 1) * dilation + 1
    if padding == "valid":
        return len(range(0, size - extent + 1, stride)), 0
    count = len(range(0, size, stride))
    return count, max(0, (count - 1) * stride + extent - size) // 2


def reference(x, kernel, bias, geometry):
    batch, height, width, channels = x.shape
    options = (geometry.kernel_size, geometry.strides, geometry.dilations)
    (rows, top), (columns, left) = (
        axis_of(size, *(option[axis] for option in options), geometry.padding)
        for axis, size in enumerate((height, width))
    )
    y = np.zeros((batch, rows, columns, channels))
    taps = kernel.astype(np.float64).reshape(*geometry.kernel_size, channels)
    for r, c, i, j in itertools.product(*map(range, (rows, columns, *geometry.kernel_size))):
        h = r * geometry.strides[0] - top + i * geometry.dilations[0]
        w = c * geometry.strides[1] - left + j * geometry.dilations[1]
        if 0 <= h < height and 0 <= w < width:
            y[:, r, c] += x[:, h, w] * taps[i, j]
    return y + bias


@pytest.mark.parametrize("channels", [1, 3, 16, 37, 64, 100])
def test_random_geometries(channels):
    rng = np.random.default_rng(channels)

    def pair(high):
        return tuple(int(size) for size in rng.integers(1, high, 2))

    for _ in range(20):
        geometry = Geometry(pair(6), pair(4), pair(4), ("valid", "same")[rng.integers(2)])
        x = normal(*rng.integers((0, 0, 0), (4, 12, 25)), channels)
        kernel, bias = normal(np.prod(geometry.kernel_size), channels), normal(channels)
        expected = reference(x, kernel, bias, geometry)
        y = ops.depthwise_conv2d(x, kernel, geometry, bias=bias)
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
        y = ops.depthwise_conv2d(x, kernel, geometry, bias=bias, activation="relu6")
        np.testing.assert_allclose(y, np.clip(expected, 0, 6), rtol=1e-5, atol=1e-5)


def test_special_values_stay_where_they_are():
    x = np.zeros((1, 5, 5, 20), np.float32)
    x[0, 2, 2, 7] = np.nan
    x[0, 0, 0, 3] = np.inf
    geometry = Geometry((3, 3), (1, 1), (1, 1), "same")
    y = np.asarray(ops.depthwise_conv2d(x, np.ones((9, 20), np.float32), geometry))
    for special, places in ((np.isnan, y[0, 1:4, 1:4, 7]), (np.isinf, y[0, :2, :2, 3])):
        assert special(places).all()
        assert special(y).sum() == places.size


def test_errors():
    geometry = Geometry((2, 2), (1, 1), (1, 1), "valid")
    x, kernel = normal(1, 3, 3, 4), normal(4, 4)
    for wrong in (
        {"x": x[0]},
        {"x": x[..., :3]},
        {"kernel": kernel[:3]},
        {"kernel": kernel.reshape(2, 2, 4)},
        {"bias": normal(3)},
        {"bias": normal(1, 4)},
    ):
        given = {"x": x, "kernel": kernel, "bias": None, **wrong}
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=r"x|kernel|bias"):
            ops.depthwise_conv2d(given["x"], given["kernel"], geometry, bias=given["bias"])
    for sizes in ((0, 1), (1,), (1 << 21, 1)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="must be two integers in 1"):
            ops.depthwise_conv2d(x, kernel, Geometry(sizes, (1, 1), (1, 1), "valid"))
    with tf.GradientTape() as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        y = ops.depthwise_conv2d(inputs, kernel, Geometry((2, 2), (1, 2), (1, 1), "valid"))
    with pytest.raises(LookupError, match="has a gradient where strides are equal"):
        tape.gradient(y, inputs)


LAYERS = {
    "plain": lambda: K.DepthwiseConv2D(3, padding="same"),
    "strided": lambda: K.DepthwiseConv2D((3, 5), strides=2, padding="same", activation="relu"),
    "valid": lambda: K.DepthwiseConv2D((2, 3), use_bias=False, activation="gelu"),
    "dilated": lambda: K.DepthwiseConv2D(3, dilation_rate=2, activation="softmax"),
    "regularized": lambda: K.DepthwiseConv2D(
        3, depthwise_regularizer="l2", depthwise_constraint="max_norm", depthwise_initializer="ones"
    ),
    "1d": lambda: K.DepthwiseConv1D(3, strides=2, padding="same", activation="tanh"),
}


def built(name, dtype=None):
    layer = LAYERS[name]()
    if dtype:
        layer = type(layer).from_config({**layer.get_config(), "dtype": dtype})
    x = normal(2, *((9,) if name == "1d" else (7, 9)), 19)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    layer.kernel.assign(normal(*layer.kernel.shape))
    if layer.bias is not None:
        layer.bias.assign(normal(*layer.bias.shape))
    return model, x


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, tmp_path):
    model, x = built(name)
    small = tfc.compress(model, "int8")
    layer = small.layers[0]
    assert type(layer) is getattr(layers, type(model.layers[0]).__name__)
    assert layer.format.name == "depthwise float32"
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-5)
    assert layer.compute_output_shape(x.shape) == small(x).shape
    open_shape = [tf.TensorSpec([None] * (x.ndim - 1) + [x.shape[-1]])]
    np.testing.assert_allclose(
        tf.function(layer, input_signature=open_shape)(x), model(x), rtol=1e-5, atol=1e-5
    )
    small.save(tmp_path / "small.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "small.keras")(x), small(x))
    plain = tfc.decompress(small).layers[0]
    assert plain.get_config() == model.layers[0].get_config()
    np.testing.assert_array_equal(plain.kernel, model.layers[0].kernel)
    assert "depthwise float32" in str(tfc.report(model, small))


@pytest.mark.parametrize("name", ["plain", "strided", "valid", "1d"])
def test_gradients(name):
    model, x = built(name)
    small = tfc.compress(model, "int8")

    def gradients(model):
        weights = [weight.value for weight in model.trainable_weights]
        with tf.GradientTape() as tape:
            inputs = tf.constant(x)
            tape.watch(inputs)
            loss = tf.reduce_sum(tf.sin(model(inputs)))
        return tape.gradient(loss, [inputs, *weights])

    for one, other in zip(gradients(small), gradients(model), strict=True):
        np.testing.assert_allclose(np.ravel(one), np.ravel(other), rtol=1e-3, atol=1e-4)


def test_norm_and_activation_are_folded_in():
    inputs = keras.Input((7, 9, 5))
    y = K.DepthwiseConv2D(3, use_bias=False, name="conv")(inputs)
    y = K.ReLU(6.0, name="relu")(K.BatchNormalization(name="norm")(y))
    model = keras.Model(inputs, y)
    norm = model.get_layer("norm")
    for weight in norm.weights:
        weight.assign(RNG.uniform(0.5, 1.5, weight.shape))
    small = tfc.compress(model, tfc.Int8())
    assert [type(small.get_layer(name)).__name__ for name in ("norm", "relu")] == ["Absorbed"] * 2
    x = normal(2, 7, 9, 5)
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)


def test_mixed_precision():
    model, x = built("plain", "mixed_bfloat16")
    small = tfc.compress(model, "int8")
    assert small(x).dtype == tf.bfloat16
    expected = tf.cast(model(x), tf.float32)
    np.testing.assert_allclose(tf.cast(small(x), tf.float32), expected, rtol=0.03, atol=0.1)


def test_what_stays_as_it_is():
    for layer, reason in (
        (K.DepthwiseConv2D(3, depth_multiplier=2), "its depth_multiplier is 2"),
        (K.DepthwiseConv2D(3, data_format="channels_first"), "its data_format is channels_first"),
    ):
        layer.build((None, 8, 8, 8))
        assert layers.refusal(layer) == reason
    model, _ = built("plain")
    with pytest.raises(ValueError, match="nothing is multiplied"):
        tfc.prune(model, sparsity=0.5)
    for wrong, message in (
        ({"kernel_size": 0}, "`kernel_size` must be 2 positive integers"),
        ({"padding": "causal"}, "`padding` must be 'valid' or 'same'"),
        ({"strides": (1, 2)}, r"must have equal strides.*its strides are \(1, 2\)"),
        ({"depth_multiplier": 2}, "its depth_multiplier is 2"),
    ):
        with pytest.raises(ValueError, match=message):
            layers.DepthwiseConv2D(**{"kernel_size": 3, **wrong})
    with pytest.raises(NotImplementedError, match="not a matrix to multiply by"):
        layers.Dense(3, format=layers.DepthwiseConv2D(3).format)(np.ones((1, 2), "float32"))


def test_a_separable_convolution_is_two_ops():
    model = keras.Sequential([keras.Input((8, 8, 6)), K.SeparableConv2D(5, 3, activation="relu")])
    x = normal(2, 8, 8, 6)
    small = tfc.compress(model, tfc.Sparse(), batch_size=None)  # float32, nothing pruned: exact
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)
    definition = tf.function(small).get_concrete_function(tf.TensorSpec((None, 8, 8, 6))).graph
    definition = definition.as_graph_def()
    bodies = [definition.node, *(body.node_def for body in definition.library.function)]
    types = {node.op for nodes in bodies for node in nodes}
    assert "Tfcompress>DepthwiseConv2D" in types
    assert not any("Depthwise" in op and not op.startswith("Tfcompress") for op in types)
    restored = tfc.decompress(small)
    assert type(restored.layers[0]) is K.SeparableConv2D
    np.testing.assert_allclose(restored(x), model(x), rtol=1e-4, atol=1e-5)
