"""Uses an installed tfcompress_ops as users do, in a few seconds.

    python tests/smoke/check_installation.py [--without-compiler]

It needs the extra `cpu` or `gpu` and nothing else: no pytest. `--without-compiler` first makes sure
that no compiler can be found, so that what works cannot have come from one.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops import _build_config

COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "cmake", "ninja", "make", "nvcc", "ld")


def check_surroundings(*, without_compiler: bool) -> None:
    """The installed copy is what runs, for the TensorFlow that it was built for."""
    source = Path(__file__).resolve().parents[2]
    package = Path(tfc.__file__).resolve()
    assert source not in package.parents, f"{package} is the source tree's"
    assert tf.__version__.split(".")[:2] == tfc.__version__.split(".")[:2]
    assert _build_config.VERSION.split("+")[0] == tfc.__version__
    if without_compiler:
        found = {name: path for name in COMPILERS if (path := shutil.which(name))}
        assert found == {}, found


def check_formats(folder: Path) -> None:
    """Every format: compressed, saved, loaded; the outputs are those of its unpacked weights."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((70,)),
            keras.layers.Dense(130, "relu", name="hidden"),
            keras.layers.Dense(10, name="head"),
        ]
    )
    x = np.random.default_rng(0).standard_normal((33, 70)).astype(np.float32)
    for name in tfc.formats.names():
        for label, chosen in tfc.formats.get(name).variants():
            if chosen.needs_calibration:
                continue
            small = tfc.compress(model, {"hidden": chosen}, batch_size=None)
            assert isinstance(small.get_layer("hidden"), tfc.layers.Dense), label
            path = folder / "small.keras"
            small.save(path)
            loaded = keras.saving.load_model(path)
            # A graph and eager calls, one row and many: the same bits of every row.
            in_graph = tf.function(loaded)(x).numpy()
            np.testing.assert_allclose(small(x).numpy(), in_graph, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(loaded(x[:1]).numpy(), in_graph[:1], rtol=1e-4, atol=1e-4)
            if "binary binary" not in label:  # whose inputs are signs: another function
                plain = tfc.decompress(small)(x).numpy()
                error = np.linalg.norm(in_graph - plain) / np.linalg.norm(plain)
                assert error < 0.05, f"{label}: {error:.3f}"
            print(f"  {label}")


def check_gradient() -> None:
    """A compressed layer passes gradients to its inputs."""
    layer = tfc.layers.Dense(8, format=tfc.Int8("float"))
    x = tf.ones((4, 16))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(layer(x))
    assert tape.gradient(y, x).shape == (4, 16)


def check_command(folder: Path) -> None:
    """The console script, in processes of its own."""
    keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)]).save(folder / "model.keras")
    script = Path(sys.executable).with_name("tfcompress")

    def run(*arguments: str) -> str:
        command = [str(script), *arguments]
        return subprocess.run(
            command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    found = json.loads(run("info", "--json"))
    assert found["problem"] is None, found
    assert found["build"]["version"] == _build_config.VERSION
    run("compress", "model.keras", "-o", "out.keras", "--format", "int8", "--batch-size", "0")
    inspected = json.loads(run("inspect", "out.keras", "--json"))
    assert "int8 dynamic" in [layer["format"] for layer in inspected["layers"]]


def main() -> None:
    """Runs every check; an AssertionError says what is wrong."""
    arguments = sys.argv[1:]
    if arguments not in ([], ["--without-compiler"]):
        sys.exit("usage: check_installation.py [--without-compiler]")
    check_surroundings(without_compiler=bool(arguments))
    print(f"tfcompress_ops {_build_config.VERSION}, {tfc.kernels.cpu_info()['tier']}:")
    with tempfile.TemporaryDirectory() as folder:
        check_formats(Path(folder))
        check_gradient()
        check_command(Path(folder))
    print("OK")


if __name__ == "__main__":
    main()
