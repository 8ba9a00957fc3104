"""tfc.quantize_aware: float model, fine-tuning with rounding, packed model of the same outputs."""

import keras
import numpy as np
import pytest

import tfcompress_ops as tfc
from tfcompress_ops.layers import QuantConv2D, QuantDense
from tfcompress_ops.quantizers import FakeInt8, SteSign, SteTern

# Keras saves its variables in a way that NumPy 2 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 12, 9, 3)).astype(np.float32)
Y = RNG.integers(0, 5, 96)
BINARY = tfc.Binary("binary", scale_inputs=True)


def bent(x):
    """An activation that Keras does not know by name."""
    return keras.ops.tanh(x)


def make_model():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((12, 9, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Activation("relu", name="relu")(x)
    x = keras.layers.Flatten(name="flat")(x)
    x = keras.layers.Dense(33, activation=bent, name="hidden")(x)
    x = keras.layers.Dense(5, name="head")(x)
    model = keras.Model(inputs, x, name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    return model


FORMATS = [
    tfc.Int8(),
    tfc.Int8("float"),
    tfc.Binary(),
    tfc.Binary("int8"),
    BINARY,
    tfc.Ternary(),
    tfc.Ternary("int8"),
    {"hidden": BINARY, "head": tfc.Int8(), "conv": None},
]


@pytest.mark.parametrize("formats", FORMATS, ids=str)
def test_trained_with_rounding_and_packed_with_the_same_outputs(formats):
    model = make_model()
    before = model.get_weights()
    aware = tfc.quantize_aware(model, formats)
    wanted = (
        formats if isinstance(formats, dict) else dict.fromkeys(["conv", "hidden", "head"], formats)
    )
    for name, format_ in wanted.items():
        layer = aware.get_layer(name)
        assert isinstance(layer, (QuantConv2D, QuantDense)) == (format_ is not None)
        kernel = layer.kernel if format_ is None else layer.latent_kernel
        np.testing.assert_array_equal(kernel, model.get_layer(name).kernel)
    history = aware.fit(X, Y, epochs=6, batch_size=32, verbose=0).history["loss"]
    assert history[-1] < history[0]
    small = tfc.compress(aware)
    for name, format_ in wanted.items():
        assert getattr(small.get_layer(name), "format", None) == format_
    # Where inputs are rounded, a sum that lies between two levels may fall on either side.
    expected, found = aware.predict(X, verbose=0), small.predict(X, verbose=0)
    error = np.abs(found - expected) / np.abs(expected).max()
    assert np.median(error) < 1e-5
    assert error.max() < 0.02
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("format_", [tfc.Int8(), tfc.Int8("float")], ids=str)
def test_int8_starts_where_the_float_model_is(format_):
    """The rounding of training is the rounding of compression, before any of it."""
    model = keras.Sequential([keras.Input((50,)), keras.layers.Dense(17, "relu", name="dense")])
    x = RNG.normal(size=(20, 50)).astype("f")
    np.testing.assert_allclose(
        tfc.quantize_aware(model, format_)(x), tfc.compress(model, format_)(x), atol=1e-5
    )


def test_fine_tuning_wins_back_what_rounding_costs():
    """One bit, from a trained float model: the loss after rounding, and after fine-tuning."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(512, 20)).astype("f")
    y = np.argmax(x @ rng.normal(size=(20, 5)), axis=1)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(64, "relu", name="hidden"),
            keras.layers.Dense(5, name="head"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(x, y, epochs=30, verbose=0)
    aware = tfc.quantize_aware(model, tfc.Binary())
    rounded = aware.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    aware.fit(x, y, epochs=30, verbose=0)
    small = tfc.compress(aware)
    read = np.argmax(small.predict(x, verbose=0), axis=1)
    assert (read == y).mean() > rounded + 0.05
    np.testing.assert_allclose(small(x), aware(x), rtol=1e-4, atol=1e-4)


def test_pruned_and_trained_for_int8_becomes_sparse_int8():
    model = keras.Sequential([keras.Input((128,)), keras.layers.Dense(48, "relu", name="hidden")])
    model.compile("adam", "mse")
    sparse = tfc.Sparse(pattern="8:64", values="int8")
    aware = tfc.quantize_aware(tfc.prune(model, pattern="8:64"), {"hidden": sparse})
    x, y = RNG.normal(size=(64, 128)).astype("f"), RNG.normal(size=(64, 48))
    aware.fit(x, y, epochs=2, verbose=0, callbacks=[tfc.callbacks.Pruning()])
    assert (aware.layers[0].latent_kernel.numpy() == 0).mean() == 0.875
    small = tfc.compress(aware, sparse, batch_size=None)
    assert small.layers[0].format == sparse
    np.testing.assert_allclose(small(x), aware(x), rtol=1e-5, atol=1e-5)
    # A format that would drop weights which it was trained with is not taken.
    other = tfc.compress(aware, tfc.Sparse(pattern="4:64", values="int8"), batch_size=None)
    assert other.layers[0].format == tfc.Int8()
    np.testing.assert_allclose(other(x), aware(x), rtol=1e-5, atol=1e-5)
    assert tfc.compress(aware).layers[0].format == tfc.Int8()


def test_quantisers_and_constraints():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, name="signs"),
            keras.layers.Dense(8, kernel_constraint="max_norm", use_bias=False, name="tern"),
            keras.layers.Dense(8, dtype="mixed_bfloat16", name="int8"),
        ]
    )
    formats = {"signs": BINARY, "tern": tfc.Ternary(threshold="absmean"), "int8": "int8"}
    signs, tern, int8 = tfc.quantize_aware(model, formats).layers
    assert isinstance(signs.kernel_quantizer, SteSign)
    assert signs.kernel_quantizer.scale
    assert isinstance(signs.input_quantizer, SteSign)
    assert isinstance(signs.kernel_constraint, tfc.constraints.WeightClip)
    assert isinstance(tern.kernel_quantizer, SteTern)
    assert tern.kernel_quantizer.threshold == "absmean"
    assert tern.input_quantizer is None
    assert tern.bias is None
    assert isinstance(tern.kernel_constraint, keras.constraints.MaxNorm)
    assert isinstance(int8.input_quantizer, FakeInt8)
    assert int8.dtype_policy.name == "mixed_bfloat16"


def test_saving(tmp_path):
    aware = tfc.quantize_aware(
        keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")]), tfc.Int8()
    )
    aware.save(tmp_path / "aware.keras")
    again = keras.saving.load_model(tmp_path / "aware.keras")
    x = RNG.normal(size=(4, 8)).astype("f")
    np.testing.assert_array_equal(again(x), aware(x))
    assert again.layers[0].trained_format() == tfc.Int8()


def test_errors():
    model = make_model()
    with pytest.raises(TypeError, match="`model` must be a keras"):
        tfc.quantize_aware("model", tfc.Int8())
    for format_ in (tfc.Int8("static"), tfc.Int8(center=True), tfc.Sparse(), BINARY_CENTERED):
        with pytest.raises(ValueError, match="must be formats that layers can be trained for; rec"):
            tfc.quantize_aware(model, format_)
    with pytest.raises(ValueError, match=r"pattern 'heads', which matches none.*'head'"):
        tfc.quantize_aware(model, {"heads": tfc.Int8()})
    with pytest.raises(ValueError, match="matches only\n  norm: BatchNormalization has no count"):
        tfc.quantize_aware(model, {"norm": tfc.Int8()})
    with pytest.raises(ValueError, match="in which `formats` reaches none:\n  norm: Batch"):
        tfc.quantize_aware(model, {"*": None})
    with pytest.raises(ValueError, match="hidden: its weights are packed already"):
        tfc.quantize_aware(tfc.compress(model, {"hidden": "int8"}), {"hidden": tfc.Int8()})
    aware = tfc.quantize_aware(model, {"hidden": tfc.Int8()})
    with pytest.raises(ValueError, match="hidden: it is trained quantised already"):
        tfc.quantize_aware(aware, {"hidden": tfc.Binary()})


BINARY_CENTERED = tfc.Binary(center=True)
