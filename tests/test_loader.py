"""Each way in which the op library cannot be used is one ImportError that says what to do."""

import importlib
import shutil
from pathlib import Path

import pytest

import tfcompress_ops
from tfcompress_ops import _build_config, _loader

PACKAGE = Path(tfcompress_ops.__file__).parent
IMPORT = "import tfcompress_ops"
NO_BACKEND = {"KERAS_BACKEND": None}


@pytest.fixture
def fake(tmp_path):
    """Makes importable modules with the given source: `fake(tensorflow="...")`."""

    def make(**modules):
        for name, source in modules.items():
            folder = tmp_path / "fakes" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").write_text(source)
        return (tmp_path / "fakes",)

    return make


@pytest.fixture
def copied(tmp_path):
    """A copy of the package without its op library in a folder of its own."""
    root = tmp_path / "copy"
    shutil.copytree(
        PACKAGE, root / PACKAGE.name, ignore=shutil.ignore_patterns("libtf*.so", "__pycache__")
    )
    return root


TENSORFLOW = f"__version__ = {_build_config.TENSORFLOW_VERSION!r}"
KERAS = """
__version__ = "3.13.0"
class config:
    backend = staticmethod(lambda: {backend!r})
"""


def error_of(process):
    """The message of the one error that ended the process."""
    assert process.returncode == 1
    start = "ImportError: tfcompress_ops cannot be imported."
    assert process.stderr.count(start) == 1, process.stderr
    message = process.stderr[process.stderr.index(start) :]
    lines = [line.strip().split(":")[0] for line in message.splitlines()[1:4]]
    assert lines == ["Found", "Needed", "Fix"], message
    return message


def test_tensorflow_missing(run_python):
    process = run_python(
        "import sys; sys.modules['tensorflow'] = None; import tfcompress_ops",
        env=NO_BACKEND,
        check=False,
    )
    message = error_of(process)
    assert "Found:  no TensorFlow" in message
    assert "pip install 'tfcompress_ops[cpu]'" in message
    assert "pip install 'tfcompress_ops[gpu]'" in message


@pytest.mark.parametrize("version", ["2.16.2", "2.22.0-rc1", "3.0.0"])
def test_another_tensorflow(run_python, fake, version):
    path = fake(tensorflow=f"__version__ = {version!r}")
    message = error_of(run_python(IMPORT, env=NO_BACKEND, path=path, check=False))
    assert f"TensorFlow {version} in {path[0] / 'tensorflow'}" in message
    assert "Needed: TensorFlow 2.21, which this copy" in message
    assert ">=2.21,<2.22'" in message
    assert "Fix:    pip install 'tensorflow" in message


@pytest.mark.parametrize(
    "source", ["raise ImportError('libcudart.so: no such file')", "import no_such_module"]
)
def test_tensorflow_that_cannot_be_imported(run_python, fake, source):
    path = fake(tensorflow=source)
    message = error_of(run_python(IMPORT, env=NO_BACKEND, path=path, check=False))
    assert "Found:  a TensorFlow that cannot be imported (" in message
    assert "libcudart.so" in message or "no_such_module" in message
    assert "pip install --force-reinstall 'tensorflow" in message


def test_keras_backend_from_the_environment(run_python):
    message = error_of(run_python(IMPORT, env={"KERAS_BACKEND": "jax"}, check=False))
    assert "Keras backend 'jax' (from the environment variable KERAS_BACKEND)" in message
    assert "export KERAS_BACKEND=tensorflow" in message


def test_keras_backend_from_its_configuration(run_python, fake):
    path = fake(tensorflow=TENSORFLOW, keras=KERAS.format(backend="torch"))
    message = error_of(run_python(IMPORT, env=NO_BACKEND, path=path, check=False))
    assert "Keras backend 'torch' (from ~/.keras/keras.json)" in message


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("__version__ = '2.15.0'", "Keras 2.15.0 in "),
        ("raise ImportError('half installed')", "a Keras that cannot be imported (half installed)"),
    ],
)
def test_keras_missing_or_old(run_python, fake, source, found):
    path = fake(tensorflow=TENSORFLOW, keras=source)
    message = error_of(run_python(IMPORT, env=NO_BACKEND, path=path, check=False))
    assert f"Found:  {found}" in message
    assert "pip install 'keras>=3.12'" in message


def test_library_missing(run_python, fake, copied):
    path = fake(tensorflow=TENSORFLOW, keras=KERAS.format(backend="tensorflow"))
    message = error_of(run_python(IMPORT, env=NO_BACKEND, path=(copied, *path), check=False))
    assert f"Found:  no {copied / PACKAGE.name / 'libtfcompress_ops.so'}" in message
    assert "pip install --force-reinstall --no-deps tfcompress_ops" in message


def test_library_broken(run_python, copied):
    library = copied / PACKAGE.name / "libtfcompress_ops.so"
    library.write_bytes(b"not a library")
    message = error_of(run_python(IMPORT, env=NO_BACKEND, path=(copied,), check=False))
    assert f"Found:  {library}, which TensorFlow {_build_config.TENSORFLOW_VERSION}" in message
    assert "cannot load (" in message
    assert "pip install --force-reinstall --no-deps tfcompress_ops" in message


def test_kernel_module_broken(run_python, copied):
    (kernels,) = (copied / PACKAGE.name).glob("_kernels*.so")
    kernels.write_bytes(b"not a library")
    message = error_of(run_python(IMPORT, env=NO_BACKEND, path=(copied,), check=False))
    assert "a kernel module in " in message
    assert "cannot be imported (" in message


def test_source_tree_that_was_never_built(run_python, copied):
    (copied / PACKAGE.name / "_build_config.py").unlink()
    (copied / "pyproject.toml").touch()
    message = error_of(run_python(IMPORT, env=NO_BACKEND, path=(copied,), check=False))
    assert "`_build_config.py`: its C++ part was never built" in message
    assert f"make -C {copied} build" in message


def test_loads_once():
    assert _loader.load() is _loader.load()
    assert hasattr(_loader.load(), "tfcompress_int8_mat_mul")


def test_fix_names_the_installed_distribution(monkeypatch):
    def version(name):
        if name != installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.20.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    for installed in ("tensorflow", "tensorflow-cpu"):
        assert _loader._tensorflow_distribution() == installed
    installed = "nothing"
    assert _loader._tensorflow_distribution() == "tensorflow-cpu"
