"""Dense layers on binary and ternary weights: what they compute, save and load."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops.reports import report

# What Keras does with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

FORMATS = [
    tfc.Binary(),
    tfc.Binary("int8", center=True),
    tfc.Binary("binary"),
    tfc.Binary("binary", center=True, scale_inputs=True),
    tfc.Ternary(),
    tfc.Ternary("int8", threshold="absmean"),
]


def by_label(format_):
    return format_.label


def data(rows=20, k=48):
    return np.random.default_rng(0).standard_normal((rows, k)).astype(np.float32)


def models(format_, dtype="float32"):
    """A dense model, and the same with its hidden layer on packed weights."""
    keras.utils.set_random_seed(0)
    dense = keras.Sequential(
        [
            keras.Input((48,)),
            keras.layers.Dense(40, "tanh", name="hidden", bias_initializer="normal", dtype=dtype),
            keras.layers.Dense(3, name="head", dtype=dtype),
        ]
    )
    return dense, tfc.compress(dense, {"hidden": format_}, batch_size=None)


def hidden_of(format_, layer, x):
    """The hidden layer in float64, from its unpacked weights."""
    x = x.astype(np.float64)
    if format_.activations == "binary":
        scale = np.abs(x).mean(axis=1, keepdims=True) if format_.scale_inputs else 1
        x = np.where(x >= 0, 1, -1) * scale
    return np.tanh(x @ layer.weight_matrix() + np.asarray(layer.bias))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
def test_output_is_that_of_the_unpacked_weights(format_, dtype):
    dense, small = models(format_, dtype)
    layer = small.get_layer("hidden")
    original = dense.get_layer("hidden")
    kernel = original.kernel.numpy()
    np.testing.assert_array_equal(layer.weight_matrix(), format_.unpack(format_.pack(kernel)))
    y = layer(data())
    assert y.dtype == original.compute_dtype
    tolerance = 1e-5 if dtype == "float32" else 0.02
    if format_.activations == "int8":
        tolerance = 0.05
    x = tf.cast(tf.cast(data(), y.dtype), "float32").numpy()
    np.testing.assert_allclose(tf.cast(y, "float32"), hidden_of(format_, layer, x), atol=tolerance)


@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
def test_save_and_load(format_, tmp_path):
    _, small = models(format_)
    x = data()
    expected = small.predict(x, verbose=0)
    small.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("hidden").format == format_
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)

    small.save_weights(tmp_path / "model.weights.h5")
    loaded.get_layer("hidden").bias.assign(np.ones(40))
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)


@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
def test_biases_train_and_packed_weights_stay(format_):
    _, small = models(format_)
    layer = small.get_layer("hidden")
    before, bias = layer.packed_arrays(), layer.bias.numpy()
    assert [variable.name for variable in layer.trainable_variables] == ["bias"]
    small.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    losses = small.fit(data(), np.ones((20, 3)), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert (layer.bias.numpy() != bias).all()
    for name, array in layer.packed_arrays().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
def test_decompress_and_compress_again(format_):
    _, small = models(format_)
    plain = tfc.decompress(small)
    kernel = plain.get_layer("hidden").kernel.numpy()
    np.testing.assert_array_equal(kernel, small.get_layer("hidden").weight_matrix())
    if not getattr(format_, "center", False) and format_.name == "binary":
        again = tfc.compress(plain, {"hidden": format_}, batch_size=None)
        np.testing.assert_array_equal(again(data()), small(data()))


def test_report_counts_the_bytes():
    for format_, bits in ((tfc.Binary(), 1), (tfc.Ternary(), 2)):
        dense, small = models(format_)
        assert format_.label in str(report(dense, small))
        layer = small.get_layer("hidden")
        # 48 rows are 1.5 words of 32 signs, 3 of 16 ternary levels; 40 outputs fill a panel of 48.
        words = {1: 2, 2: 3}[bits]
        assert layer.packed_arrays()["kernel"].nbytes == words * 48 * 4
