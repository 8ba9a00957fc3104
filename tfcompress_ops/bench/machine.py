"""What a benchmark has to say about the machine that it ran on."""

import datetime
import importlib.metadata
import os
import platform
import time
from pathlib import Path

from tfcompress_ops import kernels

# Taken where the system does not tell the size of its last-level cache.
_ASSUMED_CACHE_BYTES = 32 * 2**20
_PACKAGES = (
    "tfcompress-ops",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "numpy",
    "ai-edge-litert",
    "onnxruntime",
    "onnx",
    "scipy",
)
# What changes TensorFlow's or this package's choice of kernels, and so the numbers.
_ENVIRONMENT = (
    "TFCOMPRESS_ISA",
    "TF_ENABLE_ONEDNN_OPTS",
    "ONEDNN_MAX_CPU_ISA",
    "OMP_NUM_THREADS",
)


class OtherLoad:
    """How busy other processes keep the processors, from its creation on."""

    def __init__(self) -> None:
        self._start = self._counters()

    def share(self) -> float | None:
        """Processor time that others used over all there was, 0 to 1; None where it is not told."""
        now = self._counters()
        if self._start is None or now is None:
            return None
        busy, own, wall = (after - before for before, after in zip(self._start, now, strict=True))
        return min(1.0, max(0.0, (busy - own) / (wall * (os.cpu_count() or 1))))

    @staticmethod
    def _counters() -> tuple[float, float, float] | None:
        """Seconds: all processors busy (or taken by the hypervisor), this process, the clock."""
        stat = Path("/proc/stat")
        if not stat.exists():
            return None
        user, nice, system, _, _, irq, soft_irq, steal = map(
            int, stat.read_text().split("\n", 1)[0].split()[1:9]
        )
        ticks = user + nice + system + irq + soft_irq + steal
        busy = ticks / os.sysconf("SC_CLK_TCK")
        return busy, time.process_time(), time.monotonic()


def available_cpus() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def last_level_cache_bytes() -> int:
    """Size of the first processor's largest cache, in bytes; 32 MiB where it is not told."""
    cpu = kernels.cpu_info()
    return max(cpu["l2_bytes"], cpu["l3_bytes"]) or _ASSUMED_CACHE_BYTES


def processor_name() -> str:
    """The processor's model name."""
    return str(kernels.cpu_info()["model_name"]).strip() or platform.processor()


def describe() -> dict[str, object]:
    """The machine and the settings of its environment that bear on the numbers."""
    return {
        "processor": processor_name(),
        "architecture": platform.machine(),
        "cpus": available_cpus(),
        "last_level_cache_bytes": last_level_cache_bytes(),
        "system": platform.platform(),
        "environment": {name: os.environ.get(name) for name in _ENVIRONMENT},
    }


def of_run(other_load: OtherLoad) -> dict[str, object]:
    """`describe()`, the kernels, the time, and what else ran since `other_load` was made."""
    return {
        **describe(),
        "kernels": kernels.cpu_info(),
        "measured_at": datetime.datetime.now().isoformat(timespec="minutes"),
        "other_load": other_load.share(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of every installed package that takes part."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
