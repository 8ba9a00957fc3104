"""What nvcc makes of the GPU kernels: skipped where nvcc or NVIDIA's disassembler is missing.

The disassembler comes from PyPI: nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm. Architectures are
those of TFCOMPRESS_TEST_CUDA_ARCHS, for instance "75 80 86 89 90 100 120" (default: 80, in 15 s).
"""

import os
import re
import shutil
import subprocess
import sysconfig
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "base/depthwise",
    "base/patches",
    "base/quantize_rows",
    "formats/binary/cuda",
    "formats/binary/float_gemm",
    "formats/binary/gemm",
    "formats/binary/gemv",
    "formats/int8/cuda",
    "formats/int8/float_gemm",
    "formats/int8/gemm",
    "formats/int8/gemv",
    "formats/int8/lookup",
    "formats/sparse/cuda",
    "formats/sparse/tensor",
)
ARCHS = tuple(os.environ.get("TFCOMPRESS_TEST_CUDA_ARCHS", "80").split())
# Instructions that multiply on tensor cores, or bring what is multiplied.
FEEDING = ("IMMA", "BMMA", "LDS", "LDSM", "LDGSTS", "LDG", "STS")
WEIGHTS = r"LDG\..*NA\.128"  # streamed past L1, which x is loaded through
REGISTERS = 65_536  # of a multiprocessor, on every architecture

nvcc = shutil.which("nvcc")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(nvcc is None, reason="nvcc is not installed"),
]


@dataclass(frozen=True)
class Cubin:
    path: Path
    log: str  # of ptxas -v


def compile_source(source: str, arch: str, folder: Path) -> Cubin:
    path = folder / f"{source.replace('/', '_')}_{arch}.cubin"
    command = [str(nvcc), "-std=c++17", "-O3", "-fmad=false", f"-I{ROOT / 'csrc'}"]
    command += [f"-arch=sm_{arch}", "-cubin", "-Xptxas=-v", "-Werror=all-warnings"]
    command += [str(ROOT / "csrc" / f"{source}.cu"), "-o", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    return Cubin(path, result.stderr)


@pytest.fixture(scope="module", params=ARCHS)
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def cubins(arch: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cubin]:
    """Every source, compiled without warnings."""
    folder = tmp_path_factory.mktemp(f"sm_{arch}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = pool.map(lambda source: compile_source(source, arch, folder), SOURCES)
        return dict(zip(SOURCES, compiled, strict=True))


def test_nothing_spills(cubins: dict[str, Cubin]) -> None:
    for source, cubin in cubins.items():
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", cubin.log)
        assert spills, cubin.log
        assert set(spills) == {("0", "0")}, f"{source}: {cubin.log}"


def kernels_and_registers(log: str) -> Iterator[tuple[str, int]]:
    for name, rest in re.findall(r"Compiling entry function '(\w+)'(.*?)Compile time", log, re.S):
        yield name, int(re.findall(r"Used (\d+) registers", rest)[0])


def gemm_tiles(header: str, table: str) -> list[tuple[int, int]]:
    """Threads, and blocks of a multiprocessor, that a tile table claims."""
    text = (ROOT / "csrc" / header).read_text()
    text = text[text.index(f"{table}[] = {{") :]
    rows = re.findall(
        r"^    \{(\d+), (\d+), (\d+), (\d+), (\d+), (\d+), \"", text[: text.index("};")], re.M
    )
    tiles = [tuple(map(int, row)) for row in rows]
    return [(r // wr * (c // wc) * 32, blocks) for r, c, wr, wc, _, blocks in tiles]


@pytest.mark.parametrize(
    ("source", "kernel", "header", "table"),
    [
        ("formats/int8/gemm", r"\dGemmKernelILi(\d+)E", "formats/int8/cuda.h", "kGemmTiles"),
        (
            *("formats/binary/gemm", r"SignsGemmKernelILi(\d+)E"),
            *("formats/binary/cuda.h", "kSignsTiles"),
        ),
        (
            *("formats/binary/gemm", r"BytesGemmKernelILNS0_6LevelsE0ELi(\d+)E"),
            *("formats/binary/cuda.h", "kBytesTiles"),
        ),
        (
            *("formats/binary/gemm", r"BytesGemmKernelILNS0_6LevelsE1ELi(\d+)E"),
            *("formats/binary/cuda.h", "kBytesTiles"),
        ),
        *(
            (
                *("formats/sparse/tensor", rf"TensorKernelILNS0_6ValuesE{values}ELi(\d+)E"),
                *("formats/sparse/cuda.h", "kTensorTiles"),
            )
            for values in range(3)
        ),
    ],
    ids=["int8", "signs", "binary", "ternary", "sparse float32", "sparse bfloat16", "sparse int8"],
)
def test_registers_allow_what_the_tile_table_claims(
    cubins: dict[str, Cubin], source: str, kernel: str, header: str, table: str
) -> None:
    tiles = gemm_tiles(header, table)
    registers = {
        int(match[1]): used
        for name, used in kernels_and_registers(cubins[source].log)
        if (match := re.search(kernel, name))
    }
    assert len(registers) == len(tiles) > 0
    for tile, (threads, blocks) in enumerate(tiles):
        # Registers are handed out to warps by 8 for a thread.
        assert (registers[tile] + 7) // 8 * 8 * threads * blocks <= REGISTERS, (tile, registers)


def disassembler() -> str | None:
    """cuobjdump, from the PATH or from NVIDIA's packages; nvdisasm must be beside it."""
    found = shutil.which("cuobjdump")
    if found is not None:
        return found
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    return next((str(path) for path in packages.glob("**/bin/cuobjdump")), None)


@pytest.fixture(scope="module")
def machine_code(cubins: dict[str, Cubin]) -> dict[str, dict[str, list[tuple[int, str]]]]:
    """Of each source, of each kernel: addresses and instructions."""
    cuobjdump = disassembler()
    if cuobjdump is None:
        pytest.skip("nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm are not installed")
    path = os.pathsep.join([str(Path(cuobjdump).parent), os.environ["PATH"]])
    code: dict[str, dict[str, list[tuple[int, str]]]] = {}
    for source, cubin in cubins.items():
        text = subprocess.run(
            [cuobjdump, "-sass", str(cubin.path)],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        functions = re.split(r"Function : ", text)[1:]
        code[source] = {
            function.split()[0]: [
                (int(address, 16), instruction.strip())
                for address, instruction in re.findall(
                    r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", function, re.M
                )
            ]
            for function in functions
        }
    return code


def operation(instruction: str) -> str:
    return re.sub(r"^@!?U?P\w+ ", "", instruction).split()[0]


def innermost_loop(code: list[tuple[int, str]], containing: str) -> list[str]:
    """The shortest loop with an instruction of this pattern, by its backward branch."""
    loops = []
    for address, instruction in code:
        branch = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", instruction)
        if branch and (start := int(branch[1], 16)) < address:
            body = [operation(text) for at, text in code if start <= at <= address]
            if any(re.match(containing, op) for op in body):
                loops.append(body)
    assert loops, f"no loop with {containing}"
    return min(loops, key=len)


def outer_loop(code: list[tuple[int, str]], containing: str) -> list[str]:
    """The shortest loop around all instructions of this pattern."""
    matching = [at for at, text in code if re.match(containing, operation(text))]
    loops = []
    for address, instruction in code:
        branch = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", instruction)
        if branch and (start := int(branch[1], 16)) <= matching[0] and address >= matching[-1]:
            loops.append([operation(text) for at, text in code if start <= at <= address])
    assert loops, f"no loop with {containing}"
    return min(loops, key=len)


def test_gemm_feeds_tensor_cores(
    machine_code: dict[str, dict[str, list[tuple[int, str]]]], arch: str
) -> None:
    """The large tiles: at least 6 of 10 instructions multiply or load what is multiplied."""
    kernels = machine_code["formats/int8/gemm"]
    for tile in (3, 4):
        name = next(name for name in kernels if f"GemmKernelILi{tile}E" in name)
        loop = [op for op in innermost_loop(kernels[name], "IMMA") if op != "NOP"]
        counts = Counter(op.split(".")[0] for op in loop)
        # A warp's 64 x 64 x 64: 64 of mma.m16n8k32, or four times as many of Turing's m8n8k16.
        assert counts["IMMA"] == (64 if int(arch) >= 80 else 256), counts
        feeding = sum(counts[op] for op in FEEDING)
        least = 0.6 if (tile, arch) != (3, "90") else 0.58
        assert feeding / len(loop) >= least, f"tile {tile}: {feeding} of {len(loop)}, {counts}"


def test_gemv_multiplies_bytes_and_loads_16(
    machine_code: dict[str, dict[str, list[tuple[int, str]]]],
) -> None:
    kernels = machine_code["formats/int8/gemv"]
    integer = {name: code for name, code in kernels.items() if "IntegerGemv" in name}
    assert len(integer) == 8
    for name, code in integer.items():
        loop = innermost_loop(code, "IDP")
        rows = int(re.findall(r"KernelILi(\d)E", name)[0])
        batch = 2 if rows == 8 else 4
        assert sum(op.startswith("IDP.4A") for op in loop) == 4 * rows * batch, name
        loads = [op for op in loop if op.startswith("LDG")]
        assert len(loads) == batch, (name, loads)
        assert all(".128" in op for op in loads), (name, loads)


def test_signs_are_counted_by_tensor_cores(
    machine_code: dict[str, dict[str, list[tuple[int, str]]]], arch: str
) -> None:
    """1-bit products: those bits that differ up to 8.9, those set in both on 9.0, none later."""
    kernels = machine_code["formats/binary/gemm"]
    signs = {name: code for name, code in kernels.items() if "SignsGemmKernel" in name}
    assert len(signs) == 3
    for name, code in signs.items():
        if int(arch) >= 100:  # the launcher takes the kernels for bytes
            assert len(code) < 50, name
            continue
        loop = [op for op in innermost_loop(code, "BMMA") if op != "NOP"]
        products = [op for op in loop if op.startswith("BMMA")]
        assert all((".AND." if arch == "90" else ".XOR.") in op for op in products), products[:3]
        if "ILi2E" in name:
            # A warp's 64 x 64 x 512: 64 of mma.m16n8k256, an eighth more where ones are counted
            # too, or four times as many of Turing's m8n8k128.
            assert len(products) == {"75": 256, "90": 72}.get(arch, 64), len(products)
            feeding = sum(op.split(".")[0] in FEEDING for op in loop)
            # What clears the bits beyond K of the last word, once, is in the loop and counted.
            assert feeding / len(loop) >= 0.48, Counter(op.split(".")[0] for op in loop)


def test_levels_reach_tensor_cores_by_two_instructions(
    machine_code: dict[str, dict[str, list[tuple[int, str]]]], arch: str
) -> None:
    kernels = machine_code["formats/binary/gemm"]
    for levels in (0, 1):
        name = next(n for n in kernels if f"BytesGemmKernelILNS0_6LevelsE{levels}ELi2E" in n)
        loop = [op for op in innermost_loop(kernels[name], "IMMA") if op != "NOP"]
        counts = Counter(op.split(".")[0] for op in loop)
        assert counts["IMMA"] == (64 if int(arch) >= 80 else 256), counts
        # 64 words of four levels, a shift and a mask each, beside addresses.
        assert counts["SHF"] + counts["LOP3"] <= 64 + 40, counts
        feeding = sum(counts[op] for op in (*FEEDING, "SHF", "LOP3"))
        assert feeding / len(loop) >= 0.6, f"{feeding} of {len(loop)}, {counts}"


def test_binary_gemv_counts_bits_or_multiplies_bytes(
    machine_code: dict[str, dict[str, list[tuple[int, str]]]],
) -> None:
    kernels = machine_code["formats/binary/gemv"]
    signs = {name: code for name, code in kernels.items() if "SignsGemv" in name}
    levels = {name: code for name, code in kernels.items() if "BytesGemv" in name}
    assert (len(signs), len(levels)) == (4, 8)
    for name, code in signs.items():
        rows = int(re.findall(r"KernelILi(\d)E", name)[0])
        loop = innermost_loop(code, WEIGHTS)
        assert loop.count("POPC") == 4 * rows * (2 if rows == 8 else 4), (name, Counter(loop))
    for name, code in levels.items():
        rows = int(re.findall(r"ELi(\d)E", name)[0])
        fields = 8 if "LevelsE0E" in name else 4
        loop = innermost_loop(code, WEIGHTS)
        products = sum(op.startswith("IDP.4A") for op in loop)
        assert products == 4 * rows * fields * (2 if rows == 8 else 4), (name, products)


def test_sparse_loads_values_by_16_bytes(
    machine_code: dict[str, dict[str, list[tuple[int, str]]]],
) -> None:
    kernels = machine_code["formats/sparse/cuda"]
    for name, code in kernels.items():
        if "GatherKernel" in name or "ColumnsKernel" in name:
            assert any(".128" in operation(text) and "LDG" in text for _, text in code), name


def test_sparse_weights_reach_tensor_cores(
    machine_code: dict[str, dict[str, list[tuple[int, str]]]], arch: str
) -> None:
    """The large tile: a warp's 64 x 64 and 64 bytes of K in each stage, by the type of values."""
    kernels = machine_code["formats/sparse/tensor"]
    for values, product in ((0, r"HMMA.*TF32"), (1, r"HMMA.*BF16"), (2, r"IMMA.*S8\.S8")):
        name = next(n for n in kernels if f"TensorKernelILNS0_6ValuesE{values}ELi3E" in n)
        if values < 2 and int(arch) < 80:  # the launcher takes float32 multiply-adds
            assert len(kernels[name]) < 50, name
            continue
        loop = [op for op in outer_loop(kernels[name], product) if op != "NOP"]
        products = sum(bool(re.match(product, op)) for op in loop)
        # 64 of mma.m16n8k8, k16 or k32, or four times as many of Turing's m8n8k16.
        assert products == (64 if int(arch) >= 80 else 256), (name, products)
        counts = Counter(op.split(".")[0] for op in loop)
        assert counts["LDSM"] == 16, (name, counts)
        # What expands steps beyond the eighth of a window stands in the loop too, and seldom runs.
        assert products + counts["LDSM"] >= 0.12 * len(loop), (name, len(loop), counts)


def test_no_local_memory(
    machine_code: dict[str, dict[str, list[tuple[int, str]]]],
) -> None:
    for kernels in machine_code.values():
        for name, code in kernels.items():
            local = [text for _, text in code if operation(text).split(".")[0] in ("LDL", "STL")]
            assert local == [], f"{name}: {local[:3]}"
