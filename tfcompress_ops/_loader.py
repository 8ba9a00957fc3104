"""Loads the TensorFlow op library, after checking that it fits what is installed.

An op library built for one minor version of TensorFlow fails in another with an unreadable list of
C++ symbols, so everything that can be checked is checked before the library is opened. Each failure
is one `ImportError` that says what was found, what is needed, and the command that mends it.
"""

import functools
import importlib
import importlib.metadata
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
LIBRARY = _PACKAGE / "libtfcompress_ops.so"


@functools.cache
def load() -> Any:
    """Loads the op library once per process.

    Returns:
        The module of generated op functions, such as `tfcompress_int8_mat_mul`.

    Raises:
        ImportError: If TensorFlow is missing or another minor version than this build is for, if
            Keras is missing, older than 3, or runs on another backend, or if the kernel module or
            the op library is missing or does not load.
    """
    build, required = _this_build()
    _check_keras_variable()
    tensorflow = _import_tensorflow(build, required)
    _check_keras()
    _check_kernels()
    return _load_library(tensorflow)


def _error(found: str, needed: str, fix: str) -> ImportError:
    return ImportError(
        "tfcompress_ops cannot be imported.\n"
        f"  Found:  {found}\n"
        f"  Needed: {needed}\n"
        f"  Fix:    {fix}"
    )


def _this_build() -> tuple[str, tuple[int, int]]:
    """The version of this build, and the (major, minor) of TensorFlow that it was made for."""
    try:
        config = importlib.import_module("tfcompress_ops._build_config")
    except ModuleNotFoundError:
        raise _error(
            f"{_PACKAGE} without `_build_config.py`: its C++ part was never built",
            "a built copy of tfcompress_ops",
            _rebuild_command(),
        ) from None
    return config.VERSION, _minor(config.TENSORFLOW_VERSION)


def _minor(version: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _requirement(distribution: str, required: tuple[int, int]) -> str:
    major, minor = required
    return f"pip install '{distribution}>={major}.{minor},<{major}.{minor + 1}'"


def _import_tensorflow(build: str, required: tuple[int, int]) -> ModuleType:
    major, minor = required
    name = f"TensorFlow {major}.{minor}, which this copy of tfcompress_ops, {build}, is built for"
    try:
        tensorflow = importlib.import_module("tensorflow")
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise _broken_tensorflow(error, name, required) from error
        raise _error(
            "no TensorFlow",
            name,
            "pip install 'tfcompress_ops[cpu]'    (CUDA GPU: pip install 'tfcompress_ops[gpu]')",
        ) from None
    except ImportError as error:
        raise _broken_tensorflow(error, name, required) from error
    version = str(getattr(tensorflow, "__version__", "without a version"))
    if _minor(version) != required:
        location = Path(str(tensorflow.__file__)).parent
        raise _error(
            f"TensorFlow {version} in {location}",
            name,
            _requirement(_tensorflow_distribution(), required),
        )
    return tensorflow


def _broken_tensorflow(error: ImportError, needed: str, required: tuple[int, int]) -> ImportError:
    fix = _requirement(_tensorflow_distribution(), required).replace(
        "install", "install --force-reinstall", 1
    )
    return _error(f"a TensorFlow that cannot be imported ({error})", needed, fix)


def _tensorflow_distribution() -> str:
    """The installed distribution that `import tensorflow` comes from: two share that name."""
    for name in ("tensorflow", "tensorflow-cpu"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name
    return "tensorflow-cpu"


def _wrong_backend(backend: str, where: str) -> ImportError:
    return _error(
        f"Keras backend {backend!r} ({where})",
        "Keras backend 'tensorflow': the layers run TensorFlow ops",
        "export KERAS_BACKEND=tensorflow    (before Python starts)",
    )


def _check_keras_variable() -> None:
    """Looks at KERAS_BACKEND first: with a backend that isn't installed Keras fails by itself."""
    backend = os.environ.get("KERAS_BACKEND", "")
    if backend not in ("", "tensorflow"):
        raise _wrong_backend(backend, "from the environment variable KERAS_BACKEND")


def _check_keras() -> None:
    needed = "Keras 3.12 or later"
    fix = "pip install 'keras>=3.12'"
    try:
        keras = importlib.import_module("keras")
    except ImportError as error:
        raise _error(f"a Keras that cannot be imported ({error})", needed, fix) from error
    version = str(getattr(keras, "__version__", "without a version"))
    if _minor(version) < (3, 12):
        raise _error(f"Keras {version} in {Path(str(keras.__file__)).parent}", needed, fix)
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise _wrong_backend(backend, "from ~/.keras/keras.json")


def _check_kernels() -> None:
    try:
        importlib.import_module("tfcompress_ops._kernels")
    except ImportError as error:
        raise _error(
            f"a kernel module in {_PACKAGE} that cannot be imported ({error})",
            "the kernel module that belongs to this copy of tfcompress_ops and this Python",
            _rebuild_command(),
        ) from error


def _load_library(tensorflow: Any) -> Any:
    if not LIBRARY.is_file():
        raise _error(f"no {LIBRARY}", "the op library of tfcompress_ops", _rebuild_command())
    try:
        module = tensorflow.load_op_library(str(LIBRARY))
    except (tensorflow.errors.OpError, OSError, RuntimeError) as error:
        raise _error(
            f"{LIBRARY}, which TensorFlow {tensorflow.__version__} cannot load ({error})",
            "an op library that was built for this machine and this TensorFlow",
            _rebuild_command(),
        ) from error
    if _has_ops(module):
        return module
    # A copy of the library was loaded before: the ops are its, and so are the functions.
    for other in list(sys.modules.values()):
        if _has_ops(other):
            return other
    raise _error(
        f"another copy of {LIBRARY.name} that this process has loaded",
        "one copy of the op library in a process",
        f"tf.load_op_library({str(LIBRARY)!r}), or no load_op_library at all",
    )


def _has_ops(module: Any) -> bool:
    return "tfcompress_int8_mat_mul" in getattr(module, "__dict__", {})


def _rebuild_command() -> str:
    """Builds in place in a source tree, otherwise installs the package anew."""
    root = _PACKAGE.parent
    if (root / "pyproject.toml").is_file():
        return (
            f"make -C {root} build    (after: pip install cmake ninja pybind11); or, if "
            "tfcompress_ops is installed, start Python in another folder than this source tree"
        )
    return "pip install --force-reinstall --no-deps tfcompress_ops"
