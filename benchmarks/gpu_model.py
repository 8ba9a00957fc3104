"""A model of what the GPU kernels move and compute. It is no measurement.

    python -m benchmarks.gpu_model [--gpu T4 A100 ...] [--json]     with an in-place build
    python benchmarks/gpu_model.py                                 with an installed package

For each GPU and layer: the bytes that must pass through DRAM (weights once, activations and results
once, what kernels pass on to each other twice), the operations, and the time that the slower of
both takes at the peak figures of the data sheet. Beside it, the same for cuBLAS with float16 and
float32 weights on the same layer: the ratio is what compression could gain at best. Launches (2 to
4 us each), caches that hold a layer between two calls, and everything that keeps a kernel from its
bound are left out. Which kernel and tile runs is asked of the planner that the op itself asks.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tfcompress_ops._kernels import binary_gpu_plan, int8_gpu_plan, sparse_gpu_plan


@dataclass(frozen=True)
class Gpu:
    """Figures of NVIDIA's data sheets and architecture papers, dense, at boost clock.

    shared_bytes_per_cycle is what a multiprocessor reads from shared memory, 32 banks of 4 bytes.
    """

    name: str
    compute_capability: int
    multiprocessors: int
    shared_bytes_per_block: int
    clock_ghz: float
    dram_gb_s: float
    int8_tops: float
    float16_tflops: float
    float32_tflops: float
    shared_bytes_per_cycle: int = 128


GPUS = (
    Gpu("T4", 75, 40, 64 << 10, 1.59, 320, 130, 65, 8.1),
    Gpu("A100", 80, 108, 163 << 10, 1.41, 1555, 624, 312, 19.5),
    Gpu("L4", 89, 58, 99 << 10, 2.04, 300, 242, 121, 30.3),
    # mma.sync, which these kernels use, reaches about 62 % of what wgmma does: 1,979 and 989.
    Gpu("H100", 90, 132, 227 << 10, 1.83, 3350, 0.62 * 1979, 989, 66.9),
)
SHAPES = ((1024, 1024), (768, 3072), (4096, 4096))  # in_features x out_features
BATCHES = (1, 8, 16, 128, 4096)
# Pruned weights: the type of values, how far a step reaches, what share of weights is stored, and
# what share of the places of a step the packer fills (90 %: uniformly random zeros).
SPARSE = {
    "sparse float32 90 %": ("float32", 64, 0.1, 0.78),
    "sparse bfloat16 90 %": ("bfloat16", 64, 0.1, 0.73),
    "sparse int8 90 %": ("int8", 128, 0.1, 0.80),
    "sparse float32 2:4": ("float32", 64, 0.5, 1.0),
    "sparse int8 2:4": ("int8", 64, 0.5, 1.0),
}


@dataclass(frozen=True)
class Row:
    """One kernel on one layer. Times are bounds, in microseconds."""

    gpu: str
    layer: str
    batch: int
    format: str
    kernel: str
    megabytes: float
    ideal_share: float  # bytes that any implementation must move / bytes that this one does
    gigaoperations: float
    bound_us: float
    bound_by: str
    of_float16: float  # cuBLAS' bound / this bound
    of_float32: float


def bound(work: dict[str, float]) -> tuple[float, str]:
    """The longest of several times, which all overlap."""
    name = max(work, key=lambda key: work[key])
    return work[name], name


def dense_us(gpu: Gpu, m: int, k: int, n: int, element_bytes: int, tflops: float) -> float:
    moved = element_bytes * (k * n + m * k + m * n)
    return max(moved / (1e3 * gpu.dram_gb_s), 2e-6 * m * k * n / tflops)


def int8_row(gpu: Gpu, m: int, k: int, n: int) -> tuple[str, float, float, dict[str, float]]:
    plan = int8_gpu_plan(
        m, k, n, gpu.compute_capability, gpu.multiprocessors, gpu.shared_bytes_per_block
    )
    weights = -(-k // 4) * 4 * -(-n // 16) * 16 + 4 * n  # bytes, and scales
    ideal = weights + 4 * m * k + 4 * m * n
    # What kernels pass on: quantised rows and the sums of splits, written and read.
    moved = ideal + 2 * plan["workspace_bytes"]
    name = f"{plan['kernel']} {plan['rows']}x{plan['columns']}"
    if plan["splits"] > 1:
        name += f" /{plan['splits']}"
    operations = 2 * m * k * n
    # dp4a: four multiply-adds in one of 64 lanes; the tensor cores otherwise.
    lanes = gpu.multiprocessors * gpu.clock_ghz * 64 * 8 / 1e3
    tops = lanes if plan["kernel"] == "GEMV" else gpu.int8_tops
    work = {
        "DRAM": moved / (1e3 * gpu.dram_gb_s),
        "dp4a" if plan["kernel"] == "GEMV" else "tensor": 1e-6 * operations / tops,
    }
    return name, ideal, moved, work


def sparse_row(
    gpu: Gpu, m: int, k: int, n: int, values: str, reach: int, density: float, fill: float
) -> tuple[str, float, float, dict[str, float]]:
    entries = {"float32": 16, "bfloat16": 32, "int8": 64}[values]  # of a step: 64 bytes of values
    steps = round(k * n * density / fill / entries)
    plan = sparse_gpu_plan(
        *(m, k, n, steps, values, reach, True),
        *(gpu.compute_capability, gpu.multiprocessors, gpu.shared_bytes_per_block),
    )
    kernel = plan["kernel"]
    ideal = steps * (64 + entries + 2) + 4 * m * k + 4 * m * n
    moved = ideal + 2 * plan["workspace_bytes"]
    name = f"{kernel} {plan['rows']}x{plan['columns']}"
    if plan["splits"] > 1:
        name += f" /{plan['splits']}"
    places = steps * entries
    cycles = gpu.multiprocessors * gpu.clock_ghz * 1e3  # of all multiprocessors in a us
    blocks_of_rows = -(-m // plan["rows"])
    work = {"DRAM": moved / (1e3 * gpu.dram_gb_s)}
    if kernel == "tensor":
        # bf16 at half the rate of int8, tf32 at a quarter.
        work["tensor"] = 2e-6 * m * k * n / (gpu.int8_tops * entries / 64)
        # Of a stage, 64 bytes of K: warps read their rows and outputs; x, zeros and weights are
        # written, the last ones by stores of which 3 to 4 conflict.
        rows, columns = plan["rows"], plan["columns"]
        across, down = columns // plan["warp_columns"], rows // plan["warp_rows"]
        lines = 64 / 128 * (rows * across + columns * down + rows + columns)
        stages = blocks_of_rows * -(-n // columns) * -(-k // entries)
        wavefronts = stages * lines + places * blocks_of_rows * 3.5 / 32
        work["shared memory"] = wavefronts * 128 / gpu.shared_bytes_per_cycle / cycles
    elif kernel == "columns":
        # Two wavefronts for a place and 64 rows, beside eight instructions.
        work["shared memory"] = 2 * places * blocks_of_rows / cycles
    else:
        # Five instructions for a place, one for each row, a load for four; 4 x 32 lanes a cycle.
        work["issue"] = places * (5 + 1.25 * plan["rows"]) * blocks_of_rows / 128 / cycles
    return name, ideal, moved, work


def binary_row(
    gpu: Gpu, m: int, k: int, n: int, levels: str, activations: str
) -> tuple[str, float, float, dict[str, float]]:
    plan = binary_gpu_plan(
        *(m, k, n, levels, activations),
        *(gpu.compute_capability, gpu.multiprocessors, gpu.shared_bytes_per_block),
    )
    bits = 1 if levels == "binary" else 2
    words = -(-k * bits // 32) * -(-n // 16) * 16
    ideal = 4 * words + 4 * n + 4 * m * k + 4 * m * n
    moved = ideal + 2 * plan["workspace_bytes"]
    name = f"{plan['kernel']} {plan['rows']}x{plan['columns']}"
    if plan["splits"] > 1:
        name += f" /{plan['splits']}"
    # Lanes of all multiprocessors in a microsecond: 64 for integers and for float32 (128 of them
    # from 8.6 on, but for integers' share), 16 that count bits.
    lanes = gpu.multiprocessors * gpu.clock_ghz * 64e3
    work = {"DRAM": moved / (1e3 * gpu.dram_gb_s)}
    if activations == "float":
        # Two instructions decode a weight for all rows; a multiply-add for each.
        work["fp32"] = m * k * n / (1e6 * gpu.float32_tflops / 2)
        work["int32"] = k * n * (2 if plan["kernel"] == "GEMV" else 2 * -(-m // 64)) / lanes
    elif plan["kernel"] == "GEMM":
        # Bits are counted at eight times the rate of int8; on 9.0 one product in nine to seventeen
        # is by ones. Levels become bytes in registers.
        work["tensor"] = 2e-6 * m * k * n / gpu.int8_tops / (8 if plan["counts_bits"] else 1)
    elif activations == "binary":
        work["popc"] = m * words / (lanes / 4)
    else:
        # Four levels an instruction at best, and a dp4a for each row.
        work["dp4a"] = (k * n / 4) * (1 + m) / lanes
    return name, ideal, moved, work


def rows(gpus: tuple[Gpu, ...] = GPUS) -> Iterator[Row]:
    """Every GPU, layer, batch and format."""
    for gpu in gpus:
        for k, n in SHAPES:
            for m in BATCHES:
                half = dense_us(gpu, m, k, n, 2, gpu.float16_tflops)
                single = dense_us(gpu, m, k, n, 4, gpu.float32_tflops)
                for name, (kernel, ideal, moved, work) in {
                    "int8": int8_row(gpu, m, k, n),
                    **{name: sparse_row(gpu, m, k, n, *given) for name, given in SPARSE.items()},
                    "binary": binary_row(gpu, m, k, n, "binary", "binary"),
                    "binary, int8 x": binary_row(gpu, m, k, n, "binary", "int8"),
                    "binary, float x": binary_row(gpu, m, k, n, "binary", "float"),
                    "ternary, int8 x": binary_row(gpu, m, k, n, "ternary", "int8"),
                }.items():
                    time, by = bound(work)
                    yield Row(
                        gpu=gpu.name,
                        layer=f"{k}x{n}",
                        batch=m,
                        format=name,
                        kernel=kernel,
                        megabytes=moved / 1e6,
                        ideal_share=ideal / moved,
                        gigaoperations=2e-9 * m * k * n,
                        bound_us=time,
                        bound_by=by,
                        of_float16=half / time,
                        of_float32=single / time,
                    )


def table(found: list[Row]) -> str:
    lines = [
        "A model from data-sheet peaks, not a measurement: no launches, no caches.",
        "Operations are those of the dense layer. x fp16, x fp32: cuBLAS' bound over this one.",
        "",
        f"{'GPU':<5}{'layer':>11}{'batch':>6}  {'format':<20}{'kernel':<16}{'MB':>8}{'ideal':>7}"
        f"{'Gop':>9}{'bound us':>10}  {'bound by':<14}{'x fp16':>7}{'x fp32':>7}",
    ]
    lines += [
        f"{r.gpu:<5}{r.layer:>11}{r.batch:>6}  {r.format:<20}{r.kernel:<16}{r.megabytes:>8.2f}"
        f"{r.ideal_share:>7.0%}{r.gigaoperations:>9.3f}{r.bound_us:>10.2f}  {r.bound_by:<14}"
        f"{r.of_float16:>7.2f}{r.of_float32:>7.2f}"
        for r in found
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_model", description=__doc__.split("\n", 1)[0]
    )
    names = [gpu.name for gpu in GPUS]
    parser.add_argument("--gpu", nargs="+", choices=names, default=names)
    parser.add_argument("--json", action="store_true", help="one JSON list instead of a table")
    chosen: Any = parser.parse_args(arguments)
    found = list(rows(tuple(gpu for gpu in GPUS if gpu.name in chosen.gpu)))
    print(json.dumps([asdict(row) for row in found]) if chosen.json else table(found))


if __name__ == "__main__":
    main()
