"""Layers trained quantised, and what tfc.compress makes of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops.layers import QuantConv2D, QuantDense

# Keras saves its variables in a way that NumPy 2 warns about.
pytestmark = [
    pytest.mark.usefixtures("quick_timing"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(37, 70)).astype(np.float32)
CLIP = tfc.constraints.WeightClip(0.5)


def model_of(kernel, inputs, dtype="float32", **kwargs):
    layer = QuantDense(
        33,
        "relu",
        kernel_quantizer=kernel,
        input_quantizer=inputs,
        bias_initializer=keras.initializers.RandomNormal(seed=1),
        dtype=dtype,
        name="hidden",
        **kwargs,
    )
    return keras.Sequential([keras.Input((70,)), layer])


PAIRS = [
    ("SteSign", None),
    ("SteSign", "SteSign"),
    (tfc.quantizers.SteSign(scale=True), "ApproxSign"),
    ("ApproxSign", tfc.quantizers.SteSign(scale=True)),
    ("SteSign", "FakeInt8"),
    ("SteTern", None),
    (tfc.quantizers.SteTern("absmean"), "FakeInt8"),
    ("FakeInt8", None),
    ("FakeInt8", "FakeInt8"),
]


@pytest.mark.parametrize(("kernel", "inputs"), PAIRS)
def test_compressed_outputs_are_those_of_training(kernel, inputs):
    model = model_of(kernel, inputs)
    small = tfc.compress(model)
    assert type(small.layers[0]) is tfc.layers.Dense
    assert small.layers[0].format == model.layers[0].trained_format()
    expected = model(X).numpy()
    assert (expected > 0).any()
    np.testing.assert_allclose(small(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 63, 64, 257])
def test_w1a1_is_exact(k):
    x = RNG.integers(-3, 4, (19, k)).astype(np.float32)  # zeros among them
    layer = QuantDense(21, use_bias=False, kernel_quantizer="SteSign", input_quantizer="SteSign")
    model = keras.Sequential([keras.Input((k,)), layer])
    expected = np.where(x >= 0, 1, -1) @ np.where(layer.latent_kernel.numpy() >= 0, 1, -1)
    np.testing.assert_array_equal(model(x), expected)
    np.testing.assert_array_equal(tfc.compress(model)(x), expected)


def test_training_moves_latent_weights_within_the_clip():
    model = model_of("SteSign", "SteSign", kernel_constraint=CLIP)
    layer = model.layers[0]
    before = layer.latent_kernel.numpy()
    signs = layer.kernel.numpy()
    model.compile(keras.optimizers.Adam(0.05), "mse")
    history = model.fit(X, RNG.normal(size=(37, 33)), epochs=20, verbose=0).history["loss"]
    assert history[-1] < history[0]
    after = layer.latent_kernel.numpy()
    assert (after != before).any()
    assert np.abs(after).max() <= 0.5
    assert (layer.kernel.numpy() != signs).any()
    assert set(np.unique(layer.kernel)) == {-1.0, 1.0}
    np.testing.assert_allclose(tfc.compress(model)(X), model(X), rtol=1e-5, atol=1e-5)


def test_gradients():
    """Of the whole layer, against the formulas of its parts."""
    layer = QuantDense(5, kernel_quantizer="SteSign", input_quantizer="ApproxSign")
    x = tf.constant(X)
    layer.build(x.shape)
    upstream = RNG.normal(size=(37, 5)).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    to_x, to_w = tape.gradient(y, [x, layer.latent_kernel.value], upstream)
    w = layer.latent_kernel.numpy()
    sign_x, sign_w = np.where(X >= 0, 1, -1), np.where(w >= 0, 1, -1)
    expected_x = upstream @ sign_w.T * np.maximum(0, 2 - 2 * np.abs(X))
    np.testing.assert_allclose(to_x, expected_x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(to_w, sign_x.T @ upstream * (np.abs(w) <= 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "mixed_float16"])
def test_dtype_policies(dtype):
    model = model_of("SteTern", "FakeInt8", dtype)
    outputs, packed = model(X), tfc.compress(model)(X)
    assert outputs.dtype == packed.dtype == model.layers[0].compute_dtype
    outputs, packed = np.asarray(outputs, np.float32), np.asarray(packed, np.float32)
    assert np.linalg.norm(packed - outputs) < 0.02 * np.linalg.norm(outputs)
    model.compile("sgd", "mse")
    model.fit(X, np.zeros((37, 33)), verbose=0)


def test_saving(tmp_path):
    model = model_of(tfc.quantizers.SteSign(0.5), "FakeInt8", kernel_constraint=CLIP)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    layer = again.layers[0]
    assert layer.kernel_quantizer.clip_value == 0.5
    assert layer.kernel_constraint.clip_value == 0.5
    np.testing.assert_array_equal(again(X), model(X))
    model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(saved.serve(X), model(X), rtol=1e-5, atol=1e-6)


def test_which_format_wins():
    model = keras.Sequential(
        [
            keras.Input((70,)),
            keras.layers.Dense(40, name="first"),
            QuantDense(30, kernel_quantizer="SteSign", name="second"),
            QuantDense(3, kernel_quantizer="SteTern", name="third"),
        ]
    )

    def formats(*arguments):
        layers = tfc.compress(model, *arguments).layers
        return [getattr(layer, "format", None) for layer in layers]

    assert formats() == [None, tfc.Binary(), tfc.Ternary()]
    assert formats("int8") == [tfc.Int8(), tfc.Binary(), tfc.Ternary()]
    assert formats({"first": "int8", "third": None}) == [tfc.Int8(), tfc.Binary(), None]
    kept = tfc.compress(model, {"third": None}).layers[2]
    assert type(kept) is QuantDense
    np.testing.assert_allclose(tfc.compress(model)(X), model(X), rtol=1e-4, atol=1e-4)


def test_nothing_was_trained_quantised():
    model = keras.Sequential([keras.Input((70,)), keras.layers.Dense(4, name="head")])
    with pytest.raises(ValueError, match="must have a layer that can be compressed"):
        tfc.compress(model)


def test_layers_without_a_format():
    model = model_of("SteTern", "SteSign")
    with pytest.raises(ValueError, match="no format holds kernel_quantizer=SteTern with input"):
        tfc.compress(model, {"hidden": "binary"})


def test_decompress_and_report():
    model = model_of("SteTern", None)
    small = tfc.compress(model)
    plain = tfc.decompress(small)
    assert type(plain.layers[0]) is keras.layers.Dense
    np.testing.assert_allclose(plain(X), model(X), rtol=1e-5, atol=1e-5)
    assert "ternary float" in str(tfc.report(model, small, X))


CONV_X = RNG.normal(size=(2, 9, 8, 3)).astype(np.float32)


def patches_of(x, size, stride, padding):
    """[batch, out_h, out_w, size * size * channels], zero padded, by plain loops."""
    if padding == "same":
        total = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[1:3]]
        x = np.pad(x, ((0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)))
    starts = [range(0, n - size + 1, stride) for n in x.shape[1:3]]
    rows = [
        [x[:, i : i + size, j : j + size].reshape(len(x), -1) for j in starts[1]] for i in starts[0]
    ]
    return np.moveaxis(np.array(rows), 2, 0)


@pytest.mark.parametrize(("kernel", "inputs"), PAIRS)
@pytest.mark.parametrize(("stride", "padding"), [(1, "same"), (2, "valid"), (2, "same")])
def test_conv2d_equals_a_packed_product_of_patches(kernel, inputs, stride, padding):
    layer = QuantConv2D(
        5,
        3,
        strides=stride,
        padding=padding,
        kernel_quantizer=kernel,
        input_quantizer=inputs,
        bias_initializer="ones",
    )
    outputs = layer(CONV_X)
    assert tuple(outputs.shape) == layer.compute_output_shape(CONV_X.shape)
    format_ = layer.trained_format()
    arrays = format_.pack(layer.kernel.numpy().reshape(-1, 5))
    patches = tf.constant(patches_of(CONV_X, 3, stride, padding))
    expected = format_.matmul(patches, arrays, bias=np.ones(5, "f"))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_conv2d_trains_and_saves(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((9, 8, 3)),
            QuantConv2D(
                4, 3, kernel_quantizer="SteSign", input_quantizer="SteSign", dilation_rate=2
            ),
        ]
    )
    model.compile("adam", "mse")
    before = model.layers[0].latent_kernel.numpy()
    model.fit(CONV_X, np.zeros((2, 5, 4, 4)), verbose=0)
    assert (model.layers[0].latent_kernel.numpy() != before).any()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(CONV_X), model(CONV_X))


def test_groups():
    with pytest.raises(ValueError, match="`groups` must be 1 and `data_format` 'channels_last'"):
        QuantConv2D(6, 3, groups=3, input_quantizer="SteSign")
    grouped = QuantConv2D(6, 3, groups=3, kernel_quantizer="FakeInt8")
    plain = keras.layers.Conv2D(6, 3, groups=3)
    plain.build(CONV_X.shape)
    outputs = grouped(CONV_X)
    plain.kernel.assign(grouped.kernel)
    np.testing.assert_allclose(outputs, plain(CONV_X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("scale_inputs", [False, True])
@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((70,), keras.layers.Dense(33, "relu", bias_initializer="ones")),
        ((7, 6, 3), keras.layers.Conv2D(5, 3, 2, padding="same", bias_initializer="ones")),
    ],
    ids=["dense", "convolution"],
)
def test_decompressed_layers_take_signs_too(shape, layer, scale_inputs, center):
    """Where a plain layer would multiply what the packed one takes the signs of."""
    model = keras.Sequential([keras.Input(shape), type(layer).from_config(layer.get_config())])
    format_ = tfc.Binary("binary", scale_inputs=scale_inputs, center=center)
    small = tfc.compress(model, format_, batch_size=None)
    plain = tfc.decompress(small)
    assert type(plain.layers[0]) in (QuantDense, QuantConv2D)
    x = RNG.normal(size=(5, *shape)).astype(np.float32)
    expected = small(x).numpy()
    np.testing.assert_allclose(plain(x), expected, rtol=1e-4, atol=1e-4)
    if not center:  # no quantiser has it
        again = tfc.compress(plain)
        assert again.layers[0].format == format_
        np.testing.assert_array_equal(again(x), expected)


def test_decompressed_layers_that_cannot_take_signs_warn():
    model = keras.Sequential([keras.Input((8, 3)), keras.layers.Conv1D(4, 3, name="conv")])
    small = tfc.compress(model, tfc.Binary("binary"), batch_size=None)
    with pytest.warns(UserWarning, match="Layer 'conv' becomes a Conv1D, which multiplies"):
        plain = tfc.decompress(small)
    assert type(plain.layers[0]) is keras.layers.Conv1D


def test_decompressed_cells_of_signs_stay_split():
    model = keras.Sequential([keras.Input((6, 5)), keras.layers.LSTM(4)])
    small = tfc.compress(model, tfc.Binary("binary"), batch_size=None)
    x = RNG.normal(size=(3, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(tfc.decompress(small)(x), small(x), rtol=1e-4, atol=1e-5)
    whole = tfc.decompress(tfc.compress(model, tfc.Int8(), batch_size=None))
    assert type(whole.layers[0].cell) is keras.layers.LSTMCell


def test_scale_of_one_magnitude_is_exact():
    """So that what was quantised once is not changed by being quantised again."""
    alpha = RNG.uniform(0.1, 1, 40).astype(np.float32)
    w = np.where(RNG.normal(size=(1001, 40)) < 0, -alpha, alpha)
    np.testing.assert_array_equal(tfc.quantizers.SteSign(scale=True)(w), w)
