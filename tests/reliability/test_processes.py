"""Signals, full disks, forks, two copies of the op library, and threads."""

import concurrent.futures
import os
import shutil
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops import _loader
from tfcompress_ops.cli import files

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
FORMATS = {
    "int8": "tfc.Int8(center=True)",
    "int8_float": "tfc.Int8('float', center=True)",
    "sparse": "tfc.Sparse(0.7)",
    "sparse_bfloat16": "tfc.Sparse(0.7, values='bfloat16')",
    "sparse_int8": "tfc.Sparse(pattern='8:64', values='int8')",
    "binary": "tfc.Binary('binary')",
    "binary_float": "tfc.Binary()",
    "ternary": "tfc.Ternary('int8')",
}
# Layers that are cut into tasks for several threads, at batches that meet every kernel.
MODELS = """
    import keras, numpy as np, tensorflow as tf, tfcompress_ops as tfc

    def model_of(format_, seed=1):
        keras.utils.set_random_seed(seed)
        layers = [keras.Input((300,)), keras.layers.Dense(520, "gelu"), keras.layers.Dense(130)]
        return tfc.compress(keras.Sequential(layers), format_, batch_size=None)

    def inputs(rows, seed=2):
        return np.random.default_rng(seed).standard_normal((rows, 300)).astype(np.float32)
"""


def test_eight_threads_share_four_models():
    """10,000 calls of four models from eight threads give what one thread gets, bit by bit."""
    names: dict = {}
    exec(textwrap.dedent(MODELS), names)
    formats = [tfc.Int8(), tfc.Sparse(0.8), tfc.Sparse(pattern="8:64", values="int8")]
    formats.append(tfc.Binary("int8"))
    models = [names["model_of"](format_) for format_ in formats]
    calls = [tf.function(model, jit_compile=False) for model in models]
    batches = [tf.constant(names["inputs"](rows)) for rows in (1, 7, 33)]
    expected = [[call(x).numpy() for x in batches] for call in calls]

    def work(thread):
        rng = np.random.default_rng(thread)
        for _ in range(1250):
            which, batch = int(rng.integers(4)), int(rng.integers(3))
            y = calls[which](batches[batch]).numpy()
            if not np.array_equal(y, expected[which][batch]):
                return f"{formats[which].label}, batch {len(y)}: another result"
        return ""

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert [problem for problem in pool.map(work, range(8)) if problem] == []


def test_same_bits_whatever_the_threads(run_python, tmp_path):
    """In processes with one and two intra-op threads."""
    code = (
        MODELS
        + f"""
    formats = {{name: eval(text) for name, text in {FORMATS!r}.items()}}
    results = {{}}
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    for name, format_ in formats.items():
        model = model_of(format_)
        for rows in (1, 2, 17, 130):
            results[f"{{name}}_{{rows}}"] = model(inputs(rows)).numpy()
            results[f"{{name}}_{{rows}}_again"] = model(inputs(rows)).numpy()
    np.savez(f"{{THREADS}}.npz", **results)
    """
    )
    for threads in (1, 2):
        run_python(f"THREADS = {threads}\n" + textwrap.dedent(code))
    one, *others = (np.load(tmp_path / f"{threads}.npz") for threads in (1, 2))
    assert len(one.files) == len(FORMATS) * 8
    for name in one.files:
        np.testing.assert_array_equal(one[name], one[name.removesuffix("_again")], err_msg=name)
        for other in others:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("values", ["float32", "bfloat16", "int8"])
def test_kernels_give_the_same_bits_whatever_the_threads(values):
    rng = np.random.default_rng(0)
    arrays = tfc.Sparse(0.7, values=values).pack(rng.standard_normal((300, 520)))
    packed = tfc.Int8().pack(rng.standard_normal((300, 520)))
    for rows in (1, 5, 49, 200):
        x = rng.standard_normal((rows, 300)).astype(np.float32)
        reach = tfc.Sparse(0.7, values=values)._reach
        sparse = [
            tfc.kernels.sparse_matmul(
                x,
                arrays["structure"],
                arrays["values"].view(np.uint16) if values == "bfloat16" else arrays["values"],
                scale=arrays.get("scale"),
                reach=reach,
                threads=threads,
            )
            for threads in range(1, 9)
        ]
        int8 = [
            tfc.kernels.int8_matmul(x, packed["kernel"], packed["scale"], threads=threads)
            for threads in range(1, 9)
        ]
        signs = tfc.Binary().pack(rng.standard_normal((300, 520)))
        binary = [
            tfc.kernels.binary_matmul(x, signs["kernel"], signs["scale"], 300, threads=threads)
            for threads in range(1, 9)
        ]
        for results in (sparse, int8, binary):
            for result in results[1:]:
                np.testing.assert_array_equal(result, results[0])


def test_fork_after_import(run_python):
    """A forked child computes too: kernels by themselves, and TensorFlow's ops where no op has run
    before the fork (TensorFlow's threads do not survive one)."""
    process = run_python(
        """
        import os, signal
        import numpy as np
        import tfcompress_ops as tfc

        x = np.ones((40, 300), np.float32)
        arrays = tfc.Int8().pack(np.random.default_rng(0).standard_normal((300, 520)))
        pids = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                signal.alarm(100)
                y = tfc.kernels.int8_matmul(x, arrays["kernel"], arrays["scale"], threads=2)
                z = tfc.Int8().matmul(x, arrays).numpy()
                assert np.array_equal(y, z)
                os._exit(7)
            pids.append(pid)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [7, 7, 7]
        z = tfc.Int8().matmul(x, arrays).numpy()
        y = tfc.kernels.int8_matmul(x, arrays["kernel"], arrays["scale"], threads=2)
        assert np.array_equal(y, z)
        pid = os.fork()  # after ops have run: kernels on threads of their own
        if pid == 0:
            signal.alarm(100)
            z = tfc.kernels.int8_matmul(x, arrays["kernel"], arrays["scale"], threads=2)
            os._exit(8 if np.array_equal(y, z) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 8
        print("forked")
        """
    )
    assert process.stdout.strip().endswith("forked")


def test_two_copies_of_the_library(run_python, tmp_path):
    """Loading the same build from another place, before or after: the first copy does the work."""
    copy = tmp_path / "copy" / _loader.LIBRARY.name
    copy.parent.mkdir()
    shutil.copy(_loader.LIBRARY, copy)
    use = """
        import numpy as np
        eye, gradients = np.eye(3, dtype="float32"), []
        for format_ in (tfc.Int8(), tfc.Sparse(), tfc.Binary(), tfc.Ternary("int8")):
            x = tf.Variable(eye)
            with tf.GradientTape() as tape:
                y = tf.function(format_.matmul)(x, format_.pack(eye))
            assert tape.gradient(y, x).shape == (3, 3)
        conv = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Conv2D(3, 3)])
        assert tfc.compress(conv, tfc.Int8(), batch_size=None)(np.ones((1, 6, 6, 2))).shape
        print("works")
    """
    load = f"tf.load_op_library({str(copy)!r})"
    for first, second in (
        (load, "import tfcompress_ops as tfc"),
        ("import tfcompress_ops as tfc", load),
    ):
        code = f"import keras, tensorflow as tf\n{first}\n{second}\n{textwrap.dedent(use)}"
        assert run_python(code).stdout.strip().endswith("works")


# A shell's background job, and what it starts, ignores SIGINT.
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


def dense_file(path, units=1000):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(units, "relu") for _ in range(4)]
    model = keras.Sequential([keras.Input((units,)), *layers])
    model.save(path)
    return model


def command(*arguments, before=""):
    """Code that runs a command as `tfcompress` does, after what `before` says."""
    return f"""
import os, signal, sys, threading, time
from pathlib import Path
{INTERRUPTIBLE}
sys.argv = ["tfcompress", *{[str(argument) for argument in arguments]!r}]
{before}
from tfcompress_ops.cli import main
main()
"""


# SIGINT, as the terminal sends it, DELAY seconds after the file is begun.
INTERRUPT = """
def interrupt():
    deadline = time.monotonic() + 100
    while not list(Path().glob(".tfcompress-*")) and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(DELAY)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
"""


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_interrupted_command(run_python, tmp_path, delay):
    """SIGINT as the file is written: files are as they were, or the new one is whole."""
    source, target = tmp_path / "model.keras", tmp_path / "out.keras"
    dense_file(source)
    before = source.read_bytes()
    target.write_bytes(b"what was here before")
    interrupt = INTERRUPT.replace("DELAY", str(delay))
    code = command("compress", source, "-o", target, "--force", before=interrupt)
    process = run_python(code, check=False, timeout=100)
    # In the report, if the file was written meanwhile.
    assert process.returncode == 130, process.stderr
    assert source.read_bytes() == before
    if target.read_bytes() != b"what was here before":
        keras.saving.load_model(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.keras", "out.keras"]


def test_interrupted_compress(run_python):
    """KeyboardInterrupt out of `tfc.compress` leaves the model as it was."""
    code = """
        import _thread, threading
        import keras, numpy as np, tfcompress_ops as tfc

        layers = [keras.layers.Dense(700, "relu") for _ in range(6)]
        model = keras.Sequential([keras.Input((700,)), *layers])
        x = np.ones((2, 700), np.float32)
        before, weights = model(x).numpy(), [w.copy() for w in model.get_weights()]
        names = [layer.name for layer in model.layers]
        interrupted = 0
        for number in range(12):
            timer = threading.Timer(0.01 * number + 0.001, _thread.interrupt_main)
            try:
                timer.start()
                tfc.compress(model, tfc.Sparse(0.9), batch_size=None)
                timer.join()
            except KeyboardInterrupt:
                interrupted += 1
        assert interrupted >= 3, interrupted
        assert [layer.name for layer in model.layers] == names
        assert all(type(layer) is keras.layers.Dense for layer in model.layers)
        assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), weights))
        assert np.array_equal(model(x), before)
        tfc.compress(model, tfc.Sparse(0.9), batch_size=None)
        print("as it was")
    """
    process = run_python(f"{INTERRUPTIBLE}\n{textwrap.dedent(code)}")
    assert process.stdout.strip().endswith("as it was")


def test_disk_full(run_python, tmp_path):
    """A file that cannot grow any more: one line of an error, and the old target is still there."""
    source, target = tmp_path / "model.keras", tmp_path / "out.keras"
    dense_file(source, units=300)
    target.write_bytes(b"what was here before")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    code = command("compress", source, "-o", target, "--force", before=limit)
    process = run_python(code, check=False)
    assert process.returncode == 1, process.stderr
    assert "cannot be written" in process.stderr
    assert "Traceback" not in process.stderr
    assert target.read_bytes() == b"what was here before"
    assert list(tmp_path.glob(".tfcompress-*")) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_directory(run_python, tmp_path):
    source, folder = tmp_path / "model.keras", tmp_path / "folder"
    dense_file(source, units=30)
    folder.mkdir(mode=0o500)
    process = run_python(command("compress", source, "-o", folder / "out.keras"), check=False)
    assert process.returncode == 1
    assert "cannot be written to" in process.stderr
    assert "Traceback" not in process.stderr


def test_directory_that_cannot_be_replaced(tmp_path, monkeypatch):
    """The old directory comes back where the new one cannot take its place."""
    path = tmp_path / "saved"
    path.mkdir()
    (path / "old").write_text("old")
    replace = os.replace

    def refuse(source, target):
        if source.parent != path.parent and source.name == "saved":
            raise OSError("no room")
        replace(source, target)

    def write():
        with files.replacing(path) as temporary:
            temporary.mkdir()
            monkeypatch.setattr(os, "replace", refuse)

    with pytest.raises(OSError, match="no room"):
        write()
    assert (path / "old").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]
