"""tfc.prune on whole models, and tfc.callbacks.Pruning while they train on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops import structure
from tfcompress_ops.layers.layer import _REPLACEMENTS, CompressedLayer, Weights, replaces
from tfcompress_ops.methods import pruning
from tfcompress_ops.patterns import keep_mask, keep_masks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 8)).astype(np.float32)
Y = RNG.normal(size=(96, 4)).astype(np.float32)
D = keras.layers.Dense


def sequential(**kwargs):
    return keras.Sequential(
        [
            keras.Input((8,), name="pixels"),
            D(32, activation="relu", name="hidden", bias_initializer="ones", **kwargs),
            D(4, name="head", **kwargs),
        ],
        name="small",
    )


def nested():
    """Sequential in Functional, a shared layer, a model called twice, a layer without a matrix."""
    encoder = keras.Sequential([keras.Input((8,)), D(8, "tanh", name="dense")], name="encoder")
    left, right = keras.Input((8,), name="left"), keras.Input((8,), name="right")
    shared = D(8, activation="gelu", name="shared")
    merged = keras.layers.Add(name="add")([encoder(shared(left)), encoder(shared(right))])
    normed = keras.layers.BatchNormalization(name="norm")(keras.ops.tanh(merged) * 2.0)
    return keras.Model([left, right], D(4, name="head")(normed), name="nested")


def kernels(model):
    layers = dict.fromkeys(structure.layer_paths(model).values())
    return [layer.kernel.numpy() for layer in layers if isinstance(layer, D)]


def zeros(model):
    return [kernel == 0 for kernel in kernels(model)]


def assert_same_zeros(model, expected):
    for zero, other in zip(zeros(model), expected, strict=True):
        np.testing.assert_array_equal(zero, other)


OPTIONS = [
    {"sparsity": 0.75},
    {"sparsity": 0.0},
    {"threshold": 0.2},
    {"sparsity": 0.75, "pattern": "balanced"},
    {"pattern": "2:4"},
    {"sparsity": 0.75, "block": (4, 4)},
    {"threshold": 0.3, "block": (2, 1)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sequential(options):
    model = sequential()
    before = model.get_weights()
    pruned = tfc.prune(model, **options)
    assert isinstance(pruned, keras.Sequential)
    assert pruned.get_config() == model.get_config()
    for kernel, old in zip(kernels(pruned), kernels(model), strict=True):
        np.testing.assert_array_equal(kernel, np.where(keep_mask(old, **options), old, 0))
        assert not np.signbit(kernel[kernel == 0]).any()
    np.testing.assert_array_equal(pruned.get_layer("hidden").bias, np.ones(32))
    # The original is untouched, and nothing is shared with it.
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not set(map(id, pruned.variables)) & set(map(id, model.variables))
    np.testing.assert_allclose(pruned.predict(X, verbose=0), pruned(X), rtol=1e-4, atol=1e-6)


def test_each_layer_by_itself():
    model = sequential()
    old_hidden, old_head = kernels(model)
    hidden, head = kernels(tfc.prune(model, sparsity={"he*": None, "*": 0.5}))
    np.testing.assert_array_equal(
        hidden, np.where(keep_mask(old_hidden, sparsity=0.5), old_hidden, 0)
    )
    np.testing.assert_array_equal(head, old_head)
    pruned = tfc.prune(
        model,
        sparsity={"hidden": 0.75},
        pattern={"hidden": "balanced", "head": "2:4"},
    )
    hidden, head = kernels(pruned)
    mask = keep_mask(old_hidden, sparsity=0.75, pattern="balanced")
    np.testing.assert_array_equal(hidden, np.where(mask, old_hidden, 0))
    np.testing.assert_array_equal(head, np.where(keep_mask(old_head, pattern="2:4"), old_head, 0))
    hidden, head = kernels(tfc.prune(model, threshold={"hidden": 0.1, "head": 0.3}, block=(2, 1)))
    mask = keep_mask(old_head, threshold=0.3, block=(2, 1))
    np.testing.assert_array_equal(head, np.where(mask, old_head, 0))
    mask = keep_mask(old_hidden, threshold=0.1, block=(2, 1))
    np.testing.assert_array_equal(hidden, np.where(mask, old_hidden, 0))


def test_globs_and_models_in_models():
    model = nested()
    before = zeros(model)
    # "encoder" stands for all that is in it; a shared layer is pruned once, as it was named first.
    pruned = tfc.prune(model, sparsity={"encoder": 0.5, "shared": 0.25, "*": None})
    found = {
        path: float((layer.kernel.numpy() == 0).mean())
        for path, layer in structure.layer_paths(pruned).items()
        if isinstance(layer, D)
    }
    assert found == {"shared": 0.25, "encoder/dense": 0.5, "head": 0.0}
    assert_same_zeros(model, before)


def test_global_scope_over_some_layers():
    model = nested()
    pruned = tfc.prune(model, sparsity={"head": None, "*": 0.5}, scope="global")
    shared, dense, head = (
        structure.layer_paths(pruned)[path].kernel.numpy()
        for path in ("shared", "encoder/dense", "head")
    )
    assert (head != 0).all()
    assert (shared == 0).sum() + (dense == 0).sum() == 64
    assert (shared == 0).sum() != 32
    with pytest.raises(ValueError, match="must be the same for all layers that are pruned with"):
        tfc.prune(model, sparsity={"head": 0.25, "*": 0.5}, scope="global")


@pytest.mark.parametrize("quantizer", ["FakeInt8", "SteTern"])
def test_layers_that_are_trained_quantised(quantizer):
    layer = tfc.layers.QuantDense(24, kernel_quantizer=quantizer, name="hidden")
    model = keras.Sequential([keras.Input((8,)), layer, D(4, name="head")])
    latent = layer.latent_kernel.numpy()
    pruned = tfc.prune(model, sparsity={"hidden": 0.75})
    new = pruned.get_layer("hidden")
    mask = keep_mask(latent, sparsity=0.75)
    np.testing.assert_array_equal(new.latent_kernel, np.where(mask, latent, 0))
    np.testing.assert_array_equal(layer.latent_kernel, latent)
    assert (np.asarray(new.kernel)[~mask] == 0).all()
    pruned.compile(keras.optimizers.Adam(0.05), "mse")
    pruned.fit(X, Y, epochs=2, verbose=0, callbacks=[tfc.callbacks.Pruning()])
    np.testing.assert_array_equal(new.latent_kernel.numpy() != 0, mask)
    assert (new.latent_kernel.numpy()[mask] != latent[mask]).any()


def test_signs_cannot_be_pruned():
    layer = tfc.layers.QuantDense(24, kernel_quantizer="SteSign", name="hidden")
    model = keras.Sequential([keras.Input((8,)), layer])
    with pytest.raises(ValueError, match="hidden: SteSign makes a weight of zero something else"):
        tfc.prune(model, sparsity=0.5)


def test_nested_and_shared():
    model = nested()
    model.get_layer("norm").moving_mean.assign(RNG.normal(size=8))
    pruned = tfc.prune(model, sparsity=0.75)
    assert list(structure.layer_paths(pruned)) == list(structure.layer_paths(model))
    assert [round(zero.mean(), 2) for zero in zeros(pruned)] == [0.75] * 3
    assert len(pruned.weights) == len(model.weights)
    np.testing.assert_array_equal(
        pruned.get_layer("norm").moving_mean, model.get_layer("norm").moving_mean
    )
    for kernel, old in zip(kernels(pruned), kernels(model), strict=True):
        np.testing.assert_array_equal(kernel, np.where(keep_mask(old, sparsity=0.75), old, 0))


@pytest.mark.parametrize("options", [{}, {"pattern": "balanced"}, {"block": (4, 4)}], ids=str)
def test_global_scope(options):
    model = sequential()
    model.get_layer("head").kernel.assign(model.get_layer("head").kernel * 3)
    pruned = tfc.prune(model, sparsity=0.75, scope="global", **options)
    old = kernels(model)
    for kernel, before, mask in zip(
        kernels(pruned), old, keep_masks(old, sparsity=0.75, **options), strict=True
    ):
        np.testing.assert_array_equal(kernel, np.where(mask, before, 0))
    share = [zero.mean() for zero in zeros(pruned)]
    assert share[0] > share[1]


def test_frozen_layers_stay_frozen():
    model = nested()
    model.get_layer("encoder").trainable = False
    pruned = tfc.prune(model, sparsity=0.5)
    assert not pruned.get_layer("encoder").trainable
    assert zeros(pruned)[1].mean() == 0.5


def test_compiled_models_stay_compiled():
    model = sequential()
    model.compile(keras.optimizers.Adam(0.003), "mse", metrics=["mae"])
    pruned = tfc.prune(model, sparsity=0.5)
    assert pruned.compiled
    assert pruned.optimizer is not model.optimizer
    assert float(pruned.optimizer.learning_rate) == pytest.approx(0.003)
    assert set(pruned.evaluate(X, Y, verbose=0, return_dict=True)) == {"loss", "mae"}
    assert not tfc.prune(sequential(), sparsity=0.5).compiled


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_bfloat16"])
def test_dtype_policies(dtype):
    model = sequential(dtype=dtype)
    pruned = tfc.prune(model, sparsity=0.75)
    assert pruned.get_layer("head").dtype_policy.name == dtype
    assert pruned.get_layer("head").kernel.dtype == model.get_layer("head").kernel.dtype
    assert [zero.mean() for zero in zeros(pruned)] == [0.75, 0.75]
    pruned.compile("sgd", "mse")
    pruned.fit(X, Y, verbose=0, callbacks=[tfc.callbacks.Pruning()])
    assert [zero.mean() for zero in zeros(pruned)] == [0.75, 0.75]


def test_pruned_models_are_compressed():
    pruned = tfc.prune(sequential(), sparsity=0.75)
    small = tfc.compress(pruned, "int8")
    assert_same_zeros(tfc.decompress(small), zeros(pruned))


def test_what_cannot_be_pruned_stays():
    model = sequential()
    model.get_layer("hidden").enable_lora(2)
    model.get_layer("hidden").lora_kernel_b.assign(np.ones((2, 32)))
    pruned = tfc.prune(model, sparsity=0.75)
    np.testing.assert_array_equal(
        tf.convert_to_tensor(pruned.get_layer("hidden").kernel),
        tf.convert_to_tensor(model.get_layer("hidden").kernel),
    )
    assert zeros(pruned)[1].mean() == 0.75
    small = tfc.compress(sequential(), {"hidden": "int8"})
    pruned = tfc.prune(small, sparsity=0.75)
    np.testing.assert_array_equal(
        pruned.get_layer("hidden").weight_matrix(), small.get_layer("hidden").weight_matrix()
    )


# Keras' quantize() reads its variables in a way that NumPy 2 warns about.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_nothing_to_prune():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dropout(0.1, name="drop")])
    with pytest.raises(ValueError, match=r"must have a layer that can be pruned.*\n  drop: Dropou"):
        tfc.prune(model, sparsity=0.5)
    with pytest.raises(ValueError, match="head: its weights are packed already"):
        tfc.prune(tfc.compress(sequential(), "int8"), sparsity=0.5)
    model = sequential()
    model.quantize("int8")
    with pytest.raises(ValueError, match="head: Keras has quantised it, or LoRA"):
        tfc.prune(model, sparsity=0.5)


def test_models_that_are_refused():
    with pytest.raises(TypeError, match=r"`model` must be a keras\.Model; received Dense"):
        tfc.prune(D(3), sparsity=0.5)
    with pytest.raises(ValueError, match="`model` must be built"):
        tfc.prune(keras.Sequential([D(3)]), sparsity=0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "`sparsity`, `threshold` or an N:M `pattern` must be given"),
        ({"block": (2, 2)}, ValueError, "`sparsity`, `threshold` or an N:M `pattern` must be"),
        ({"sparsity": 2}, ValueError, "`sparsity` must be a fraction of zeros"),
        ({"pattern": "3:5"}, ValueError, "`pattern` must be None, 'balanced' or 'N:M'"),
        ({"sparsity": "0.5"}, TypeError, "`sparsity` must be None or a number"),
        ({"sparsity": 0.5, "scope": "model"}, ValueError, r"`scope` must be one of \('layer', 'gl"),
        ({"threshold": 1, "scope": "global"}, ValueError, "given with scope='global'; .*=1 and"),
        ({"pattern": "2:4", "scope": "global"}, ValueError, "scope='global'; .*pattern='2:4'"),
        ({"sparsity": {"*": 2}}, ValueError, "`sparsity` must be a fraction of zeros"),
        ({"sparsity": {"*": 0.5}, "threshold": 1.0}, ValueError, "sparsity.*threshold"),
        ({"sparsity": {"heads": 0.5}}, ValueError, "pattern 'heads', which .* paths are .'head'"),
        ({"pattern": {"*": None}}, ValueError, "`pattern` must reach a layer .* none of 'small'"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        tfc.prune(sequential(), **options)


@pytest.mark.parametrize(("scope", "names"), [("layer", "'head'"), ("global", "'hidden', 'head'")])
def test_weights_that_are_not_finite(scope, names):
    model = sequential()
    model.get_layer("head").kernel.assign(np.full((32, 4), np.nan))
    with pytest.raises(ValueError, match=f"Weights of {names} cannot be pruned: `kernel` must"):
        tfc.prune(model, sparsity=0.5, scope=scope)


def test_layers_of_other_kinds():
    """A layer whose kernel has another shape than its matrix is pruned as it is registered."""

    class Bilinear(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(2, shape[-1] // 2, 6), initializer="normal")

        def call(self, x):
            return x @ keras.ops.reshape(self.kernel, (-1, 6))

    class Compressed(CompressedLayer):
        @classmethod
        def refusal(cls, layer):
            return None

        @classmethod
        def source_weights(cls, layer):
            matrix = layer.kernel.numpy().reshape(-1, 6)
            return Weights(matrix, None, None)

    replaces(Bilinear)(Compressed)
    try:
        model = keras.Sequential([keras.Input((8,)), Bilinear(name="bilinear")])
        pruned = tfc.prune(model, pattern="2:4")
    finally:
        del _REPLACEMENTS[Bilinear]
    old, new = (one.get_layer("bilinear").kernel.numpy() for one in (model, pruned))
    mask = keep_mask(old.reshape(8, 6), pattern="2:4").reshape(old.shape)
    np.testing.assert_array_equal(new, np.where(mask, old, 0))


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "momentum": lambda: keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, global_clipnorm=1.0),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_training_equals_training_by_hand(optimizer):
    """`fit` with the callback against steps that end in `kernel *= mask`."""
    pruned = tfc.prune(sequential(), sparsity=0.75)
    by_hand = keras.models.clone_model(pruned)
    by_hand.set_weights(pruned.get_weights())
    before = zeros(pruned)

    pruned.compile(optimizer(), "mse")
    pruned.fit(
        X,
        Y,
        batch_size=32,
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[tfc.callbacks.Pruning()],
    )
    steps = optimizer()
    for start in [0, 32, 64] * 3:
        with tf.GradientTape() as tape:
            error = by_hand(X[start : start + 32], training=True) - Y[start : start + 32]
            loss = tf.reduce_mean(tf.square(error))
        variables = by_hand.trainable_variables
        steps.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        for layer, zero in zip(by_hand.layers, before, strict=True):
            layer.kernel.assign(layer.kernel * (1 - zero.astype(np.float32)))

    assert_same_zeros(pruned, before)
    for weight, expected in zip(pruned.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6)


def test_zeros_are_held_after_every_batch():
    class Watch(keras.callbacks.Callback):
        seen = 0

        def on_train_batch_end(self, batch, logs=None):
            assert_same_zeros(self.model, before)
            self.seen += 1

    pruned = tfc.prune(nested(), sparsity=0.75)
    before = zeros(pruned)
    old = kernels(pruned)
    pruned.compile(keras.optimizers.Adam(0.01), "mse")
    first = pruned.predict([X, X[::-1]], verbose=0)
    watch = Watch()
    pruned.fit([X, X[::-1]], Y, epochs=2, verbose=0, callbacks=[tfc.callbacks.Pruning(), watch])
    assert watch.seen == 6
    for kernel, other in zip(kernels(pruned), old, strict=True):
        assert (kernel != other).any()
    # `predict` keeps the graph of its first call, which must see the weights as they are.
    last = pruned.predict([X, X[::-1]], verbose=0)
    assert not np.allclose(last, first)
    np.testing.assert_allclose(last, pruned([X, X[::-1]]), rtol=1e-4, atol=1e-5)


def test_averages_of_weights_keep_the_zeros():
    pruned = tfc.prune(sequential(), sparsity=0.75)
    before = zeros(pruned)
    pruned.compile(keras.optimizers.Adam(0.01, use_ema=True), "mse")
    pruned.fit(X, Y, verbose=0, callbacks=[tfc.callbacks.Pruning()])
    assert_same_zeros(pruned, before)


def test_constraints_keep_the_zeros():
    pruned = tfc.prune(sequential(kernel_constraint="unit_norm"), sparsity=0.75)
    before = zeros(pruned)
    pruned.compile("adam", "mse", steps_per_execution=2)
    pruned.fit(X, Y, verbose=0, callbacks=[tfc.callbacks.Pruning()])
    assert_same_zeros(pruned, before)


def test_weights_that_diverge():
    pruned = tfc.prune(sequential(), sparsity=0.75)
    before = zeros(pruned)
    pruned.compile("sgd", "mse")
    pruned.fit(X, Y * np.nan, verbose=0, callbacks=[tfc.callbacks.Pruning()])
    assert_same_zeros(pruned, before)


def test_a_callback_serves_several_fits():
    callback = tfc.callbacks.Pruning()
    for sparsity in (0.5, 0.75):
        pruned = tfc.prune(sequential(), sparsity=sparsity)
        pruned.compile("adam", "mse")
        for _ in range(2):
            pruned.fit(X, Y, verbose=0, callbacks=[callback])
        assert [zero.mean() for zero in zeros(pruned)] == [sparsity, sparsity]


def test_only_zeros_are_held():
    """What has none is trained as without the callback."""
    model = sequential()
    model.get_layer("head").kernel.assign(
        np.where(RNG.random((32, 4)) < 0.5, 0, model.get_layer("head").kernel)
    )
    before = zeros(model)
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0, callbacks=[tfc.callbacks.Pruning()])
    assert_same_zeros(model, before)


def test_subclassed_models():
    class Wrapper(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x):
            return self.inner(x) * 2

    pruned = tfc.prune(sequential(), sparsity=0.75)
    before = zeros(pruned)
    model = Wrapper(pruned)
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0, callbacks=[tfc.callbacks.Pruning()])
    assert_same_zeros(pruned, before)


def test_models_without_zeros():
    model = sequential()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="must have weights that are zero; received 'small', whi"):
        model.fit(X, Y, verbose=0, callbacks=[tfc.callbacks.Pruning()])
    small = tfc.compress(model, "int8")
    with pytest.raises(ValueError, match="must have weights that are zero"):
        small.fit(X, Y, verbose=0, callbacks=[tfc.callbacks.Pruning()])


def test_reasons():
    assert pruning.refusal(D(3)) == "it is not built"
    assert pruning.refusal(sequential().get_layer("head")) is None
