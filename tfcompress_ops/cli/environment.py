"""What the command line runs on: versions, machine, instruction sets, threads, formats."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from typing import Any

from tfcompress_ops import _loader
from tfcompress_ops._version import __version__

_DISTRIBUTIONS = ("keras", "numpy")
_VARIANTS_SUFFIX = "_variants"


def collect() -> dict[str, Any]:
    """Returns everything that `tfcompress info` shows, as plain JSON values.

    Nothing here raises where TensorFlow is missing or does not fit: `problem` then holds what is
    wrong, and the entries that depend on it are None or empty.
    """
    problem = _load_problem()
    return {
        "versions": _versions(),
        "build": _build(),
        **_machine(),
        "threads": _threads(loaded=problem is None),
        "formats": _formats() if problem is None else {},
        "problem": problem,
    }


def peaks(threads: int) -> dict[str, float]:
    """Measures what this machine can do at best with so many threads, in a few seconds."""
    from tfcompress_ops import kernels

    measured: dict[str, float] = kernels.measure_peaks(threads)
    return measured


def available_cpus() -> int:
    """Returns the number of CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def binary_size(size_bytes: int) -> str:
    """Returns the size of a cache in the units that caches come in."""
    kibibytes = size_bytes // 1024
    return f"{kibibytes:,} KiB" if kibibytes < 1024 else f"{kibibytes // 1024:,} MiB"


def _load_problem() -> str | None:
    try:
        _loader.load()
    except ImportError as error:
        return str(error)
    return None


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {
        "tfcompress_ops": __version__,
        "python": platform.python_version(),
        "tensorflow": _installed("tensorflow") or _installed("tensorflow-cpu"),
    }
    return found | {name: _installed(name) for name in _DISTRIBUTIONS}


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _build() -> dict[str, str | None]:
    """What the C++ part was built for and with."""
    try:
        config = importlib.import_module("tfcompress_ops._build_config")
    except ImportError:
        return dict.fromkeys(("version", "tensorflow", "cuda", "type", "compiler", "op_library"))
    return {
        "version": config.VERSION,
        "tensorflow": config.TENSORFLOW_VERSION,
        "cuda": _cuda(config.CUDA_VERSION, config.CUDA_ARCHS),
        "type": config.BUILD_TYPE,
        "compiler": config.COMPILER,
        "op_library": str(_loader.LIBRARY),
    }


def _cuda(version: str | None, archs: tuple[int, ...]) -> str | None:
    """Toolkit and compute capabilities of the GPU kernels, `None` where there are none."""
    if version is None:
        return None
    return f"{version} (compute capabilities {', '.join(f'{a // 10}.{a % 10}' for a in archs)})"


def _machine() -> dict[str, Any]:
    """The CPU, its instruction sets, and what each format's kernels would use."""
    try:
        kernels = importlib.import_module("tfcompress_ops.kernels")
    except ImportError:
        return {"cpu": None, "isa": None, "kernels": {}}
    cpu = dict(kernels.cpu_info())
    variants = {
        name.removesuffix(_VARIANTS_SUFFIX): getattr(kernels, name)()
        for name in sorted(dir(kernels))
        if name.endswith(_VARIANTS_SUFFIX)
    }
    isa = {
        "in_force": cpu.pop("tier"),
        "available": cpu.pop("tiers"),
        "TFCOMPRESS_ISA": os.environ.get("TFCOMPRESS_ISA"),
    }
    return {"cpu": cpu, "isa": isa, "kernels": variants}


def _threads(*, loaded: bool) -> dict[str, int | None]:
    """Threads that TensorFlow uses: what is set, or what its 0 (one per CPU) comes to."""
    available = available_cpus()
    if not loaded:
        return {"available_cpus": available, "intra_op": None, "inter_op": None}
    import tensorflow as tf

    return {
        "available_cpus": available,
        "intra_op": tf.config.threading.get_intra_op_parallelism_threads() or available,
        "inter_op": tf.config.threading.get_inter_op_parallelism_threads() or available,
    }


def _formats() -> dict[str, list[str]]:
    """Names of the registered formats, and the labels of their variants."""
    from tfcompress_ops import formats

    return {name: [label for label, _ in formats.get(name).variants()] for name in formats.names()}
