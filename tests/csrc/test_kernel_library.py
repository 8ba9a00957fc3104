"""Builds the C++ kernel library in the ways that no wheel does, and runs its own tests."""

import platform
import re
import subprocess
from pathlib import Path

import pytest
import simde_py

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

CASES = 300
# Packed matrices whose bytes are changed at random, in each run under AddressSanitizer.
MUTATIONS = 100_000
SEED = 20_251
# What an instruction-set file gives to others: its table of kernels, or its only function.
PUBLIC = r"tfcompress::.*(Kernels\(\)|(Rows|Range)Avx\w+\(.*\))"


def run(*command: str, cwd: Path = ROOT) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    output = result.stdout + result.stderr
    assert result.returncode == 0, f"{' '.join(command)}\n{output[-4000:]}"
    return output


def build(folder: Path, *options: str, target: str = "all") -> str:
    run(
        *("cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"),
        *("-DTFCOMPRESS_KERNELS_ONLY=ON", "-DCMAKE_CXX_FLAGS=-Werror", *options),
    )
    return run("cmake", "--build", str(folder), "--target", target)


def run_test(folder: Path, name: str, *arguments: object) -> str:
    output = run(str(folder / "tests/csrc" / name), *map(str, arguments))
    assert output.endswith("OK\n")
    return output


def test_kernels_stay_inside_their_memory(tmp_path: Path) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer; malformed sparse matrices too."""
    build(tmp_path, "-DTFCOMPRESS_SANITIZE=address,undefined", "-DCMAKE_CXX_FLAGS_RELEASE=-O1")
    run_test(tmp_path, "int8_test", CASES, SEED)
    run_test(tmp_path, "depthwise_test", CASES, SEED)
    run_test(tmp_path, "float_ops_test", CASES, SEED)
    # Packed bits are random, so that every case is one of a malformed matrix.
    run_test(tmp_path, "binary_test", 4 * CASES, SEED)
    run_test(tmp_path, "sparse_test", CASES, SEED)
    run_test(tmp_path, "sparse_test", "fuzz", MUTATIONS, SEED)
    run_test(tmp_path, "parallel_test")


def test_kernels_have_no_data_races(tmp_path: Path) -> None:
    build(tmp_path, "-DTFCOMPRESS_SANITIZE=thread", "-DCMAKE_CXX_FLAGS_RELEASE=-O1")
    run_test(tmp_path, "int8_test", CASES, SEED)
    run_test(tmp_path, "binary_test", CASES, SEED)
    # One thread is slow under ThreadSanitizer; the cases with several are a tenth of these.
    run_test(tmp_path, "sparse_test", CASES // 3, SEED)
    run_test(tmp_path, "float_ops_test", CASES // 10, SEED)
    run_test(tmp_path, "parallel_test")


x86_64 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the instruction-set tiers are those of x86-64"
)


@x86_64
def test_avx512_source_on_any_machine(tmp_path: Path) -> None:
    """The AVX-512 files, compiled against SIMDe, compute what plain loops compute."""
    # -O1: emulated intrinsics inside unrolled tiles take minutes to optimise fully.
    build(
        tmp_path,
        f"-DTFCOMPRESS_SIMDE={simde_py.get_include()}",
        *("-DCMAKE_CXX_FLAGS_RELEASE=-O1", "-DCMAKE_CXX_FLAGS=-Werror -Wno-psabi"),
    )
    run_test(tmp_path, "depthwise_test", CASES, SEED)
    run_test(tmp_path, "float_ops_test", CASES, SEED)
    for name, tiers in (
        ("int8_test", ("avx512", "avx512vnni")),
        ("binary_test", ("avx512", "avx512vnni", "avx512vbmi")),
        ("sparse_test", ("avx512", "avx512vbmi", "avx512bf16")),
    ):
        output = run_test(tmp_path, name, CASES, SEED)
        for tier in tiers:
            assert f"{tier}: 0 failures" in output


@x86_64
def test_instruction_set_files_share_no_code_with_others(tmp_path: Path) -> None:
    """An inline function compiled with AVX-512 must not be what the linker picks for everybody."""
    build(tmp_path, target="tfcompress_kernels")
    objects = sorted(tmp_path.glob("csrc/CMakeFiles/tfcompress_kernels.dir/**/*_avx*.o"))
    assert len(objects) >= 3
    for path in objects:
        symbols = run("nm", "-C", str(path)).splitlines()
        defined = [line.split(maxsplit=2)[1:] for line in symbols if not line.startswith(" ")]
        weak = [name for kind, name in defined if kind in "wWvVu"]
        assert weak == [], f"{path.name}: weak symbols {weak}"
        public = [name for kind, name in defined if kind == "T"]
        assert all(re.fullmatch(PUBLIC, name) for name in public), public


def test_nothing_is_built_for_the_building_machine_only() -> None:
    files = [ROOT / "CMakeLists.txt", ROOT / "pyproject.toml", *ROOT.glob("csrc/**/*")]
    for path in files:
        if path.is_file():
            assert "march=native" not in path.read_text(), path
