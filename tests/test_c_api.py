"""A SavedModel served by TensorFlow's C API: the op library, the model, and no Python."""

import os
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops import _loader

SOURCE = Path(__file__).parent / "csrc" / "load_saved_model.c"
TENSORFLOW = Path(tf.sysconfig.get_lib())
INCLUDE = Path(tf.sysconfig.get_include())


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("cc")
    libraries = [TENSORFLOW / "libtensorflow_cc.so.2", TENSORFLOW / "libtensorflow_framework.so.2"]
    header = INCLUDE / "tensorflow" / "c" / "c_api.h"
    missing = [str(path) for path in (*libraries, header) if not path.exists()]
    if compiler is None or missing:
        pytest.skip(f"needs a C compiler and {missing}")
    path = tmp_path_factory.mktemp("c_api") / "load_saved_model"
    subprocess.run(
        [
            *(compiler, str(SOURCE), "-O1", f"-I{INCLUDE}", "-o", str(path)),
            *map(str, libraries),
            f"-Wl,-rpath,{TENSORFLOW}",
        ],
        check=True,
    )
    return path


def run(program, *arguments):
    environment = {"PATH": os.environ["PATH"], "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.run(
        [str(program), *map(str, arguments)],
        cwd=program.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_served_by_the_c_api(program, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((24,)),
            keras.layers.Dense(33, activation="gelu"),
            keras.layers.Reshape((11, 3)),
            keras.layers.Conv1D(8, 3, padding="same", activation="relu"),
            keras.layers.GRU(6),
        ]
    )
    small = tfc.compress(model, {"*/cell": tfc.Sparse(), "*": tfc.Int8()}, batch_size=None)
    small.export(tmp_path / "exported", verbose=False)
    x = np.random.default_rng(0).normal(size=(5, 24)).astype(np.float32)
    x.tofile(tmp_path / "x.bin")
    # The names that saved_model_cli shows.
    meta = tf.compat.v1.saved_model.loader.load
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        definition = meta(session, ["serve"], str(tmp_path / "exported"))
        found = definition.signature_def["serving_default"]
        names = tuple(
            next(iter(tensors.values())).name.split(":")[0]
            for tensors in (found.inputs, found.outputs)
        )
    arguments = (tmp_path / "exported", *names, 5, 24, tmp_path / "x.bin")
    process = run(program, _loader.LIBRARY, *arguments)
    assert process.returncode == 0, process.stderr
    served = np.array(process.stdout.split(), np.float32).reshape(5, 6)
    np.testing.assert_allclose(served, small(x), rtol=1e-5, atol=1e-6)
    # Without the op library TensorFlow says which op it lacks.
    process = run(program, tmp_path / "nothing.so", *arguments)
    assert process.returncode == 1
    assert "TF_LoadLibrary" in process.stderr
