"""Memory does not grow: the resident set after many calls is what it was after a few.

The marker `soak` has the long runs: `pytest -m soak tests/reliability`.
"""

import json
import textwrap
from pathlib import Path

import pytest

SCRIPT = '''
    import gc, json, os, sys
    import keras, numpy as np, tensorflow as tf
    import tfcompress_ops as tfc

    FORMATS = [
        tfc.Int8(), tfc.Sparse(0.8), tfc.Sparse(pattern="8:64", values="int8"),
        tfc.Binary("int8"), tfc.Ternary(),
    ]

    def mebibytes():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def dense(units=256):
        layers = [keras.layers.Dense(units, "relu"), keras.layers.Dense(units)]
        return keras.Sequential([keras.Input((units,)), *layers])

    def calls():
        """A call of a compiled model and one of an op, with changing batches."""
        models = [tf.function(tfc.compress(dense(), f, batch_size=None)) for f in FORMATS]
        models = [model.get_concrete_function(tf.TensorSpec((None, 256))) for model in models]
        arrays = FORMATS[0].pack(np.ones((256, 256), np.float32))
        batches = [tf.ones((rows, 256)) for rows in (1, 8, 40)]
        number = 0
        while True:
            models[number % len(models)](batches[number % 3])
            FORMATS[0].matmul(batches[number % 3], arrays)
            number += 1
            yield

    def compressions():
        """A model is compressed, called and forgotten."""
        model, x, number = dense(), np.ones((4, 256), np.float32), 0
        while True:
            tfc.compress(model, FORMATS[number % len(FORMATS)], batch_size=None)(x)
            number += 1
            if number % 20 == 0:
                keras.backend.clear_session()
            yield

    def retraces():
        """A function of the ops is traced again, its gradient too, and forgotten."""
        arrays = [format_.pack(np.ones((256, 64), np.float32)) for format_ in FORMATS]
        number = 0
        while True:
            format_, packed = FORMATS[number % len(FORMATS)], arrays[number % len(FORMATS)]

            @tf.function
            def step(x):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = format_.matmul(x, packed, activation="relu")
                return tape.gradient(y, x)

            step(tf.ones((3, 256)))
            del step
            number += 1
            yield

    steps = {"calls": calls, "compressions": compressions, "retraces": retraces}[WHAT]()
    for _ in range(WARM_UP):
        next(steps)
    sizes = [mebibytes()]
    threads = len(os.listdir("/proc/self/task"))
    for _ in range(4):
        for _ in range(COUNT // 4):
            next(steps)
        sizes.append(mebibytes())
    # A run starts no thread of its own.
    print(json.dumps({"sizes": sizes, "threads": len(os.listdir("/proc/self/task")) - threads}))
'''


def growth(run_python, what, warm_up, count):
    header = f"WHAT, WARM_UP, COUNT = {what!r}, {warm_up}, {count}"
    process = run_python(f"{header}\n{textwrap.dedent(SCRIPT)}", timeout=1500)
    return json.loads(process.stdout.strip().splitlines()[-1])


# Steps before the first measurement (caches fill), steps, and mebibytes that the second half of
# them may add. A leak that matters, of an int8 matrix of 64 KiB in each step, would add 32.
SHORT = {"calls": (400, 2000, 4), "compressions": (20, 40, 6), "retraces": (20, 40, 6)}
LONG = {"calls": (1000, 10_000, 4), "compressions": (100, 1000, 12), "retraces": (100, 1000, 12)}
on_linux = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the resident set is read from /proc"
)


@on_linux
@pytest.mark.parametrize("what", SHORT)
def test_memory_does_not_grow(run_python, what):
    check(run_python, what, *SHORT[what])


@pytest.mark.soak
@on_linux
@pytest.mark.parametrize("what", LONG)
def test_memory_does_not_grow_in_the_long_run(run_python, what):
    check(run_python, what, *LONG[what])


def check(run_python, what, warm_up, count, most):
    found = growth(run_python, what, warm_up, count)
    sizes = found["sizes"]
    print(f"{what}: {count} steps, MiB: {', '.join(f'{size:.1f}' for size in sizes)}")
    assert sizes[-1] - sizes[2] < most, sizes
    assert found["threads"] <= 0, found
