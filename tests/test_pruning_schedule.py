"""tfc.callbacks.Pruning with a schedule: gradual pruning during fit."""

import keras
import numpy as np
import pytest

import tfcompress_ops as tfc
from tfcompress_ops.patterns import keep_mask, keep_masks
from tfcompress_ops.schedules import Constant, Polynomial

# Keras saves its variables in a way that NumPy 2 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 8)).astype(np.float32)
Y = RNG.normal(size=(96, 4)).astype(np.float32)
RISING = Polynomial(0.0, 0.75, begin_step=2, end_step=12, frequency=3)


def make_model(optimizer="adam", **kwargs):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8,), name="pixels"),
            keras.layers.Dense(32, "relu", name="hidden"),
            keras.layers.Dense(4, name="head"),
        ],
        name="small",
    )
    model.compile(optimizer, "mse", **kwargs)
    return model


def fit(model, callback, epochs=5, **kwargs):
    """3 steps an epoch."""
    more = kwargs.pop("callbacks", [])
    return model.fit(
        X,
        Y,
        batch_size=32,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[callback, *more],
        **kwargs,
    )


def sparsities(model):
    return [round(float(np.mean(layer.kernel.numpy() == 0)), 4) for layer in model.layers]


class Watch(keras.callbacks.Callback):
    """Sparsities after each step."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(sparsities(self.model)[0])


def test_sparsity_follows_the_schedule():
    model, watch = make_model(), Watch()
    fit(model, tfc.callbacks.Pruning(RISING), callbacks=[watch])
    expected, now = [], 0.0
    for step in range(1, 16):
        if step in (2, 5, 8, 11, 12):
            now = round(round(RISING(step) * 256) / 256, 4)
        expected.append(now)
    assert watch.seen == expected
    assert sparsities(model) == [0.75, 0.75]


@pytest.mark.parametrize(
    "optimizer", ["sgd", "adam", "adamw", "rmsprop", "adafactor", "lion", "ftrl"]
)
def test_equals_training_by_hand(optimizer):
    """Magnitude masks of the moment's weights, held with `kernel *= mask`."""
    model, by_hand = make_model(optimizer), make_model(optimizer)
    fit(model, tfc.callbacks.Pruning(RISING), epochs=4)
    masks = [np.ones(layer.kernel.shape, bool) for layer in by_hand.layers]
    for step in range(1, 13):
        start = (step - 1) % 3 * 32
        by_hand.train_on_batch(X[start : start + 32], Y[start : start + 32])
        for index, layer in enumerate(by_hand.layers):
            layer.kernel.assign(layer.kernel.numpy() * masks[index])
            if step in (2, 5, 8, 11, 12):
                masks[index] = keep_mask(layer.kernel.numpy(), sparsity=RISING(step))
                layer.kernel.assign(layer.kernel.numpy() * masks[index])
    for weight, expected in zip(model.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6)


def test_resumed_from_a_checkpoint(tmp_path):
    straight, stopped = make_model(), make_model()
    fit(straight, tfc.callbacks.Pruning(RISING), epochs=5)
    fit(stopped, tfc.callbacks.Pruning(RISING), epochs=2)
    stopped.save(tmp_path / "model.keras")
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    fit(resumed, tfc.callbacks.Pruning(RISING), epochs=5, initial_epoch=2)
    assert sparsities(resumed) == [0.75, 0.75]
    for weight, expected in zip(resumed.get_weights(), straight.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-7)


def test_global_scope():
    model = make_model("sgd")
    model.get_layer("head").kernel.assign(model.get_layer("head").kernel * 3)
    before = [layer.kernel.numpy() for layer in model.layers]
    model.optimizer.learning_rate = 0.0
    fit(model, tfc.callbacks.Pruning(Constant(0.75), scope="global"), epochs=1)
    for layer, kernel, mask in zip(
        model.layers, before, keep_masks(before, sparsity=0.75), strict=True
    ):
        np.testing.assert_array_equal(layer.kernel.numpy(), np.where(mask, kernel, 0))


@pytest.mark.parametrize("options", [{"pattern": "balanced"}, {"block": (4, 4)}])
def test_patterns(options):
    model = make_model("sgd")
    model.optimizer.learning_rate = 0.0
    before = model.get_layer("hidden").kernel.numpy()
    fit(model, tfc.callbacks.Pruning(Constant(0.5), **options), epochs=1)
    expected = np.where(keep_mask(before, sparsity=0.5, **options), before, 0)
    np.testing.assert_array_equal(model.get_layer("hidden").kernel.numpy(), expected)


def test_schedules_by_layer():
    model = make_model()
    callback = tfc.callbacks.Pruning({"head": None, "h*": Constant(0.5)})
    fit(model, callback, epochs=2)
    assert sparsities(model) == [0.5, 0.0]
    fit(model, tfc.callbacks.Pruning({"hidden": Constant(0.75), "head": Constant(0.25)}), epochs=1)
    assert sparsities(model) == [0.75, 0.25]


def test_steps_per_execution():
    model = make_model(steps_per_execution=4)
    fit(model, tfc.callbacks.Pruning(RISING), epochs=5)
    assert sparsities(model) == [0.75, 0.75]


def test_kernels_of_zeros_are_trained_until_the_schedule_begins():
    model = make_model()
    model.get_layer("head").kernel.assign(np.zeros((32, 4)))
    fit(model, tfc.callbacks.Pruning(RISING), epochs=5)
    assert sparsities(model) == [0.75, 0.75]


def test_nothing_is_left_in_the_model():
    model, plain = make_model(), make_model()
    fit(model, tfc.callbacks.Pruning(RISING))
    assert model.get_config() == plain.get_config()
    assert len(model.variables) == len(plain.variables)


def test_subclassed_models():
    class Wrapper(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x):
            return self.inner(x)

    inner = make_model()
    model = Wrapper(inner)
    model.compile("adam", "mse")
    model.build((None, 8))
    fit(model, tfc.callbacks.Pruning({"*hidden": Constant(0.5)}), epochs=1)
    assert sparsities(inner) == [0.5, 0.0]


def test_students_are_pruned_while_they_are_taught():
    """What belongs to the distiller alone, a regressor, is left; paths are the student's."""
    student = make_model()
    wide = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(40, name="hidden"), keras.layers.Dense(4)]
    )
    distiller = tfc.Distiller(student, wide, alpha=0.0, matches={"hidden": "hidden"})
    distiller.compile("adam")
    fit(distiller, tfc.callbacks.Pruning({"head": None, "*": Constant(0.5)}), epochs=1)
    assert sparsities(student) == [0.5, 0.0]
    before = [layer.kernel.numpy() == 0 for layer in student.layers]
    fit(distiller, tfc.callbacks.Pruning(), epochs=1)
    for layer, zeros in zip(student.layers, before, strict=True):
        np.testing.assert_array_equal(layer.kernel.numpy() == 0, zeros)
    (regressor,) = distiller._regressors
    assert (regressor.kernel.numpy() != 0).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tfc.callbacks.Pruning(0.5), TypeError, "`schedule` must be a Schedule such as"),
        (lambda: tfc.callbacks.Pruning(pattern="balanced"), ValueError, "go with a `schedule`"),
        (
            lambda: tfc.callbacks.Pruning(Constant(0.5), pattern="2:4"),
            ValueError,
            "`pattern` must be None or 'balanced' with a schedule; received '2:4'",
        ),
        (
            lambda: tfc.callbacks.Pruning(Constant(0.5), scope="model"),
            ValueError,
            "`scope` must be one of",
        ),
        (
            lambda: tfc.callbacks.Pruning({"*": Constant(0.5)}, scope="global"),
            ValueError,
            "`schedule` must be one schedule with scope='global'",
        ),
        (
            lambda: fit(make_model(), tfc.callbacks.Pruning({"heads": Constant(0.5)})),
            ValueError,
            "the pattern 'heads', which matches none. The nearest layer paths are .*'head'",
        ),
        (
            lambda: fit(make_model(), tfc.callbacks.Pruning({"*": None})),
            ValueError,
            "`schedule` must reach a layer that can be pruned; received 'small'",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.slow
def test_two_devices_give_what_one_does(run_python):
    """MirroredStrategy over two logical CPUs, in a process of its own."""
    code = """
        import keras, numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        import tfcompress_ops as tfc

        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(96, 8)).astype("f"), rng.normal(size=(96, 4)).astype("f")

        def trained(scope):
            with scope:
                keras.utils.set_random_seed(1)
                model = keras.Sequential(
                    [keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(4)]
                )
                model.compile(keras.optimizers.Adam(0.01), "mse")
            schedule = tfc.schedules.Polynomial(0.0, 0.75, 1, 9, frequency=2)
            data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
            model.fit(data, epochs=4, verbose=0, callbacks=[tfc.callbacks.Pruning(schedule)])
            return model.get_weights()

        import contextlib
        one = trained(contextlib.nullcontext())
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        assert strategy.num_replicas_in_sync == 2
        two = trained(strategy.scope())
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a == 0, b == 0)
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        assert np.mean(one[0] == 0) == 0.75
    """
    run_python(code)
