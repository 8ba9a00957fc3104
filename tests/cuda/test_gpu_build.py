"""What a build with GPU kernels is: registered kernels, readable errors, refused options."""

import importlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPS = (
    *("Int8MatMul", "Int8Unpack", "SparseMatMul", "SparseUnpack", "SparseValuesGradient"),
    *("BinaryMatMul", "BinaryUnpack", "Patches", "PatchesGradient"),
)

MAIN = """
#include <cstdio>
#include "base/cuda_device.h"
int main() {
  std::string error;
  const tfcompress::CudaDevice* device = tfcompress::CurrentCudaDevice(&error);
  std::printf("%s\\n", device != nullptr ? "a device" : error.c_str());
}
"""


def test_registered_devices_are_those_of_the_build(
    run_python: Callable[..., object],
) -> None:
    """TensorFlow's registry: the CPU always, the GPU where the build has GPU kernels."""
    config = importlib.import_module("tfcompress_ops._build_config")
    devices = {"CPU"} if config.CUDA_VERSION is None else {"CPU", "GPU"}
    result = run_python(
        f"""
        import tfcompress_ops
        from tensorflow.python.framework import kernels
        for op in {OPS!r}:
            found = kernels.get_registered_kernels_for_op("Tfcompress>" + op).kernel
            assert {{k.device_type for k in found}} == {devices!r}, (op, found)
        print("ok")
        """
    )
    assert result.stdout.endswith("ok\n")  # type: ignore[attr-defined]


def configure(
    folder: Path, *options: str, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(shutil.which("cmake")), "-S", str(ROOT), "-B", str(folder), *options],
        env={**os.environ, "PATH": path or os.environ["PATH"], "CUDACXX": "", "CUDA_PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_unknown_option_is_refused(tmp_path: Path) -> None:
    result = configure(tmp_path, "-DTFCOMPRESS_CUDA=YES")
    assert result.returncode != 0
    assert "TFCOMPRESS_CUDA must be AUTO, ON or OFF; received YES" in " ".join(
        result.stderr.split()
    )


def test_missing_nvcc_is_named(tmp_path: Path) -> None:
    """ON insists, with the version needed and what to do; a path on which there is no nvcc."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("c++", "g++", "gcc", "ld", "as", "ar", "ranlib", "nm", "make", "ninja", "uname"):
        if (found := shutil.which(tool)) is not None:
            (tools / tool).symlink_to(found)
    result = configure(tmp_path / "build", "-DTFCOMPRESS_CUDA=ON", path=str(tools))
    said = " ".join(result.stderr.split())
    assert result.returncode != 0
    assert "TFCOMPRESS_CUDA=ON needs nvcc >= 12.4; none was found." in said, said
    assert "CMAKE_CUDA_COMPILER" in said


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.slow
def test_machine_without_a_driver_is_told_what_to_install(tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    (tmp_path / "main.cc").write_text(MAIN)
    subprocess.run(
        [
            *("nvcc", "-std=c++17", "-arch=sm_80", f"-I{ROOT / 'csrc'}"),
            '-DTFCOMPRESS_CUDA_ARCHS="80"',
            *(str(ROOT / "csrc/base/cuda_device.cu"), str(tmp_path / "main.cc")),
            *("-o", str(tmp_path / "main")),
        ],
        check=True,
        capture_output=True,
    )
    said = subprocess.run(
        [str(tmp_path / "main")], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("there is no NVIDIA driver; "), said
    assert "this copy of tfcompress_ops is built with CUDA " in said
    assert "for compute capabilities 80 and later" in said
    assert "needs NVIDIA driver 5" in said
    assert "tf.device('CPU:0')" in said
