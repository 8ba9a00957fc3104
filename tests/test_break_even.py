"""When a sparse layer stays dense: the decision, not the clock."""

import keras
import numpy as np
import pytest

import tfcompress_ops as tfc
from tfcompress_ops import break_even
from tfcompress_ops.compression import note_of

# What Keras does with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(48, "relu", name="a"),
            keras.layers.Dense(5, name="b"),
        ]
    )


@pytest.fixture
def clock(monkeypatch):
    """Sets the times that layers take: compressed, original, dense form of the format."""
    calls = []

    def set_times(*times):
        def layer_latencies_us(layers, inputs, out_features):
            calls.append((tuple(inputs.shape), out_features, len(layers)))
            return list(times[: len(layers)])

        monkeypatch.setattr(break_even, "layer_latencies_us", layer_latencies_us)
        monkeypatch.setattr(break_even, "_MEASURED", {})
        return calls

    return set_times


def test_faster_layers_are_compressed(model, clock):
    calls = clock(1.0, 2.0)
    small = tfc.compress(model, tfc.Sparse(0.5), batch_size=7)
    assert [layer.format for layer in small.layers] == [tfc.Sparse(0.5)] * 2
    assert calls == [((7, 64), 48, 2), ((7, 48), 5, 2)]
    assert [note_of(layer) for layer in small.layers] == [None, None]


def test_slower_layers_stay_as_they_were(model, clock):
    clock(4.0, 2.0)
    small = tfc.compress(model, {"a": tfc.Sparse(0.5)})
    assert type(small.get_layer("a")) is keras.layers.Dense
    np.testing.assert_array_equal(small.get_layer("a").kernel, model.get_layer("a").kernel)
    # Twice as slow at 50 %: as fast with half as many weights, and 5 % faster with 48 % of them.
    note = "kept dense: 50 % zeros; sparse pays from about 76 % at batch 32"
    assert note_of(small.get_layer("a")) == note
    report = tfc.report(model, small)
    assert [change.note for change in report.layers] == [note, "no format was chosen for it"]
    assert note in str(report)


@pytest.mark.parametrize(("sparse_us", "compressed"), [(1.9, True), (1.95, False)])
def test_what_is_hardly_faster_stays_as_it_was(model, clock, sparse_us, compressed):
    clock(sparse_us, 2.0)
    small = tfc.compress(model, {"a": tfc.Sparse(0.5)})
    assert (type(small.get_layer("a")) is not keras.layers.Dense) == compressed


def test_int8_values_become_dense_int8(model, clock):
    clock(4.0, 8.0, 2.0)
    small = tfc.compress(model, {"a": tfc.Sparse(0.5, values="int8")})
    assert small.get_layer("a").format == tfc.Int8()
    assert note_of(small.get_layer("a")).startswith("int8 dynamic instead: 50 % zeros; sparse pays")
    np.testing.assert_allclose(
        small.get_layer("a").weight_matrix(), model.get_layer("a").kernel, atol=0.01
    )


def test_static_int8_keeps_its_calibration(model, clock):
    clock(4.0, 8.0, 2.0)
    x = np.full((3, 64), 2.5, np.float32)
    small = tfc.compress(model, {"a": tfc.Sparse(0.5, values="int8", activations="static")}, x)
    layer = small.get_layer("a")
    assert layer.format == tfc.Int8("static")
    np.testing.assert_allclose(layer.packed_arrays()["x_scale"], [2.5 / 127], rtol=1e-6)


def test_layers_alike_are_measured_once(clock):
    calls = clock(1.0, 2.0)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32,))
    twice = keras.layers.Dense(32)(keras.layers.Dense(32)(inputs))
    tfc.compress(keras.Model(inputs, twice), tfc.Sparse(pattern="8:64"))
    assert len(calls) == 1


def test_nothing_is_measured_where_it_is_not_asked_for(model, clock):
    calls = clock(9.0, 1.0)
    small = tfc.compress(model, tfc.Sparse(0.1), batch_size=None)
    assert all(layer.format == tfc.Sparse(0.1) for layer in small.layers)
    tfc.compress(model, tfc.Int8())
    assert calls == []


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_batch_size_is_checked(model, batch_size):
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer; received"):
        tfc.compress(model, tfc.Int8(), batch_size=batch_size)


def test_measured():
    """A matrix of zeros is as good as free; one without zeros costs more than a dense one."""
    dense = keras.layers.Dense(512, use_bias=False)
    model = keras.Sequential([keras.Input((512,)), dense])
    full = tfc.compress(model, tfc.Sparse(), batch_size=256)
    assert "kept dense: 0 % zeros" in note_of(full.layers[0])
    dense.kernel.assign(np.zeros((512, 512), np.float32))
    empty = tfc.compress(model, tfc.Sparse(), batch_size=256)
    assert empty.layers[0].format == tfc.Sparse()
