"""tfc.Distiller: its loss against NumPy, training, matched layers, saving, errors."""

import keras
import numpy as np
import pytest

import tfcompress_ops as tfc

# Keras saves its variables in a way that NumPy 2 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")


def make_model(*units, activation=None, name=None, rate=0.0, seed=0):
    layers = [keras.Input((6,))]
    for index, count in enumerate(units[:-1]):
        init = keras.initializers.GlorotNormal(seed + index)
        layers.append(keras.layers.Dense(count, "relu", kernel_initializer=init, name=f"h{index}"))
    layers.append(keras.layers.BatchNormalization(name="norm"))
    layers.append(keras.layers.Dropout(rate))
    init = keras.initializers.GlorotNormal(seed + 9)
    layers.append(
        keras.layers.Dense(units[-1], activation, kernel_initializer=init, name="outputs")
    )
    return keras.Sequential(layers, name=name)


def make_data(rows=40, classes=3, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 6)).astype("f"), rng.integers(0, classes, rows)


def log_softmax(values):
    values = values.astype("float64")
    shifted = values - values.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def divergence(teacher, student, temperature):
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return temperature**2 * (np.exp(p) * (p - q)).sum(-1)


CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.0), (3.0, 0.3), (5.0, 1.0)])
def test_loss(temperature, alpha):
    x, y = make_data()
    weights = np.linspace(0, 2, len(x), dtype="f")
    student, teacher = make_model(4, 3), make_model(8, 3, seed=5)
    distiller = tfc.Distiller(student, teacher, temperature, alpha)
    distiller.compile("sgd", CROSS_ENTROPY, metrics=["accuracy"])
    z, v = student.predict(x, verbose=0), teacher.predict(x, verbose=0)
    labels = -log_softmax(z)[np.arange(len(x)), y]
    values = alpha * labels + (1 - alpha) * divergence(v, z, temperature)
    result = distiller.evaluate(x, y, batch_size=len(x), verbose=0, return_dict=True)
    np.testing.assert_allclose(result["loss"], values.mean(), rtol=1e-5)
    np.testing.assert_allclose(result["accuracy"], (z.argmax(-1) == y).mean(), rtol=1e-6)
    weighted = distiller.evaluate(x, y, batch_size=len(x), sample_weight=weights, verbose=0)[0]
    np.testing.assert_allclose(weighted, (values * weights).mean(), rtol=1e-5)
    np.testing.assert_array_equal(distiller.predict(x, verbose=0), z)


@pytest.mark.parametrize("single", [False, True])
def test_probabilities_are_as_logits(single):
    """Softmax and sigmoid outputs give what the logits behind them give."""
    x, _ = make_data()
    units, activation = (1, "sigmoid") if single else (3, "softmax")
    student, teacher = make_model(4, units), make_model(8, units, seed=5)
    soft = make_model(8, units, activation=activation)
    soft.set_weights(teacher.get_weights())
    soft_student = make_model(4, units, activation=activation)
    soft_student.set_weights(student.get_weights())
    losses = []
    for pair in ((student, teacher), (student, soft), (soft_student, soft)):
        distiller = tfc.Distiller(*pair, temperature=2.0, alpha=0.0)
        distiller.compile("sgd")
        losses.append(distiller.evaluate(x, verbose=0))
    z, v = student.predict(x, verbose=0), teacher.predict(x, verbose=0)
    if single:
        z, v = (np.concatenate([0 * values, values], -1) for values in (z, v))
    np.testing.assert_allclose(losses, [divergence(v, z, 2.0).mean()] * 3, rtol=1e-4)


def test_gradient_and_teacher():
    """One step of SGD goes along the published gradient; the teacher stays as it is."""
    x, y = make_data(rows=16)
    student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    teacher = make_model(8, 3, rate=0.5)
    before, kernel = [w.numpy() for w in teacher.weights], student.layers[0].kernel.numpy()
    p = np.exp(log_softmax(teacher.predict(x, verbose=0) / 4.0))
    q = np.exp(log_softmax(student.predict(x, verbose=0) / 4.0))
    distiller = tfc.Distiller(student, teacher, temperature=4.0, alpha=0.0)
    distiller.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY)
    distiller.fit(x, y, batch_size=16, verbose=0)
    expected = kernel - 0.1 * 4.0 * x.T @ (q - p) / 16  # T^2 * (q - p) / T, section 2.1
    np.testing.assert_allclose(student.layers[0].kernel, expected, atol=1e-5)
    for old, new in zip(before, teacher.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    assert teacher.trainable
    assert {id(v) for v in distiller.trainable_variables} == {
        id(v) for v in student.trainable_variables
    }


def test_matched_layers():
    x, _ = make_data()
    student, teacher = make_model(4, 5, 3, rate=0.5), make_model(8, 5, 3, seed=5)
    distiller = tfc.Distiller(
        student, teacher, 2.0, 0.0, matches={"h0": "h0", "h1": "h1"}, match_weight=0.5
    )
    distiller.compile(keras.optimizers.Adam(0.02))

    def hidden(model, name):
        return keras.Model(model.inputs, model.get_layer(name).output).predict(x, verbose=0)

    regressor = distiller._regressors[0]
    mine = hidden(student, "h0") @ regressor.kernel.numpy() + regressor.bias.numpy()
    matches = ((mine - hidden(teacher, "h0")) ** 2).mean()
    matches += ((hidden(student, "h1") - hidden(teacher, "h1")) ** 2).mean()
    soft = divergence(teacher.predict(x, verbose=0), student.predict(x, verbose=0), 2.0).mean()
    np.testing.assert_allclose(distiller.evaluate(x, verbose=0), soft + matches / 2, rtol=1e-4)
    old = regressor.kernel.numpy()
    losses = distiller.fit(x, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.6 * losses[0]
    assert np.abs(regressor.kernel - old).max() > 0.01
    assert len(student.weights) == len(make_model(4, 5, 3).weights)


def test_regularisation_and_eager():
    x, _ = make_data()
    student = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))]
    )
    distiller = tfc.Distiller(student, make_model(4, 3), alpha=0.0)
    distiller.compile("sgd", run_eagerly=True)
    soft = divergence(distiller.teacher.predict(x, verbose=0), student.predict(x, verbose=0), 4.0)
    expected = soft.mean() + 0.1 * (student.layers[0].kernel.numpy() ** 2).sum()
    np.testing.assert_allclose(distiller.evaluate(x, verbose=0), expected, rtol=1e-5)
    distiller.fit(x, verbose=0)


def test_compressed_student():
    """The kept values of sparse layers are trained; their zeros stay."""
    x, y = make_data(rows=200)
    teacher = make_model(32, 3, seed=5)
    student = tfc.compress(make_model(16, 3), tfc.Sparse(0.5), batch_size=None)
    zeros = tfc.decompress(student).layers[0].kernel.numpy() == 0
    before = tfc.decompress(student).layers[0].kernel.numpy()
    distiller = tfc.Distiller(student, teacher, alpha=0.2)
    distiller.compile(keras.optimizers.Adam(0.02), CROSS_ENTROPY, metrics=["accuracy"])
    losses = distiller.fit(x, y, epochs=8, verbose=0).history["loss"]
    after = tfc.decompress(student).layers[0].kernel.numpy()
    assert losses[-1] < losses[0]
    assert zeros.any()
    np.testing.assert_array_equal(after == 0, zeros)
    assert np.abs(after - before).max() > 0.01


def test_saving(tmp_path):
    """Checkpoints are of the student; `save_weights` resumes training with the regressors."""
    x, y = make_data()
    student, teacher = make_model(4, 3), make_model(8, 3, seed=5)
    distiller = tfc.Distiller(student, teacher, matches={"h0": "h0"})
    distiller.compile("adam", CROSS_ENTROPY)
    path = tmp_path / "student.keras"
    distiller.fit(x, y, verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(path)])
    loaded = keras.saving.load_model(path)
    assert isinstance(loaded, keras.Sequential)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), student.predict(x, verbose=0))
    distiller.export(tmp_path / "served", verbose=False)
    assert (tmp_path / "served" / "saved_model.pb").exists()

    distiller.save_weights(tmp_path / "state.weights.h5")
    other = tfc.Distiller(make_model(4, 3, seed=3), teacher, matches={"h0": "h0"})
    other.load_weights(tmp_path / "state.weights.h5")
    for old, new in zip(distiller.weights, other.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    assert len(other.weights) == len(student.weights) + 2


@pytest.mark.slow
def test_distributed(run_python):
    """Two replicas train as one device does."""
    output = run_python(
        """
        import keras, numpy as np, tensorflow as tf
        import tfcompress_ops as tfc
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(64, 6)).astype("f"), rng.integers(0, 3, 64)

        def model(units, seed):
            def dense(count, activation):
                init = keras.initializers.GlorotNormal(seed + count)
                name = f"d{count}"
                return keras.layers.Dense(count, activation, kernel_initializer=init, name=name)

            return keras.Sequential([keras.Input((6,)), dense(units, "relu"), dense(3, None)])

        def train():
            keras.utils.set_random_seed(1)
            student = model(4, 0)
            distiller = tfc.Distiller(student, model(8, 7), 3.0, 0.25, {"d4": "d8"})
            distiller.compile(
                keras.optimizers.SGD(0.1),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
            data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
            loss = distiller.fit(data, epochs=3, verbose=0).history["loss"]
            return np.concatenate([np.ravel(w) for w in student.get_weights()]), loss

        alone, losses = train()
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        assert strategy.num_replicas_in_sync == 2
        with strategy.scope():
            both, both_losses = train()
        assert losses[-1] < losses[0]
        np.testing.assert_allclose(both, alone, atol=1e-5)
        np.testing.assert_allclose(both_losses, losses, rtol=1e-4)
        print("equal")
        """
    ).stdout
    assert "equal" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "`temperature` must be above 0; received 0"),
        ({"temperature": float("nan")}, "`temperature` must be above 0; received nan"),
        ({"alpha": 1.5}, "`alpha` must be from 0"),
        ({"alpha": -0.1}, "`alpha` must be from 0"),
        ({"match_weight": -1}, "`match_weight` must be at least 0"),
        ({"matches": {"no": "h0"}}, "must name layers of `student`; received 'no'. It has: h0"),
        ({"matches": {"h0": "no"}}, "must name layers of `teacher`; received 'no'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        tfc.Distiller(make_model(4, 3), make_model(8, 3), **options)


def test_bad_models():
    model = make_model(4, 3)
    with pytest.raises(TypeError, match=r"`student` must be a keras\.Model; received str"):
        tfc.Distiller("model", model)
    with pytest.raises(ValueError, match="`teacher` must be built"):
        tfc.Distiller(model, keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match=r"same shape; received \(None, 3\) of the student and"):
        tfc.Distiller(model, make_model(4, 5))
    with pytest.raises(ValueError, match="must share no variables"):
        tfc.Distiller(model, model)
    with pytest.raises(ValueError, match="must both give single labels"):
        tfc.Distiller(model, make_model(4, 3, activation="sigmoid"))
    with pytest.raises(ValueError, match=r"`from_logits` must be given .* received None"):
        tfc.Distiller(model, make_model(4, 3, activation="relu"))
    two = keras.Model(model.inputs, [model.outputs[0], model.layers[0].output])
    with pytest.raises(ValueError, match="`student` must have one output"):
        tfc.Distiller(two, make_model(4, 3))
    inputs = keras.Input((6,))
    wide = keras.layers.Reshape((2, 3), name="h0")(inputs)
    deep = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(wide)))
    with pytest.raises(ValueError, match="shapes differ on the last axis only"):
        tfc.Distiller(deep, model, matches={"h0": "h0"})
    distiller = tfc.Distiller(model, make_model(8, 3))
    distiller.compile("sgd")
    with pytest.raises(ValueError, match=r"`loss` of compile\(\) must be given"):
        distiller.fit(*make_data(), verbose=0)


def test_subclassed_models():
    class Net(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.dense = keras.layers.Dense(units)

        def call(self, inputs):
            return self.dense(inputs)

    x, _ = make_data()
    nets = [Net(3), Net(3), Net(4)]
    for net in nets:
        net(x)
    with pytest.raises(ValueError, match="`from_logits` must be given"):
        tfc.Distiller(nets[0], nets[1])
    distiller = tfc.Distiller(nets[0], nets[1], alpha=0.0, from_logits=True)
    distiller.compile("sgd")
    losses = distiller.fit(x, epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0]
    distiller = tfc.Distiller(nets[0], nets[2], alpha=0.0, from_logits=True)
    distiller.compile("sgd")
    with pytest.raises(ValueError, match="must have outputs of the same shape"):
        distiller.fit(x, verbose=0)
    with pytest.raises(ValueError, match="must be a Sequential or Functional model where layers"):
        tfc.Distiller(nets[0], nets[1], matches={"dense": "dense"}, from_logits=True)
