"""Reading users' `.keras` files, with an answer for each way in which that goes wrong."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import keras

from tfcompress_ops.cli.console import CommandError

_SUFFIX = ".keras"
_CONFIG = "config.json"
# Where Keras looks for a function of which a file holds the bare name.
_KERAS_FUNCTIONS = (
    keras.activations,
    keras.initializers,
    keras.losses,
    keras.metrics,
    keras.regularizers,
)


def load(path: Path, imports: Sequence[str] = ()) -> keras.Model:
    """Loads a model.

    Args:
        path: a `.keras` file.
        imports: modules, or Python files, that register the custom objects of the model.

    Raises:
        CommandError: if the file is missing, is no `.keras` file, is damaged, or needs custom
            objects that are not registered.
    """
    # This import registers the compressed layers with Keras.
    import tfcompress_ops.layers  # noqa: F401

    config = _read_config(path)
    modules = [_import(module) for module in imports]
    custom = _custom_objects(config, modules)
    missing = sorted(name for name, found in custom.items() if found is None)
    if missing:
        raise CommandError(
            f"{path} needs {_listed(missing)}, which Keras does not know.",
            "Name the module or Python file that defines it: --import MODULE.",
        )
    if any(name == "Lambda" for name, _ in _objects(config)):
        raise CommandError(
            f"{path} holds a Lambda layer, that is, Python code that loading would run.",
            "If you trust it, load it with keras.saving.load_model(..., safe_mode=False) and call "
            "tfcompress_ops.compress from Python.",
        )
    try:
        return keras.saving.load_model(path, custom_objects=custom, compile=False)
    except Exception as error:
        # Keras raises whatever a damaged or foreign file happens to run into.
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise CommandError(f"{path} cannot be loaded: {reason}") from error


def check_output(path: Path, *, force: bool) -> None:
    """Checks that a model can be written to `path`.

    Raises:
        CommandError: if the name is not that of a `.keras` file, the directory is missing, or the
            file exists and `force` is False.
    """
    if path.suffix != _SUFFIX:
        raise CommandError(f"The output must be named *{_SUFFIX}; got {path}.")
    if not path.parent.is_dir():
        raise CommandError(
            f"The output directory {path.parent} does not exist.",
            f"Make it: mkdir -p {path.parent}",
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise CommandError(f"The output directory {path.parent} cannot be written to.")
    if path.is_dir():
        raise CommandError(f"The output {path} is a directory.")
    if path.exists() and not force:
        raise CommandError(f"{path} exists.", "Overwrite it with --force, or choose another name.")


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise CommandError(f"{path} does not exist.")
    if path.is_dir():
        raise CommandError(
            f"{path} is a directory, not a {_SUFFIX} file.",
            f'Save the model with model.save("name{_SUFFIX}").',
        )
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise CommandError(f"{path} is damaged: the checksum of {damaged} is wrong.")
            config: dict[str, Any] = json.loads(archive.read(_CONFIG))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
        hint = (
            f'Load it with keras.saving.load_model and save it with model.save("name{_SUFFIX}").'
            if path.suffix in (".h5", ".hdf5")
            else "It may be damaged or only partly copied."
        )
        raise CommandError(f"{path} is not a {_SUFFIX} file.", hint) from error
    return config


def _import(module: str) -> ModuleType:
    """Imports a module by name, from the current directory too, or a Python file by path."""
    try:
        if module.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module).stem, module)
            if spec is None or spec.loader is None:
                raise ImportError("not a Python file")
            loaded = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded)
            return loaded
        if "" not in sys.path:
            sys.path.insert(0, "")
        return importlib.import_module(module)
    except Exception as error:
        # User code: whatever it raises is the answer.
        raise CommandError(f"--import {module} failed: {type(error).__name__}: {error}") from error


def _objects(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """All serialized Keras objects in a config: class name and the dict that describes it."""
    if isinstance(config, dict):
        if "class_name" in config and "config" in config and "registered_name" in config:
            yield str(config["class_name"]), config
        for value in config.values():
            yield from _objects(value)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value)


def _custom_objects(config: dict[str, Any], modules: Sequence[ModuleType]) -> dict[str, Any]:
    """The objects that are neither Keras' own nor registered, by name.

    Returns:
        Name to what one of `modules` defines under it, None where none does.
    """
    found: dict[str, Any] = {}
    # The model is loaded without what it was compiled with.
    for name, described in _objects({**config, "compile_config": None}):
        registered = described["config"] if name == "function" else described["registered_name"]
        package = str(described.get("module") or "").split(".", 1)[0]
        if not registered or package == "keras" or keras.saving.get_registered_object(registered):
            continue
        if name == "function" and any(hasattr(part, registered) for part in _KERAS_FUNCTIONS):
            continue
        plain_name = str(registered).rpartition(">")[2]
        candidates = (getattr(module, plain_name, None) for module in modules)
        found[registered] = next((one for one in candidates if one is not None), None)
    return found


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
