"""A SavedModel is served by a process that loads the op library and nothing else of the package."""

import keras
import numpy as np
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops import _loader

FORMATS = [
    tfc.Int8(center=True),
    tfc.Sparse(0.5),
    tfc.Sparse(pattern="4:8", values="int8"),
    tfc.Binary("binary", center=True, scale_inputs=True),
    tfc.Ternary("int8"),
]
SERVE = """
    import sys
    import numpy as np
    import tensorflow as tf

    tf.load_op_library({library!r})
    data = np.load("data.npz")
    for label in {labels}:
        y1, y50 = data[f"{{label}} 1"], data[f"{{label}} 50"]
        close = dict(rtol=1e-6, atol=1e-6, err_msg=label)
        for path in (f"{{label}} exported", f"{{label}} saved"):
            model = tf.saved_model.load(path)
            np.testing.assert_allclose(model.serve(data["x"]), y50, **close)
            np.testing.assert_allclose(model.serve(data["x"][:1]), y1, **close)
            served = model.signatures["serving_default"](tf.constant(data["x"][:1]))
            (y,) = served.values()
            np.testing.assert_allclose(y, y1, **close)
    assert not [name for name in sys.modules if name.startswith("tfcompress_ops")]
    print("served")
"""


def test_fresh_process_with_the_op_library_alone(run_python, tmp_path):
    inputs = keras.Input((40,))
    x = keras.layers.Dense(33, activation="gelu")(inputs)
    x = keras.layers.Dense(20, activation="softsign", dtype="mixed_bfloat16")(x)
    model = keras.Model(inputs, keras.layers.Dense(5, activation="softmax", dtype="float32")(x))
    data = {"x": np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)}
    for format_ in FORMATS:
        compressed = tfc.compress(model, format_, batch_size=None)
        for rows in (1, 50):
            data[f"{format_.label} {rows}"] = compressed(data["x"][:rows]).numpy()
        compressed.export(tmp_path / f"{format_.label} exported", verbose=False)
        module = tf.Module()
        module.model = compressed
        module.serve = tf.function(compressed, [tf.TensorSpec((None, 40), tf.float32)])
        tf.saved_model.save(
            module,
            str(tmp_path / f"{format_.label} saved"),
            signatures={"serving_default": module.serve},
        )
    np.savez(tmp_path / "data.npz", **data)
    labels = [format_.label for format_ in FORMATS]
    process = run_python(SERVE.format(library=str(_loader.LIBRARY), labels=labels))
    assert process.stdout.strip().endswith("served")


def test_keras_file_in_a_fresh_process(run_python, tmp_path):
    """Importing the package is enough for keras.saving.load_model to know its classes."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="relu")])
    compressed = tfc.compress(model, tfc.Int8("static"), np.ones((4, 8), np.float32))
    compressed.save(tmp_path / "model.keras")
    np.save(tmp_path / "y.npy", compressed(np.ones((4, 8), np.float32)))
    process = run_python("""
        import keras, numpy as np, tfcompress_ops
        model = keras.saving.load_model("model.keras")
        np.testing.assert_array_equal(model(np.ones((4, 8), np.float32)), np.load("y.npy"))
        print(model.layers[0].format)
    """)
    assert process.stdout.strip().endswith("Int8(activations='static', center=False)")
