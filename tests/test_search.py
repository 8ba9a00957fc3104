"""tfc.compress(model, "auto"): what is chosen, and that budgets hold."""

import keras
import numpy as np
import pytest

import tfcompress_ops as tfc
from tfcompress_ops import layers, search, structure

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 16)).astype(np.float32)


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(64, "relu", name="a"),
            keras.layers.Dense(48, "relu", name="b"),
            keras.layers.Dense(5, "softmax", name="c"),
        ]
    )


@pytest.fixture
def clock(monkeypatch):
    """Sets the times of layers by their formats, and of whole models by their layers."""

    def set_times(times, whole=None):
        def us(layer):
            return times.get(getattr(layer, "format", None), 10.0)

        def layer_latencies_us(layers_, inputs, out_features):
            return [us(layer) for layer in layers_]

        monkeypatch.setattr(search, "layer_latencies_us", layer_latencies_us)
        monkeypatch.setattr(search, "median_call_us", whole or (lambda *cases: [100.0, 50.0]))

    return set_times


FAST, EXACT = tfc.Sparse(0.97), tfc.Int8()


def formats_of(model):
    return {
        path: layer.format
        for path, layer in structure.layer_paths(model).items()
        if isinstance(layer, layers.CompressedLayer)
    }


def auto(model, **options):
    y = model(X).numpy().argmax(-1)
    defaults = {"data": (X, y), "metric": "accuracy", "candidates": [FAST, EXACT]}
    return tfc.compress(model, "auto", **{**defaults, **options})


def test_the_budget_decides(model, clock):
    clock({FAST: 1.0, EXACT: 2.0})
    before = model.get_weights()
    careless = auto(model, max_drop=3.0)
    assert formats_of(careless) == dict.fromkeys("abc", FAST)
    careful = auto(model, max_drop=0.03)
    assert EXACT in formats_of(careful).values()
    report = tfc.search_report(careful)
    assert report.metric_before == 1
    assert report.metric_before - report.metric_after <= 0.03
    y = model(X).numpy().argmax(-1)
    assert np.mean(careful(X).numpy().argmax(-1) == y) == pytest.approx(report.metric_after)
    assert report.chosen == formats_of(careful)
    assert len(report.trials) == 6
    assert "* a: int8 dynamic: 10.0 -> 2.0 us" in str(report)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all("call" not in vars(layer) for layer in model.layers)


def test_what_is_slower_is_not_chosen(model, clock):
    clock({FAST: 20.0, EXACT: 11.0})
    same = auto(model, max_drop=1.0)
    assert formats_of(same) == {}
    np.testing.assert_array_equal(same(X), model(X))
    assert same is not model
    assert tfc.search_report(same).chosen == {}


def test_a_budget_that_cannot_be_met(model, clock):
    clock({FAST: 1.0, EXACT: 2.0})
    before = model.get_weights()
    calls = []

    def metric(y, outputs):
        """1 for the outputs of the model itself, 0 for all others."""
        calls.append(0)
        return float(np.allclose(outputs, y, atol=1e-6))

    with pytest.raises(ValueError, match=r"`max_drop` must leave room .* received 0\.5, .* is 1 "):
        auto(model, max_drop=0.5, data=(X, model(X).numpy()), metric=metric)
    assert calls
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all("call" not in vars(layer) for layer in model.layers)


def test_what_is_compressed_already(model):
    small = tfc.compress(model, EXACT)
    with pytest.raises(ValueError, match=r"must have a layer that can be .*\n  a: it is compres"):
        auto(small)


def test_size(model, clock):
    clock({FAST: 20.0, EXACT: 11.0})
    small = auto(model, max_drop=0.05, objective="size")
    assert formats_of(small)
    assert tfc.search_report(small).objective == "size"


def test_a_plan_that_is_slower_as_a_whole_is_given_up(model, clock):
    calls = []

    def whole(*cases):
        calls.append(len(cases))
        return [100.0, 150.0] if len(calls) < 3 else [100.0, 90.0]

    clock({FAST: 1.0, EXACT: 2.0}, whole)
    small = auto(model, max_drop=1.0)
    # All three, then one, then none.
    assert formats_of(small) == {}
    assert len(calls) == 3


def test_no_metric_and_batches(model, clock):
    clock({FAST: 1.0, EXACT: 2.0})
    small = tfc.compress(
        model, "auto", data=iter([X[:40], X[40:]]), candidates=[FAST, EXACT], max_drop=0.05
    )
    report = tfc.search_report(small)
    assert np.linalg.norm(small(X) - model(X)) <= 0.06 * np.linalg.norm(model(X))
    assert 0.95 <= report.metric_after < 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": None}, ValueError, "`data` must be given"),
        ({"data": ()}, ValueError, "`data` must hold"),
        ({"objective": "speed"}, ValueError, "`objective` must be one of"),
        ({"max_drop": -1}, ValueError, "`max_drop` must be a number >= 0"),
        ({"metric": 3}, TypeError, "`metric` must be a function"),
        ({"data": [X]}, ValueError, "`data` must hold targets"),
        ({"candidates": []}, ValueError, "`candidates` must hold a format"),
    ],
)
def test_options_are_checked(model, options, error, message):
    with pytest.raises(error, match=message):
        auto(model, **options)


def test_the_original_is_left_alone_while_formats_are_tried(model, clock):
    """Others may use it meanwhile: none of its layers computes what a candidate does."""
    clock({FAST: 1.0, EXACT: 2.0})

    def metric(targets, outputs):
        assert not [layer.name for layer in model.layers if "call" in vars(layer)]
        return 1.0

    auto(model, metric=metric, max_drop=1.0)


def test_ranges_are_found_as_asked(model, clock):
    static = tfc.Int8("static")
    clock({static: 1.0})
    ranges = [
        auto(model, candidates=[static], max_drop=1.0, calibration=method)
        .layers[0]
        .packed_arrays()["x_scale"]
        for method in ("max", "mse")
    ]
    assert ranges[0] > ranges[1]


def test_options_without_auto(model):
    with pytest.raises(TypeError, match=r"`formats` must be 'auto' for the options \['max_drop'\]"):
        tfc.compress(model, "int8", max_drop=0.1)


@pytest.mark.slow
def test_measured():
    """On the clock: whatever is chosen keeps the budget and is no slower."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 8))
    x = keras.layers.Conv2D(32, 3, use_bias=False)(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Reshape((25, 128))(keras.layers.Conv2D(32, 1)(x))
    x = keras.layers.GRU(16)(x)
    model = keras.Model(inputs, keras.layers.Dense(4)(x))
    data = RNG.normal(size=(8, 12, 12, 8)).astype(np.float32)
    small = tfc.compress(model, "auto", data=data, max_drop=0.1, batch_size=8)
    report = tfc.search_report(small)
    assert report.latency_after_us <= report.latency_before_us
    error = np.linalg.norm(small(data) - model(data)) / np.linalg.norm(model(data))
    assert error <= 0.101
