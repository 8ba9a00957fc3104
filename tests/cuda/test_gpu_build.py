"""What a build with GPU kernels is: registered kernels, readable errors, refused options."""

import importlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPS = ("Int8MatMul", "Int8Unpack", "SparseMatMul", "SparseUnpack", "SparseValuesGradient")

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


def configure(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *options],
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


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
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
