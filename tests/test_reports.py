"""What tfc.report says, and that it is true."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

import tfcompress_ops as tfc

# Keras' quantize() reads its variables in a way that NumPy 2 warns about.
pytestmark = [
    pytest.mark.usefixtures("quick_timing"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method"),
]

X = np.random.default_rng(0).normal(size=(100, 64)).astype(np.float32)


@pytest.fixture
def model():
    """Two layers that are compressed, one that cannot be, one that is left, one without weights."""
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, activation="relu", name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.5, name="dropout"),
            keras.layers.Dense(32, name="second"),
            keras.layers.Dense(3, name="head"),
        ],
        name="five",
    )


@pytest.fixture
def small(model):
    return tfc.compress(model, {"head": None, "*": tfc.Int8()})


def test_report(model, small):
    report = tfc.report(model, small, X)
    layers = {change.path: change for change in report.layers}
    assert list(layers) == ["first", "norm", "second", "head"]
    assert report.batch_size == 64

    first = layers["first"]
    assert first.format == "int8 dynamic"
    assert first.bytes_before == 4 * (64 * 32 + 32)
    assert first.bytes_after == 64 * 32 + 4 * 32 + 8 + 4 * 32
    assert first.ratio == pytest.approx(first.bytes_before / first.bytes_after)
    kernel = model.get_layer("first").kernel.numpy()
    matrix = small.get_layer("first").weight_matrix()
    assert first.weight_error == pytest.approx(
        np.linalg.norm(matrix - kernel) / np.linalg.norm(kernel)
    )
    y, y_small = model.get_layer("first")(X).numpy(), small.get_layer("first")(X).numpy()
    assert first.output_error == pytest.approx(
        np.linalg.norm(y_small - y) / np.linalg.norm(y), rel=1e-5
    )
    assert 0 < first.weight_error < first.output_error < 0.03
    assert first.speedup is None or first.speedup > 0
    assert first.note == ""

    assert layers["norm"].note.startswith("BatchNormalization has no compressed counterpart")
    assert layers["head"].note == "no format was chosen for it"
    assert layers["head"].format == "float32"
    assert layers["head"].bytes_before == layers["head"].bytes_after == 4 * (32 * 3 + 3)
    assert layers["head"].latency_before_us is layers["head"].weight_error is None

    total = report.total
    assert (total.path, total.format) == ("five", "int8 dynamic")
    assert total.bytes_before == sum(change.bytes_before for change in report.layers)
    assert total.bytes_after == sum(change.bytes_after for change in report.layers)
    y, y_small = model(X).numpy(), small(X).numpy()
    assert total.output_error == pytest.approx(
        np.linalg.norm(y_small - y) / np.linalg.norm(y), rel=1e-5
    )
    errors = [first.weight_error, layers["second"].weight_error]
    assert min(errors) <= total.weight_error <= max(errors)
    assert total.latency_before_us > 0
    assert total.latency_after_us > 0
    assert total.speedup == pytest.approx(total.latency_before_us / total.latency_after_us)


def test_second_layer_is_compared_on_the_inputs_of_the_original(model, small):
    second = tfc.report(model, small, X).layers[2]
    hidden = model.get_layer("norm")(model.get_layer("first")(X), training=False)
    y, y_small = (m.get_layer("second")(hidden).numpy() for m in (model, small))
    assert second.output_error == pytest.approx(
        np.linalg.norm(y_small - y) / np.linalg.norm(y), rel=1e-4
    )


def test_without_data(model, small):
    report = tfc.report(model, small)
    assert report.batch_size == 1
    assert all(change.output_error is None for change in (*report.layers, report.total))
    assert report.total.weight_error is not None
    assert report.total.latency_after_us > 0


def test_of_several_batches(model, small):
    dataset = tf.data.Dataset.from_tensor_slices((X, X[:, 0])).batch(30)
    report = tfc.report(model, small, dataset)
    assert report.batch_size == 30
    whole = tfc.report(model, small, X)
    assert report.total.output_error == pytest.approx(whole.total.output_error, rel=1e-4)


def test_table(model, small):
    report = tfc.report(model, small, X)
    text = str(report)
    assert "five, latencies at batch 64" in text
    for word in ("first", "int8 dynamic", "8,320", "weight error", "output error"):
        assert word in text
    assert "norm: BatchNormalization has no compressed counterpart" in text
    assert "\x1b" not in text
    console = Console(record=True, width=140)
    with console.capture() as capture:
        console.print(report)
    assert "first" in capture.get()


def test_json(model, small):
    report = tfc.report(model, small, X)
    read = json.loads(report.to_json())
    assert read == report.to_dict()
    assert read["layers"][0]["path"] == "first"
    assert read["total"]["bytes_after"] == report.total.bytes_after
    assert set(read) == {"layers", "total", "batch_size"}


def test_nested_shared_and_several_inputs():
    block = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, name="d")], name="block")
    left, right = keras.Input((64,), name="left"), keras.Input((64,), name="right")
    outputs = keras.layers.Dense(2, name="head")(block(block(left)) + block(right))
    model = keras.Model({"left": left, "right": right}, [outputs, outputs * 2])
    small = tfc.compress(model, "int8")
    report = tfc.report(model, small, {"left": X, "right": X})
    assert [change.path for change in report.layers] == ["block/d", "head"]
    assert report.total.bytes_before == 4 * (64 * 64 + 64 + 64 * 2 + 2)
    assert tfc.report(model, small).total.latency_after_us > 0


def test_shared_layers_count_once():
    inputs = keras.Input((64,))
    block = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, name="d")], name="block")
    model = keras.Sequential([keras.Model(inputs, block(inputs), name="outer"), block])
    report = tfc.report(model, tfc.compress(model, "int8"))
    assert [change.path for change in report.layers] == ["outer/block/d"]


def test_of_what_keras_quantized(model):
    model.quantize("int8")
    report = tfc.report(model, tfc.compress(model, "int8"), X)
    first = report.layers[0]
    assert first.weight_error == 0
    assert first.output_error < 1e-5
    assert first.bytes_before == 64 * 32 + 4 * 32 + 4 * 32


def test_of_models_compressed_before(model, small):
    report = tfc.report(small, tfc.compress(small, "int8"), X)
    layers = {change.path: change for change in report.layers}
    assert layers["first"].format == "int8 dynamic"
    assert layers["first"].note == ""
    assert layers["first"].bytes_before == layers["first"].bytes_after
    assert layers["head"].format == "int8 dynamic"


def test_inputs_with_open_dimensions():
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(10, 16)(inputs)
    outputs = keras.layers.Dense(4)(x)
    model = keras.Model(inputs, outputs)
    assert tfc.report(model, tfc.compress(model, "int8")).total.latency_after_us > 0


def test_models_are_checked(model, small):
    other = keras.Sequential([keras.Input((64,)), keras.layers.Dense(3, name="other")])
    with pytest.raises(ValueError, match=r"`compressed` must have the layers of .*'other'"):
        tfc.report(model, other)
    with pytest.raises(ValueError, match="`data` must hold at least one batch; received none"):
        tfc.report(model, small, [])
