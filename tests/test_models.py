"""Whole models, small inputs: compressed with every format, saved, reloaded, exported."""

import keras
import numpy as np
import pytest

import tfcompress_ops as tfc
from tfcompress_ops import _loader, formats, layers
from tfcompress_ops.bench import models as bench_models
from tfcompress_ops.compression import watching
from tfcompress_ops.structure import layer_paths

# What Keras does with NumPy 2.
pytestmark = [
    pytest.mark.usefixtures("quick_timing"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
]

IMAGES = ["ResNet50", "MobileNetV2", "EfficientNetB0"]
# Layers that are matrix products (all convolutions without groups, and the classifier), and those
# that convolve each channel by itself.
COUNTS = {"ResNet50": 54, "MobileNetV2": 36 + 17, "EfficientNetB0": 66 + 16}
# int8 of 8 bits in each of 50 layers; the others are held against their own weights alone.
INT8_ERROR = 0.15
LAYER_ERROR = 0.05
EXPORTED = ["int8"]  # exporting takes seconds; other tests do it with every format
# Of x * sigmoid(x) Grappler makes oneDNN's swish, which rounds otherwise: by 4e-7 with float32
# weights. That tips a few roundings to int8, and 66 layers of random weights make 1.5 % of them.
# Otherwise a served model gives the very numbers of the Keras model.
REMAPPED = ["EfficientNetB0"]

SERVE = """
    import keras, numpy as np, tensorflow as tf
    data = np.load("data.npz")
    tf.load_op_library({library!r})
    tf.config.optimizer.set_experimental_options({{"remapping": {remapping}}})
    for name in {exported}:
        model = tf.saved_model.load(f"{{name}}_exported")
        y = model.serve(data["x"])
        error = np.linalg.norm(y - data[f"{{name}}_y"]) / np.linalg.norm(y)
        assert error < 1e-5, error
    import tfcompress_ops, tfcompress_ops.bench.models
    for name in data["names"]:
        y = keras.saving.load_model(f"{{name}}.keras")(data["x"], training=False)
        np.testing.assert_allclose(y, data[f"{{name}}_y"], rtol=1e-4, atol=1e-6)
    print("served")
"""


def relative_error(actual, expected):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def every_format():
    return {name: formats.get(name) for name in formats.names()}


def layer_errors(plain, compressed, x):
    """Relative error of each compressed layer on the inputs that the plain model gives it."""
    others = layer_paths(compressed)
    errors = {}

    def watcher(path, other):
        def watch(inputs, outputs):
            if np.any(outputs):
                errors[path] = relative_error(other(inputs), outputs)

        return watch

    watchers = {
        layer: watcher(path, others[path])
        for path, layer in layer_paths(plain).items()
        if isinstance(others[path], layers.CompressedLayer)
    }
    with watching(watchers):
        plain(x, training=False)
    return errors


def check(model, x, run_python, tmp_path, count):
    expected = model(x, training=False)
    saved = {"x": np.asarray(x), "names": np.array(list(every_format()))}
    for name, format_ in every_format().items():
        small = tfc.compress(model, format_, batch_size=None)
        packed = [v for v in layer_paths(small).values() if isinstance(v, layers.CompressedLayer)]
        tables = 0 if format_.lookup_format else count_embeddings(model)
        assert len(packed) == count - tables
        y = small(x, training=False)
        # Each layer by itself computes what its weights stand for.
        errors = layer_errors(tfc.decompress(small), small, x)
        assert len(errors) >= len(packed) - 2
        assert max(errors.values()) < LAYER_ERROR, errors
        if name == "int8":
            assert relative_error(y, expected) < INT8_ERROR
        if name == "sparse":  # nothing pruned: float32, exact
            assert relative_error(y, expected) < 1e-4
        small.save(tmp_path / f"{name}.keras")
        if name in EXPORTED:
            small.export(tmp_path / f"{name}_exported", verbose=False)
        saved[f"{name}_y"] = np.asarray(y)
    np.savez(tmp_path / "data.npz", **saved)
    process = run_python(
        SERVE.format(
            library=str(_loader.LIBRARY),
            exported=EXPORTED,
            remapping=not any(model.name.lower() == name.lower() for name in REMAPPED),
        )
    )
    assert process.stdout.strip().endswith("served")


def count_embeddings(model):
    return sum(type(layer) is keras.layers.Embedding for layer in model.layers)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.slow
def test_image_models(name, run_python, tmp_path):
    keras.utils.set_random_seed(0)
    model = bench_models.image_model(name, 32, classes=10, classifier_activation=None)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    check(model, x, run_python, tmp_path, COUNTS[name])


def test_encoder(run_python, tmp_path):
    keras.utils.set_random_seed(0)
    model = bench_models.encoder(2, 32, 4, 64, sequence=9, vocabulary=50)
    x = np.random.default_rng(0).integers(0, 50, (2, 9)).astype(np.int32)
    check(model, x, run_python, tmp_path, 1 + 2 * 6)


def test_profile():
    """The ops of each form are timed where that is asked for."""
    model = bench_models.encoder(1)
    plain, xla, int8 = bench_models.measure(model, 1, ["int8"], 0.1, search=False, profile=True)
    assert [row["form"] for row in (plain, xla, int8)] == ["tf.function", "XLA", "int8"]
    assert "Tfcompress>Int8MatMul" in int8["profile_us"]
    assert not any(op.startswith("Tfcompress") for op in plain["profile_us"])
    for row in (plain, int8):
        # What runs side by side counts in full, hence no closer bound.
        assert 0 < sum(row["profile_us"].values()) < 20 * row["timing"].median_us
