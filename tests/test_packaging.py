"""Version, requirements and supported Pythons agree; names of wheels; scripts of CI."""

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import tfcompress_ops as tfc
from tfcompress_ops import _build_config

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it for older versions of Python
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = Version(tfc.__version__)
NEXT = Version(f"{VERSION.major}.{VERSION.minor + 1}")


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build_version():
    return load(ROOT / "cmake" / "build_version.py")


def test_the_version_begins_with_the_tensorflow_that_the_build_is_for():
    built_for = Version(_build_config.TENSORFLOW_VERSION)
    assert (VERSION.major, VERSION.minor) == (built_for.major, built_for.minor)
    assert Version(_build_config.VERSION).public == str(VERSION)
    assert (Version(_build_config.VERSION).local is None) == (_build_config.CUDA_VERSION is None)


def test_requirements_name_that_tensorflow():
    groups = PROJECT["project"]["optional-dependencies"].values()
    texts = [each for group in groups for each in group]
    found = [one for one in map(Requirement, texts) if one.name in ("tensorflow", "tensorflow-cpu")]
    assert len(found) == 3
    for requirement in found:
        assert requirement.specifier.contains(f"{VERSION.major}.{VERSION.minor}.99")
        assert not requirement.specifier.contains(str(NEXT))
        assert not requirement.specifier.contains(f"{VERSION.major}.{VERSION.minor - 1}.9")


def test_a_build_takes_the_tensorflow_of_the_environment(monkeypatch, tmp_path):
    """And asks for one where there is none, or another minor version."""
    pytest.importorskip("scikit_build_core", reason="the build's own packages are not installed")
    backend = load(ROOT / "cmake" / "build_backend.py")
    cpu = PROJECT["project"]["optional-dependencies"]["cpu"]
    monkeypatch.setattr(backend, "site_packages", lambda: [str(tmp_path)])
    for version, wanted in (("2.20.0", cpu), (f"{VERSION.major}.{VERSION.minor}.7", [])):
        assert backend.tensorflow() == cpu
        for name in ("tensorflow_cpu", "tensorflow"):
            metadata = tmp_path / f"{name}-{version}.dist-info" / "METADATA"
            metadata.parent.mkdir()
            metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            assert backend.tensorflow() == wanted
            shutil.rmtree(metadata.parent)
    hooks = ("wheel", "sdist", "editable")
    assert all(hasattr(backend, f"build_{hook}") for hook in hooks)
    assert hasattr(backend, "prepare_metadata_for_build_wheel")
    assert not set(cpu) & set(backend.get_requires_for_build_sdist())


def test_wheels_are_named_by_release(build_version, monkeypatch):
    monkeypatch.delenv("TFCOMPRESS_CUDA", raising=False)
    assert build_version.dynamic_metadata("version", {}) == tfc.__version__
    with pytest.raises(ValueError, match="received name"):
        build_version.dynamic_metadata("name", {})


@pytest.mark.parametrize("wanted", ["ON", "AUTO"])
def test_wheels_with_gpu_kernels_are_named_by_cuda_too(
    build_version, monkeypatch, tmp_path, wanted
):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text('#!/bin/sh\necho "Cuda compilation tools, release 12.8, V12.8.93"\n')
    nvcc.chmod(nvcc.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("TFCOMPRESS_CUDA", wanted)
    monkeypatch.setenv("CUDACXX", str(nvcc))
    assert build_version.dynamic_metadata("version", {}) == f"{tfc.__version__}+cu128"
    monkeypatch.setenv("CUDACXX", "")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert build_version.dynamic_metadata("version", {}) == tfc.__version__


def test_supported_pythons_are_those_that_wheels_are_built_for():
    built = {
        f"{digits[0]}.{digits[1:]}"
        for digits in re.findall(r"cp(\d+)-", " ".join(PROJECT["tool"]["cibuildwheel"]["build"]))
    }
    prefix = "Programming Language :: Python :: 3."
    named = {
        each.rpartition(" ")[2] for each in PROJECT["project"]["classifiers"] if prefix in each
    }
    assert built == named == {"3.10", "3.11", "3.12", "3.13"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("script", [".ci/run", "cmake/install_nvcc.sh"])
def test_scripts_are_bash(script):
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


def test_nvcc_is_installed_on_request_only():
    environment = {"PATH": os.environ["PATH"]}
    script = str(ROOT / "cmake/install_nvcc.sh")
    done = subprocess.run(["bash", script], env=environment, capture_output=True, check=True)
    assert done.stdout == done.stderr == b""


class TestWheelFile:
    """tests/smoke/check_file.py refuses what is not a good wheel."""

    check = staticmethod(load(ROOT / "tests/smoke/check_file.py").check)

    @pytest.mark.parametrize(
        "name",
        [
            "tfcompress_ops-2.21.0-cp311-cp311-linux_x86_64.whl",
            "tfcompress_ops-0.1-cp311-cp311-manylinux_2_28_x86_64.whl",
            "other-2.21.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        ],
    )
    def test_name(self, name, tmp_path):
        (tmp_path / name).touch()
        with pytest.raises(AssertionError, match="is no repaired wheel"):
            self.check(tmp_path / name)

    def test_size(self, tmp_path):
        path = tmp_path / "tfcompress_ops-2.21.0-cp311-cp311-manylinux_2_28_x86_64.whl"
        with path.open("wb") as file:
            file.truncate(15_000_001)
        with pytest.raises(AssertionError, match="of 15"):
            self.check(path)
