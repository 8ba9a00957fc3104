"""Builds wheels as scikit-build-core does, with the TensorFlow of the environment where it fits.

pip builds in an environment of its own. TensorFlow's headers and library would be downloaded and
unpacked into it once more, although the environment that is installed into has them, more often
than not: pip hides it, but says where it is. Where it has no TensorFlow of the right minor version,
or is isolated for good (`python -m build`, cibuildwheel), TensorFlow is a requirement of the build.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any

from scikit_build_core import build as skbuild
from scikit_build_core.build import *  # noqa: F403  the other hooks

if sys.version_info >= (3, 11):
    import tomllib
else:  # scikit-build-core brings it for older versions of Python
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTIONS = ("tensorflow", "tensorflow_cpu")


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Returns what a wheel is built with."""
    return [*skbuild.get_requires_for_build_wheel(config_settings), *tensorflow()]


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Returns what an editable installation is built with."""
    return [*skbuild.get_requires_for_build_editable(config_settings), *tensorflow()]


def tensorflow() -> list[str]:
    """Returns the extra `cpu`, or nothing where the environment has such a TensorFlow."""
    text = (ROOT / "tfcompress_ops" / "_version.py").read_text()
    found = re.search(r'^__version__ = "(\d+\.\d+\.)', text, re.MULTILINE)
    assert found is not None
    installed = importlib.metadata.distributions(path=site_packages())
    if any(
        str(one.name).lower().replace("-", "_") in DISTRIBUTIONS
        and one.version.startswith(found[1])
        for one in installed
    ):
        return []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"]["cpu"])


def site_packages() -> list[str]:
    """Returns where the environment that is installed into has its packages."""
    return list(dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib"))))
