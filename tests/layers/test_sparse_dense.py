"""Dense layers on pruned weights: what can be trained, saved and loaded."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc

# What Keras does with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

FORMATS = [
    tfc.Sparse(sparsity=0.8),
    tfc.Sparse(pattern="8:64", values="bfloat16"),
    tfc.Sparse(pattern="balanced", sparsity=0.75, values="int8"),
]


def by_label(format_):
    return format_.label


def data(rows=64, k=48):
    x = np.random.default_rng(0).standard_normal((rows, k)).astype(np.float32)
    return x, np.tanh(x @ np.random.default_rng(1).standard_normal((k, 3)).astype(np.float32))


def models(format_, **options):
    """A dense model whose hidden layer is pruned, and the same on packed weights."""
    keras.utils.set_random_seed(0)
    dense = keras.Sequential(
        [
            keras.Input((48,)),
            keras.layers.Dense(40, "tanh", name="hidden", **options),
            keras.layers.Dense(3, name="head", **options),
        ]
    )
    dense = tfc.prune(dense, sparsity=0.8)
    return dense, tfc.compress(dense, {"hidden": format_}, batch_size=None)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    ],
    ids=["adam", "sgd", "adamw"],
)
def test_fine_tuning_equals_masked_dense_training(optimizer):
    dense, sparse = models(tfc.Sparse())
    x, y = data()
    mask = dense.get_layer("hidden").kernel.numpy() != 0
    before = sparse.get_layer("hidden").packed_arrays()

    losses = {}
    for name, model in (("dense", dense), ("sparse", sparse)):
        # The head of both has zeros that nothing holds: they are trained alike.
        model.compile(optimizer(), "mse", jit_compile=False)
        holding = [tfc.callbacks.Pruning()] if name == "dense" else []
        head = model.get_layer("head")
        head.kernel.assign(np.random.default_rng(2).standard_normal(head.kernel.shape))
        losses[name] = model.fit(
            x, y, batch_size=16, epochs=5, shuffle=False, verbose=0, callbacks=holding
        ).history["loss"]

    assert losses["sparse"][-1] < 0.5 * losses["sparse"][0]
    np.testing.assert_allclose(losses["sparse"], losses["dense"], rtol=1e-4)
    layer = sparse.get_layer("hidden")
    np.testing.assert_allclose(
        layer.weight_matrix(), dense.get_layer("hidden").kernel, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_array_equal(layer.weight_matrix()[~mask], 0)
    after = layer.packed_arrays()
    np.testing.assert_array_equal(after["structure"], before["structure"])
    empty = before["structure"][: before["values"].size].reshape(before["values"].shape) == 128
    assert empty.any()
    assert (after["values"][empty] == 0).all()
    assert (after["values"][~empty] != before["values"][~empty]).mean() > 0.9


def test_a_new_layer_trains():
    keras.utils.set_random_seed(0)
    layer = tfc.layers.Dense(24, format=tfc.Sparse(pattern="4:8"), activation="relu")
    model = keras.Sequential([keras.Input((48,)), layer, keras.layers.Dense(3)])
    model.compile("adam", "mse", jit_compile=False)
    losses = model.fit(*data(), epochs=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert [v.name for v in layer.trainable_variables] == ["values", "bias"]
    assert (layer.weight_matrix() == 0).mean() >= 0.5


@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
def test_what_is_trainable(format_):
    _, sparse = models(format_)
    layer = sparse.get_layer("hidden")
    names = [variable.name for variable in layer.trainable_variables]
    assert names == (["values", "bias"] if format_.values == "float32" else ["bias"])
    layer.trainable = False
    assert layer.trainable_variables == []
    packed = layer.packed_arrays()
    sparse.compile("adam", "mse", jit_compile=False)
    sparse.fit(*data(), verbose=0)
    for name, array in layer.packed_arrays().items():
        np.testing.assert_array_equal(array, packed[name])


@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
def test_save_and_load(format_, tmp_path):
    _, sparse = models(format_)
    x, _ = data()
    expected = sparse.predict(x, verbose=0)
    sparse.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("hidden").format == format_
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)

    sparse.save_weights(tmp_path / "model.weights.h5")
    loaded.get_layer("hidden").bias.assign(np.ones(40))
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)

    sparse.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(x), expected, rtol=1e-6, atol=1e-6)


def test_weights_of_another_pattern_are_refused(tmp_path):
    _, one = models(tfc.Sparse(sparsity=0.8))
    _, other = models(tfc.Sparse(sparsity=0.9))
    one.save_weights(tmp_path / "one.weights.h5")
    with pytest.raises(ValueError, match="The weights file does not fit layer 'hidden'"):
        other.load_weights(tmp_path / "one.weights.h5")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
def test_dtype_policies(format_, policy):
    dense, sparse = models(format_, dtype=policy)
    x, y = data()
    out = sparse(x)
    assert out.dtype == policy.removeprefix("mixed_")
    weights = sparse.get_layer("hidden").weight_matrix()
    hidden = np.tanh(x @ weights + sparse.get_layer("hidden").bias)
    expected = hidden @ dense.get_layer("head").kernel.numpy()
    np.testing.assert_allclose(tf.cast(out, tf.float32), expected, atol=0.08)
    sparse.compile("adam", "mse", jit_compile=False)
    assert np.isfinite(sparse.fit(x, y, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
def test_decompress(format_):
    dense, sparse = models(format_)
    plain = tfc.decompress(sparse)
    assert type(plain.get_layer("hidden")) is keras.layers.Dense
    kernel = plain.get_layer("hidden").kernel.numpy()
    np.testing.assert_array_equal(kernel, sparse.get_layer("hidden").weight_matrix())
    if format_ == tfc.Sparse(sparsity=0.8):
        np.testing.assert_array_equal(kernel, dense.get_layer("hidden").kernel)
