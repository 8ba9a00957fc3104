"""tfc.remove_neurons: smaller models, equal to the originals with what leads out of units zero."""

import keras
import numpy as np
import pytest

import tfcompress_ops as tfc

# Keras saves weights by an `__array__` of the older kind.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

L = keras.layers


def randomised(model, seed=0):
    """Every variable random, so that biases, shifts and statistics matter."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        value = random.normal(size=weight.shape) * 0.4
        weight.assign(np.abs(value) + 0.3 if weight.name == "moving_variance" else value)
    return model


def data(model, seed=1):
    shapes = [(5, *tensor.shape[1:]) for tensor in model.inputs]
    random = np.random.default_rng(seed)
    arrays = [random.normal(size=shape).astype("f") for shape in shapes]
    return arrays[0] if len(arrays) == 1 else arrays


def norms(layers, order=1):
    """Of all incoming weights of each unit of layers that are tied together."""
    columns = [np.reshape(layer.kernel.numpy(), (-1, layer.kernel.shape[-1])) for layer in layers]
    return np.linalg.norm(np.concatenate(columns), order, axis=0)


def least(layers, count, order=1):
    return np.sort(np.argsort(norms(layers, order))[:count])


def masked(model, outgoing):
    """The model with rows of kernels zero: `{name: rows}`."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for name, rows in outgoing.items():
        kernel = copy.get_layer(name).kernel.numpy().copy()
        kernel[..., rows, :] = 0
        copy.get_layer(name).kernel.assign(kernel)
    return copy


def check(model, outgoing, **options):
    before = [weight.copy() for weight in model.get_weights()]
    small = tfc.remove_neurons(model, **options)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    expected = masked(model, outgoing)(data(model)).numpy()
    assert np.abs(expected - model(data(model)).numpy()).max() > 1e-3  # The mask does something.
    np.testing.assert_allclose(small(data(model)).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert small.count_params() < model.count_params()
    return small


@pytest.mark.parametrize(("importance", "order"), [("l1", 1), ("l2", 2)])
def test_dense(importance, order):
    model = randomised(
        keras.Sequential(
            [
                keras.Input((6,)),
                L.Dense(9, "sigmoid", name="a"),
                L.BatchNormalization(),
                L.Activation("softplus"),
                L.Dropout(0.5),
                L.Dense(7, name="b", use_bias=False),
                L.Dense(3, "softmax", name="c"),
            ]
        )
    )
    a, b = (least([model.get_layer(name)], count, order) for name, count in (("a", 3), ("b", 2)))
    kept = {}
    small = check(
        model, {"b": a, "c": b}, fraction=0.34, importance=importance, list_kept=kept.__setitem__
    )
    assert [small.get_layer(name).units for name in "abc"] == [6, 5, 3]
    assert [*kept] == ["c"]
    assert type(small) is keras.Sequential


def test_activation():
    """The mean of what the next kernel gets, against a model of what comes before that kernel."""
    inputs = keras.Input((9, 8, 2))
    x = L.Conv2D(8, 3, name="conv")(inputs)
    x = L.BatchNormalization(name="norm")(x)
    x = L.Activation("relu", name="relu")(x)
    x = L.MaxPooling2D(name="pool")(x)
    x = L.Dropout(0.5)(L.Flatten(name="flat")(x))
    x = L.Dense(10, "tanh", name="hidden")(x)
    model = randomised(keras.Model(inputs, L.Dense(3, name="head")(x)))
    x = np.random.default_rng(4).normal(size=(150, 9, 8, 2)).astype("f")  # more than a batch
    seen = {
        name: np.abs(keras.Model(inputs, model.get_layer(name).output).predict(x, verbose=0))
        for name in ("pool", "hidden")
    }
    channels = np.argsort(seen["pool"].mean(axis=(0, 1, 2)))[:4]
    units = np.argsort(seen["hidden"].mean(axis=0))[:5]
    positions = np.prod(seen["pool"].shape[1:3])
    rows = np.concatenate([place * 8 + channels for place in range(positions)])
    small = check(
        model, {"hidden": rows, "head": units}, fraction=0.5, importance="activation", data=x
    )
    assert small.get_layer("conv").filters == 4
    assert small.get_layer("hidden").units == 5
    in_batches = tfc.remove_neurons(
        model, 0.5, importance="activation", data=((x[i : i + 50], None) for i in (0, 50, 100))
    )
    for one, other in zip(small.get_weights(), in_batches.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # By weights, others would have gone.
    assert (
        small.get_layer("hidden").bias.numpy()
        != tfc.remove_neurons(model, 0.5).get_layer("hidden").bias.numpy()
    ).any()


def test_activation_of_a_residual_stream():
    """Units that an Add ties are judged by what all layers behind it get of them."""
    inputs = keras.Input((5,))
    stem = L.Dense(8, "relu", name="stem")(inputs)
    added = L.Add(name="add")([stem, L.Dense(8, name="inner")(stem)])
    model = randomised(keras.Model(inputs, L.Dense(3, name="head")(added)))
    x = np.random.default_rng(4).normal(size=(40, 5)).astype("f")
    both = keras.Model(inputs, [model.get_layer("stem").output, model.get_layer("add").output])
    score = sum(np.abs(values).mean(axis=0) for values in both.predict(x, verbose=0))
    gone = np.argsort(score)[:4]
    small = check(
        model, {"inner": gone, "head": gone}, fraction=0.5, importance="activation", data=x
    )
    assert small.get_layer("stem").units == small.get_layer("inner").units == 4


def test_threshold():
    model = randomised(
        keras.Sequential([keras.Input((6,)), L.Dense(9, "tanh", name="a"), L.Dense(2, name="b")])
    )
    values = np.sort(norms([model.get_layer("a")]))
    gone = least([model.get_layer("a")], 4)
    small = check(model, {"b": gone}, threshold=(values[3] + values[4]) / 2)
    assert small.get_layer("a").units == 5
    with pytest.raises(ValueError, match="`threshold` must leave each layer a unit; received"):
        tfc.remove_neurons(model, threshold=float(values[-1]) * 1.01)
    one = tfc.remove_neurons(model, fraction=0.9999)
    assert one.get_layer("a").units == 1


def test_convolutions(tmp_path):
    model = randomised(
        keras.Sequential(
            [
                keras.Input((9, 8, 2)),
                L.Conv2D(6, 3, activation="sigmoid", name="a"),
                L.BatchNormalization(),
                L.ReLU(),
                L.MaxPooling2D(),
                L.SpatialDropout2D(0.1),
                L.DepthwiseConv2D(2, depth_multiplier=2, use_bias=True, name="d"),
                L.Conv2D(5, 1, padding="same", name="b"),
                L.Flatten(),
                L.Dense(4, name="c"),
            ]
        )
    )
    model.compile("sgd", "mse")
    a, b = (least([model.get_layer(name)], count) for name, count in (("a", 3), ("b", 2)))
    through = np.concatenate([2 * a, 2 * a + 1])
    rows = np.concatenate([b + 5 * position for position in range(4)])
    small = check(model, {"b": through, "c": rows}, fraction=0.5)
    assert small.get_layer("c").kernel.shape == (2 * 2 * 3, 4)
    small.fit(data(model), np.zeros((5, 4)), verbose=0)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(data(model)), small(data(model)))


def test_residual():
    """A block whose first convolution is free and whose stream is tied to the stem's channels."""
    inputs = keras.Input((6, 3))
    stem = L.Conv1D(8, 1, name="stem")(inputs)
    x = L.BatchNormalization()(stem)
    x = L.Conv1D(6, 3, padding="same", activation="gelu", name="first")(x)
    x = L.Conv1D(8, 3, padding="same", name="second")(x)
    x = L.Add()([stem, x]) + L.Conv1D(8, 1, name="third")(inputs)
    x = L.GlobalAveragePooling1D()(x)
    model = randomised(keras.Model(inputs, L.Dense(3, name="head")(x)))
    stream = least([model.get_layer(name) for name in ("stem", "second", "third")], 4)
    inner = least([model.get_layer("first")], 3)
    small = check(model, {"first": stream, "second": inner, "head": stream}, fraction=0.5)
    names = ("stem", "first", "second", "third")
    assert [small.get_layer(name).filters for name in names] == [4, 3, 4, 4]


def test_concatenation_and_shared_layer():
    one, two = keras.Input((4,)), keras.Input((4,))
    shared = L.Dense(6, "tanh", name="shared")
    x = L.Concatenate()([shared(one), L.Dense(4, name="other")(two), shared(two)])
    model = randomised(keras.Model([one, two], L.Dense(2, name="head")(x)))
    s, o = (least([model.get_layer(name)], count) for name, count in (("shared", 3), ("other", 2)))
    small = check(model, {"head": np.concatenate([s, 6 + o, 10 + s])}, fraction=0.5)
    assert small.get_layer("head").kernel.shape == (8, 2)


def test_gate_and_transposed_convolution():
    """Channels scaled by a squeeze-and-excitation gate, and a constant for each unit."""
    inputs = keras.Input((4, 2))
    x = L.Conv1DTranspose(6, 2, strides=2, name="wide")(inputs)
    gate = L.Reshape((1, 6))(L.Dense(6, "sigmoid", name="gate")(L.GlobalAveragePooling1D()(x)))
    x = L.Conv1D(4, 3, name="after")(L.Multiply()([x, gate]))
    x = L.Dense(3, name="last")(x * np.arange(4, dtype="f"))
    model = randomised(keras.Model(inputs, x))
    wide, gate = (model.get_layer(name).kernel.numpy() for name in ("wide", "gate"))
    together = np.abs(wide).sum(axis=(0, 2)) + np.abs(gate).sum(axis=0)
    gone = np.argsort(together)[:3]
    small = check(model, {"after": gone, "gate": gone}, fraction=0.5)
    names = ("wide", "after")
    assert [small.get_layer(name).filters for name in names] == [3, 4]
    assert small.get_layer("gate").kernel.shape == (3, 3)


def test_what_stays():
    inputs = keras.Input((4,))
    x = L.Dense(4, name="to_inputs")(inputs)
    x = L.Add(name="add")([inputs, x])
    x = L.Dense(5, name="normalised")(x)
    x = L.LayerNormalization(name="norm")(x)
    x = L.Dense(5, "softmax", name="mixed")(x)
    x = L.Dense(5, name="free")(x)
    inner = keras.Sequential([keras.Input((5,)), L.Dense(5, name="deep"), L.Dense(5)], name="inner")
    x = inner(L.Dense(5, name="to_inner")(x))
    model = keras.Model(inputs, L.Dense(2, name="head")(x))
    kept = {}
    small = tfc.remove_neurons(model, fraction=0.4, list_kept=kept.__setitem__)
    assert small.get_layer("free").units == 3
    assert small.count_params() == model.count_params() - 2 * 6 - 2 * 5
    for path, reason in {
        "to_inputs": "tied to model inputs",
        "normalised": "'norm' (LayerNormalization) needs them all",
        "norm": "LayerNormalization",
        "mixed": "activation",
        "to_inner": "'inner' (Sequential) needs them all",
        "inner/deep": "inside 'inner'",
        "head": "the model's outputs",
    }.items():
        assert reason in kept.pop(path)
    assert len(kept) == 1  # The other layer in `inner`.


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def test_errors():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dense(2)])
    for fraction in (0, 1, -0.5, float("nan")):
        with pytest.raises(ValueError, match="`fraction` must be above 0 and below 1; received"):
            tfc.remove_neurons(model, fraction=fraction)
    for options in ({"fraction": {"dense": 0.5}}, {"threshold": "0.1"}):
        with pytest.raises(TypeError, match="must be None or a number; received"):
            tfc.remove_neurons(model, **options)
    for threshold in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`threshold` must be above 0 and finite; received"):
            tfc.remove_neurons(model, threshold=threshold)
    for options in ({}, {"fraction": 0.5, "threshold": 1.0}):
        with pytest.raises(ValueError, match="`fraction` or `threshold` must be given; received"):
            tfc.remove_neurons(model, **options)
    with pytest.raises(ValueError, match=r"`importance` must be one of \('l1', 'l2', 'activ"):
        tfc.remove_neurons(model, 0.5, importance="l3")
    with pytest.raises(ValueError, match="received data missing and importance='activation'"):
        tfc.remove_neurons(model, 0.5, importance="activation")
    with pytest.raises(ValueError, match="received data given and importance='l1'"):
        tfc.remove_neurons(model, 0.5, data=np.ones((2, 4)))
    with pytest.raises(ValueError, match="`data` must hold inputs; received none"):
        tfc.remove_neurons(model, 0.5, importance="activation", data=iter(()))
    with pytest.raises(ValueError, match=r"`data` must hold inputs .* of shape \(2, 3\)"):
        tfc.remove_neurons(model, 0.5, importance="activation", data=np.ones((2, 3)))
    with pytest.raises(ValueError, match="`data` must make finite activations"):
        tfc.remove_neurons(model, 0.5, importance="activation", data=np.full((2, 4), np.nan))
    with pytest.raises(ValueError, match="must not be compressed; received"):
        tfc.remove_neurons(tfc.compress(model, "int8"), 0.5)
    with pytest.raises(TypeError, match=r"must be a keras\.Model"):
        tfc.remove_neurons("model", 0.5)
    with pytest.raises(ValueError, match="must be built"):
        tfc.remove_neurons(keras.Sequential([L.Dense(3)]), 0.5)
    subclassed = Subclassed()
    subclassed(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="must be a Sequential or Functional model; received"):
        tfc.remove_neurons(subclassed, 0.5)
    with pytest.raises(ValueError, match=r"have units that can be removed; (.|\n)*model's outputs"):
        tfc.remove_neurons(keras.Sequential([keras.Input((4,)), L.Dense(3)]), 0.5)
