"""Runs the GPU kernels' own source on the CPU, in the emulation of tests/cuda/cuda_emulation.h.

No GPU and no CUDA toolkit. What this shows: results, out-of-bounds accesses, missing barriers and
waits. What it cannot show: speed, and what nvcc makes of the source (test_machine_code.py).
"""

import json
import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

# Every barrier of these is left out in turn.
PROGRAMS = ("int8_cuda_test_80", "int8_cuda_test_75", "sparse_cuda_test_80", "binary_cuda_test_80")
# Other fragments in the same frames, and kernels without barriers.
OTHERS = (
    "binary_cuda_test_75",
    "binary_cuda_test_90",
    "sparse_cuda_test_75",
    "patches_cuda_test_80",
)
SEEDS = (20_251, 7)
LEAST_COVERAGE = 0.95

# An off-by-one in the source, as an editor would make it: program, file, text, replacement.
MUTATIONS = {
    "last row of a tile": (
        "int8_cuda_test_80",
        "base/cuda_panels_gemm.cuh",
        "row < x_rows_, c);",
        "row + 1 < x_rows_, c);",
    ),
    "last words of K": (
        "int8_cuda_test_80",
        "base/cuda_panels_gemm.cuh",
        "c * kWordsAtATime < words_left_,",
        "c * kWordsAtATime <= words_left_,",
    ),
    "last word of signs": (
        "binary_cuda_test_80",
        "formats/binary/gemv.cu",
        "const uint32_t mask = w == words - 1 ?",
        "const uint32_t mask = w == words ?",
    ),
    "last stage of signs": (
        "binary_cuda_test_80",
        "base/cuda_panels_gemm.cuh",
        "first_stage + s == all_stages - 1",
        "first_stage + s == all_stages",
    ),
    "last step of a panel": (
        "sparse_cuda_test_80",
        "formats/sparse/cuda.cu",
        "for (; step < steps.end; ++step)",
        "for (; step + 1 < steps.end; ++step)",
    ),
    "last step of a window": (
        "sparse_cuda_test_80",
        "formats/sparse/tensor.cu",
        "if (2 * pass + half_ >= count_) return;\n#pragma unroll",
        "if (2 * pass + half_ + 1 >= count_) return;\n#pragma unroll",
    ),
}


def run(*command: str, cwd: Path = ROOT, check: bool = True) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    output = result.stdout + result.stderr
    assert not check or result.returncode == 0, f"{' '.join(command)}\n{output[-4000:]}"
    return f"{output}\nexit status {result.returncode}"


class Build:
    """A copy of the source, so that it can be changed, and its programs."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self._folder = folder / "build"
        for name in ("csrc", "cmake", "tests/cuda", "tests/csrc"):
            shutil.copytree(ROOT / name, self.source / name)
        shutil.copy(ROOT / "CMakeLists.txt", self.source)
        run(
            *("cmake", "-S", str(self.source), "-B", str(self._folder), "-G", "Ninja"),
            *("-DTFCOMPRESS_KERNELS_ONLY=ON", "-DTFCOMPRESS_CXX_TESTS=OFF"),
            *("-DTFCOMPRESS_CUDA_EMULATION=ON", "-DCMAKE_CXX_FLAGS=-Werror"),
            "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
            "-DTFCOMPRESS_EMULATION_FLAGS=-fsanitize=address,undefined;"
            "-fno-sanitize-recover=all;--coverage",
        )
        self.programs = self._folder / "tests/cuda"
        self._compared: dict[str, list[str]] = {}
        self.make("all")

    def compare(self, program: str) -> list[str]:
        """What a program says of its seeds; it runs the first time that it is asked for."""
        if program not in self._compared:
            seeds = SEEDS if program in PROGRAMS else SEEDS[:1]
            command = str(self.programs / program)
            self._compared[program] = [run(command, "40", str(seed)) for seed in seeds]
        return self._compared[program]

    def make(self, target: str) -> None:
        run("cmake", "--build", str(self._folder), "--target", target)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("emulation"))


@pytest.mark.parametrize("program", [*PROGRAMS, *OTHERS])
def test_kernels_compute_what_the_cpu_computes(build: Build, program: str) -> None:
    for output in build.compare(program):
        assert "\nOK\n" in output, output


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_barrier_and_wait_is_needed(build: Build, program: str) -> None:
    """Each is left out in turn; wrong results or a report must follow."""
    output = run(str(build.programs / program), "faults")
    caught = output.count(": caught")
    assert "\nOK\n" in output, output
    assert caught >= 4, output


def test_coverage_of_the_kernels(build: Build) -> None:
    """Of the lines of the .cu and .cuh files, at least 95 % run as results are compared."""
    gcov = shutil.which("gcov")
    if gcov is None:
        pytest.skip("gcov is not installed")
    for program in (*PROGRAMS, *OTHERS):  # some may have run in another worker's build
        build.compare(program)
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for data in build.programs.rglob("*.gcda"):
        output = run(gcov, "--json-format", "--stdout", str(data), cwd=data.parent)
        for line in output.splitlines():
            if not line.startswith("{"):
                continue
            for file in json.loads(line)["files"]:
                name = os.path.normpath(os.path.join(data.parent, file["file"]))
                if name.endswith((".cu", ".cuh")) and "csrc" in name:
                    for entry in file["lines"]:
                        counts[name][entry["line_number"]] += entry["count"]
    assert len(counts) >= 5, sorted(counts)
    for name, lines in counts.items():
        missed = sorted(number for number, count in lines.items() if count == 0)
        share = 1 - len(missed) / len(lines)
        assert share >= LEAST_COVERAGE, f"{name}: {share:.1%} of its lines ran, not {missed}"


# After the coverage test, whose counts a changed source would spoil.
@pytest.mark.parametrize("name", MUTATIONS)
def test_an_off_by_one_is_caught(build: Build, name: str) -> None:
    program, path, text, replacement = MUTATIONS[name]
    source = build.source / "csrc" / path
    original = source.read_text()
    assert original.count(text) == 1, f"{text!r} is no longer in {path}"
    try:
        source.write_text(original.replace(text, replacement))
        build.make(program)
        output = run(str(build.programs / program), "10", "1", check=False)
        assert "exit status 0" not in output, output
    finally:
        source.write_text(original)
