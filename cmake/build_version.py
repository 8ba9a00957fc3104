"""The version of a wheel: that of tfcompress_ops/_version.py, with `+cu128` for GPU kernels.

128 stands for CUDA 12.8. scikit-build-core asks for it: `[tool.scikit-build]` in pyproject.toml.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSION = Path(__file__).resolve().parents[1] / "tfcompress_ops" / "_version.py"


def dynamic_metadata(field: str, settings: Mapping[str, Any]) -> str:
    """Gives scikit-build-core the version."""
    if field != "version" or settings:
        raise ValueError(f"This is the version, without settings; received {field}, {settings}.")
    found = re.search(r'^__version__ = "(.+)"$', VERSION.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{VERSION} states no __version__.")
    return found[1] + local_label()


def local_label() -> str:
    """Returns `+cu128` or alike where TFCOMPRESS_CUDA asks for GPU kernels and nvcc is there.

    Where it is missing, CMake says what to do about it, or builds without.
    """
    if os.environ.get("TFCOMPRESS_CUDA", "OFF") not in ("ON", "AUTO"):
        return ""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if not nvcc:
        return ""
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+)\.(\d+)", said)
    return f"+cu{release[1]}{release[2]}" if release else ""
