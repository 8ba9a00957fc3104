"""The kernels on AArch64: cross-compiled, their C++ tests run under QEMU for every tier.

Skipped where Debian's g++-aarch64-linux-gnu or qemu-user-static is missing. That checks results
and machine code, not speed.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLCHAIN = ROOT / "cmake/aarch64-linux-gnu.cmake"
EMULATOR = ("qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu")
OBJDUMP = "aarch64-linux-gnu-objdump"
NEEDED = ("aarch64-linux-gnu-g++", OBJDUMP, EMULATOR[0], "cmake", "ninja")
MISSING = [tool for tool in NEEDED if shutil.which(tool) is None]
INSTALL = "install g++-aarch64-linux-gnu and qemu-user-static"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not found: {INSTALL}"),
]

SEED = 20_251
# The tiers that a CPU runs: Cortex-A72 has no dot products.
CPUS = {"cortex-a72": ["portable", "neon"], "max": ["portable", "neon", "dotprod"]}
# Random cases a tier.
CASES = {"int8_test": 100, "binary_test": 150, "sparse_test": 60}
# The innermost loops of these functions are where the time goes.
TILES = re.compile(
    r"(?:Integer|Direct|Decoded|Signs|Bytes|Tables|Columns)Tile<|MultiplyStepsApart<"
)
BRANCH = re.compile(r"(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+, #\d+,|b)\s+([0-9a-f]+) <")


def run(*command: str | Path, **environment: str) -> str:
    result = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{output[-4000:]}"
    return output


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aarch64")
    options = ("-DTFCOMPRESS_KERNELS_ONLY=ON", "-DCMAKE_CXX_FLAGS=-Werror")
    run(
        "cmake",
        "-S",
        ROOT,
        "-B",
        folder,
        "-G",
        "Ninja",
        f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAIN}",
        *options,
    )
    run("cmake", "--build", folder)
    return folder


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", CASES)
def test_kernels_of_every_tier(build: Path, name: str, cpu: str) -> None:
    program = build / "tests/csrc" / name
    output = run(*EMULATOR, "-cpu", cpu, program, str(CASES[name]), str(SEED))
    lines = output.splitlines()
    assert lines[1:] == [*(f"{tier}: 0 failures" for tier in CPUS[cpu]), "OK"], output


@pytest.mark.parametrize("name", ["parallel_test", "depthwise_test", "float_ops_test"])
def test_what_has_no_tiers(build: Path, name: str) -> None:
    assert run(*EMULATOR, build / "tests/csrc" / name).endswith("OK\n")


def objects(build: Path, *tiers: str) -> list[Path]:
    folder = build / "csrc/CMakeFiles/tfcompress_kernels.dir/formats"
    return sorted(path for tier in tiers for path in folder.glob(f"*/matmul_{tier}.cc.o"))


def test_a_tier_uses_its_own_instructions_only(build: Path) -> None:
    """A CPU without dot products must not meet one; and each tier's instructions are there."""
    for path in objects(build, "portable", "neon"):
        assert not re.search(r"\t[su]dot\t", run(OBJDUMP, "-d", path)), path
    for path in objects(build, "dotprod"):
        assert re.search(r"\t[su]dot\t", run(OBJDUMP, "-d", path)), path
    assert len(objects(build, "neon", "dotprod")) == 6


def test_instruction_set_files_share_no_code_with_others(build: Path) -> None:
    """An inline function compiled with dot products must not be what the linker picks for all."""
    for path in objects(build, "neon", "dotprod"):
        symbols = run("aarch64-linux-gnu-nm", "-C", path).splitlines()
        defined = [line.split(maxsplit=2)[1:] for line in symbols if not line.startswith(" ")]
        assert [name for kind, name in defined if kind in "wWvVu"] == [], path
        public = [name for kind, name in defined if kind == "T"]
        assert all(re.fullmatch(r"tfcompress::.*Kernels\(\)", name) for name in public), public


def innermost_loops(code: list[tuple[int, str]]) -> list[list[str]]:
    """Runs of instructions that end in a branch to their own beginning and hold no such run."""
    place = {address: i for i, (address, _) in enumerate(code)}
    loops = []
    for i, (_, instruction) in enumerate(code):
        branch = BRANCH.match(instruction)
        begin = place.get(int(branch[1], 16), i + 1) if branch else i + 1
        if begin <= i:
            loops.append((begin, i))
    inner = [
        (a, b) for a, b in loops if not any(a <= c and d <= b for c, d in loops if (c, d) != (a, b))
    ]
    return [[text for _, text in code[a : b + 1]] for a, b in inner]


def test_sums_stay_in_registers(build: Path) -> None:
    """No inner loop of a tile saves or reloads a vector register on the stack."""
    tiles = 0
    for path in objects(build, "neon", "dotprod"):
        functions: dict[str, list[tuple[int, str]]] = {}
        name = ""
        for line in run(OBJDUMP, "-dC", "--no-show-raw-insn", path).splitlines():
            if header := re.match(r"[0-9a-f]+ <(.*)>:$", line):
                name = header[1]
            elif instruction := re.match(r"\s+([0-9a-f]+):\s+(.*)$", line):
                functions.setdefault(name, []).append((int(instruction[1], 16), instruction[2]))
        for name, code in functions.items():
            if not TILES.search(name):
                continue
            tiles += 1
            for loop in innermost_loops(code):
                if any(text.startswith("ret") for text in loop):
                    continue  # code placed out of line: not a loop
                spills = [text for text in loop if re.match(r"(?:ldr|str|ldp|stp)\s+q.*\[sp", text)]
                assert not spills, f"{path.name}: {name}: {spills}"
    assert tiles >= 60


def test_unknown_tier_is_named_with_those_that_there_are(build: Path) -> None:
    source = build / "tier.cc"
    source.write_text(
        "#include <cstdio>\n"
        '#include "base/cpu.h"\n'
        "int main() {\n"
        "  std::string error;\n"
        "  const auto tier = static_cast<int>(tfcompress::ActiveTier(&error));\n"
        '  std::printf("%s;%s", tfcompress::kTierNames[tier], error.c_str());\n'
        "}\n"
    )
    program = build / "tier"
    library = build / "libtfcompress_kernels.a"
    run("aarch64-linux-gnu-g++", "-std=c++17", f"-I{ROOT / 'csrc'}", source, library, "-o", program)

    def tier(cap: str, cpu: str = "max") -> list[str]:
        return run(*EMULATOR, "-cpu", cpu, program, TFCOMPRESS_ISA=cap).split(";", 1)

    assert tier("") == ["dotprod", ""]
    assert tier("neon") == ["neon", ""]
    assert tier("portable") == ["portable", ""]
    assert tier("dotprod", "cortex-a72") == ["neon", ""]
    unknown, error = tier("avx2")
    assert unknown == "dotprod"
    assert "must be one of portable, neon, dotprod; received 'avx2'" in error
