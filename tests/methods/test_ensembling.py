"""tfc.ensemble: means and votes against NumPy, saving, export, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops.methods import ensembling

# Keras saves its variables in a way that NumPy 2 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")


def make_model(units=3, activation=None, inputs=(5,), name=None):
    return keras.Sequential(
        [
            keras.Input(inputs),
            keras.layers.Dense(4, "relu", name="hidden"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(units, activation, name="outputs"),
        ],
        name=name,
    )


X = np.random.default_rng(0).normal(size=(33, 5)).astype("f")


def predictions(models):
    return np.stack([model.predict(X, verbose=0) for model in models])


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("weights", [None, (1, 0, 3)])
def test_mean(activation, weights):
    models = [make_model(activation=activation, name="same") for _ in range(3)]
    whole = tfc.ensemble(models, weights=weights)
    expected = np.average(predictions(models), axis=0, weights=weights)
    np.testing.assert_allclose(whole.predict(X, verbose=0), expected, rtol=1e-5, atol=1e-6)
    names = [layer.name for layer in whole.layers]
    assert {"member_0", "member_1", "member_2"} < set(names)
    assert [model.name for model in models] == ["same"] * 3
    assert not {id(v) for v in whole.variables} & {id(v) for m in models for v in m.variables}


@pytest.mark.parametrize("weights", [None, (1, 1, 5, 1)])
def test_vote(weights):
    models = [make_model(units=4) for _ in range(4)]
    votes = np.eye(4)[predictions(models).argmax(-1)]
    got = tfc.ensemble(models, "vote", weights).predict(X, verbose=0)
    np.testing.assert_allclose(got, np.average(votes, axis=0, weights=weights), atol=1e-6)
    assert len(np.unique(got.max(-1).round(3))) > 1 or weights  # members do disagree


@pytest.mark.parametrize(
    ("units", "activation", "threshold"), [(1, None, 0), (1, "sigmoid", 0.5), (3, "sigmoid", 0.5)]
)
def test_vote_on_labels(units, activation, threshold):
    models = [make_model(units, activation) for _ in range(3)]
    got = tfc.ensemble(models, "vote").predict(X, verbose=0)
    np.testing.assert_allclose(got, (predictions(models) > threshold).mean(0), atol=1e-6)


def test_saving_and_export(tmp_path, run_python):
    """The ensemble of Keras layers is loaded where this package is not."""
    models = [make_model() for _ in range(2)]
    models[0].compile("adam", loss=lambda y_true, y_pred: y_pred)  # Cannot be loaded.
    for combine in ("mean", "vote"):
        whole = tfc.ensemble(models, combine, weights=(0.25, 0.75))
        expected = whole.predict(X, verbose=0)
        whole.save(tmp_path / f"{combine}.keras")
        whole.export(tmp_path / combine, verbose=False)
        served = tf.saved_model.load(tmp_path / combine)
        np.testing.assert_allclose(served.serve(tf.constant(X)), expected, atol=1e-6)
        np.save(tmp_path / f"{combine}.npy", expected)
    np.save(tmp_path / "x.npy", X)
    run_python(
        """
        import sys, keras, numpy as np
        for name in ("mean", "vote"):
            got = keras.saving.load_model(f"{name}.keras").predict(np.load("x.npy"), verbose=0)
            np.testing.assert_allclose(got, np.load(f"{name}.npy"), atol=1e-6)
        assert "tfcompress_ops" not in sys.modules
        """
    )


def test_compressed(tmp_path):
    """Compressed members, and a compressed ensemble."""
    models = [make_model() for _ in range(2)]
    small = [tfc.compress(model, tfc.Int8()) for model in models]
    whole = tfc.ensemble(small)
    np.testing.assert_allclose(whole.predict(X, verbose=0), predictions(small).mean(0), atol=1e-6)
    whole.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), whole.predict(X, verbose=0))
    packed = tfc.compress(tfc.ensemble(models), {"member_*/hidden": tfc.Int8()})
    np.testing.assert_allclose(packed.predict(X, verbose=0), predictions(models).mean(0), atol=0.05)


def test_named_inputs_and_training():
    def two_inputs():
        a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
        joined = keras.layers.Concatenate()([a, b])
        return keras.Model({"a": a, "b": b}, keras.layers.Dense(1)(joined))

    models = [two_inputs() for _ in range(2)]
    whole = tfc.ensemble(models)
    data = {"a": X[:, :2], "b": X[:, 2:]}
    expected = np.mean([model.predict(data, verbose=0) for model in models], axis=0)
    np.testing.assert_allclose(whole.predict(data, verbose=0), expected, atol=1e-6)
    whole.compile("sgd", "mse")
    losses = whole.fit(data, np.ones((33, 1)), epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_is_a_teacher():
    teacher = tfc.ensemble([make_model(activation="softmax") for _ in range(2)])
    distiller = tfc.Distiller(make_model(), teacher, alpha=0.0, from_logits=False)
    distiller.compile("adam")
    losses = distiller.fit(X, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("models", "options", "error", "message"),
    [
        ([], {}, ValueError, "`models` must hold a model; received none"),
        (make_model(), {}, TypeError, r"`models` must be a list of keras.Model; received Seq"),
        ([make_model(), "model"], {}, TypeError, r"`models\[1\]` must be a keras.*received str"),
        ([keras.Sequential([keras.layers.Dense(2)])], {}, ValueError, "must be built"),
        ([make_model(), make_model(4)], {}, ValueError, r"equal outputs; .*\(None, 4\)"),
        ([make_model(), make_model(inputs=(6,))], {}, ValueError, r"equal inputs; .*\(None, 6\)"),
        (
            [make_model(), make_model(activation="softmax")],
            {},
            ValueError,
            "equal output activations; received .*linear .*softmax",
        ),
        ([make_model()], {"combine": "median"}, ValueError, "received 'median'"),
        ([make_model()], {"weights": (1, 2)}, ValueError, r"a number for each model; .*\(1, 2\)"),
        ([make_model()], {"weights": (-1,)}, ValueError, "at least 0 and not all 0"),
        ([make_model()], {"weights": (0,)}, ValueError, "at least 0 and not all 0"),
        ([make_model(1, "relu")], {"combine": "vote"}, ValueError, "tell by their last activation"),
    ],
)
def test_errors(models, options, error, message):
    with pytest.raises(error, match=message):
        tfc.ensemble(models, **options)


def test_errors_of_structure():
    model = make_model()
    two = keras.Model(model.inputs, [model.outputs[0], model.layers[0].output])
    with pytest.raises(ValueError, match="must have one output"):
        tfc.ensemble([two])
    subclassed = Subclassed()
    subclassed(X)
    with pytest.raises(ValueError, match=r"must be Sequential or Functional; received .*Wrap it"):
        tfc.ensemble([subclassed])


def make_deep(seed, activation=None, units=(16, 12), normalised=True):
    """A stack with all that can be widened."""
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((5,)), keras.layers.Dense(units[0], "gelu", name="first")]
    if normalised:
        layers.append(keras.layers.BatchNormalization(name="norm"))
    layers += [
        keras.layers.Dropout(0.5, name="drop"),
        keras.layers.Dense(units[1], use_bias=False, name="second"),
        keras.layers.LeakyReLU(name="leaky"),
        keras.layers.Dense(4, activation, name="head"),
    ]
    model = keras.Sequential(layers)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(np.abs(rng.normal(size=weight.shape)) + 0.1)
    return model


@pytest.fixture(params=["wide", "apart"])
def timed(request, monkeypatch):
    """Lets one of the two seem faster."""
    times = {"wide": [2.0, 1.0], "apart": [1.0, 2.0]}[request.param]
    seen = []

    def latencies(layers, inputs, out_features):
        seen.append(inputs.shape)
        return times

    monkeypatch.setattr(ensembling, "layer_latencies_us", latencies)
    return request.param, seen


@pytest.mark.parametrize("combine", ["mean", "vote"])
@pytest.mark.parametrize("weights", [None, (1, 3, 2)])
@pytest.mark.parametrize("activation", [None, "softmax", "sigmoid"])
def test_the_faster_of_wide_and_apart(timed, combine, weights, activation):
    models = [make_deep(seed, activation) for seed in range(3)]
    expected = tfc.ensemble(models, combine, weights).predict(X, verbose=0)
    whole = tfc.ensemble(models, combine, weights, batch_size=7)
    assert timed == (timed[0], [(7, 5)])
    np.testing.assert_allclose(whole.predict(X, verbose=0), expected, rtol=1e-4, atol=1e-5)
    names = [layer.name for layer in whole.layers]
    assert ("member_0" in names) == (timed[0] == "apart")
    if timed[0] == "wide":
        assert whole.get_layer("first").units == 48
        assert whole.count_params() == 3 * models[0].count_params()


def test_wide_is_saved_and_exported(timed, tmp_path):
    models = [make_deep(seed, normalised=False) for seed in range(2)]
    models[1] = keras.Model(models[1].inputs[0], models[1].outputs[0])  # Functional
    whole = tfc.ensemble(models, batch_size=1)
    expected = whole.predict(X, verbose=0)
    whole.save(tmp_path / "whole.keras")
    again = keras.saving.load_model(tmp_path / "whole.keras")
    np.testing.assert_allclose(again.predict(X, verbose=0), expected, rtol=1e-5)
    whole.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(served.serve(X), expected, rtol=1e-5)


def test_what_cannot_be_widened_stays_apart(monkeypatch):
    monkeypatch.setattr(ensembling, "layer_latencies_us", lambda *_: pytest.fail("was timed"))
    pairs = [
        [make_deep(0), make_deep(1, units=(16, 13))],
        [make_deep(0), make_deep(1, normalised=False)],
        [tfc.compress(make_deep(seed), "int8") for seed in range(2)],
    ]
    inputs = keras.Input((5,))
    added = keras.layers.Add()([inputs, keras.layers.Dense(5, name="d")(inputs)])
    pairs.append([keras.Model(inputs, added)] * 2)
    first = [keras.layers.BatchNormalization(), keras.layers.Dense(4)]
    pairs.append([keras.Sequential([keras.Input((5,)), *first])] * 2)
    for models in pairs:
        whole = tfc.ensemble(models, batch_size=4)
        assert "member_1" in [layer.name for layer in whole.layers]


def test_timing_takes_the_faster():
    """Really timed: a model that does the work many times over loses."""
    inputs = keras.Input((64,))
    dense = keras.layers.Dense(64)
    quick = keras.Model(inputs, dense(inputs))
    x = inputs
    for _ in range(40):
        x = dense(x)
    slow = keras.Model(inputs, x)
    assert ensembling.faster(quick, slow, 64) is quick
    assert ensembling.faster(slow, quick, 64) is quick


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True])
def test_bad_batch_size(batch_size):
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer or None; rec"):
        tfc.ensemble([make_model()], batch_size=batch_size)
