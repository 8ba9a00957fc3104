"""The traffic model of the GPU kernels."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

# benchmarks/ is no part of the package, and the source tree is not on the path of the tests.
_spec = importlib.util.spec_from_file_location(
    "gpu_model", Path(__file__).resolve().parents[2] / "benchmarks/gpu_model.py"
)
assert _spec is not None
assert _spec.loader is not None
gpu_model = importlib.util.module_from_spec(_spec)
sys.modules["gpu_model"] = gpu_model
_spec.loader.exec_module(gpu_model)


def find(rows: list[Any], **wanted: object) -> Any:
    matching = [r for r in rows if all(getattr(r, key) == v for key, v in wanted.items())]
    assert len(matching) == 1, matching
    return matching[0]


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    return list(gpu_model.rows())


def test_every_gpu_layer_batch_and_format_once(rows: list[Any]) -> None:
    expected = len(gpu_model.GPUS) * len(gpu_model.SHAPES) * len(gpu_model.BATCHES) * 10
    assert len({(r.gpu, r.layer, r.batch, r.format) for r in rows}) == len(rows) == expected


def test_int8_at_batch_1_moves_little_more_than_its_weights(rows: list[Any]) -> None:
    row = find(rows, gpu="A100", layer="4096x4096", batch=1, format="int8")
    assert row.kernel.startswith("GEMV 1x")
    assert row.bound_by == "DRAM"
    # By hand: 4096 * 4096 bytes, 4,096 scales, x and y of 4,096 floats, at 1,555 GB/s.
    assert row.megabytes == pytest.approx((4096 * 4096 + 3 * 4 * 4096) / 1e6, rel=1e-3)
    assert row.bound_us == pytest.approx(10.82, rel=1e-3)
    assert row.ideal_share >= 0.9
    assert row.of_float32 == pytest.approx(4, rel=0.01)


def test_large_batches_are_bound_by_tensor_cores(rows: list[Any]) -> None:
    # Not the L4, whose DRAM float32 activations of this layer keep busy for longer.
    for gpu in ("A100", "T4", "H100"):
        row = find(rows, gpu=gpu, layer="4096x4096", batch=4096, format="int8")
        assert row.kernel.startswith("GEMM 128x")
        assert row.bound_by == "tensor"
    a100 = find(rows, gpu="A100", layer="4096x4096", batch=4096, format="int8")
    assert a100.bound_us == pytest.approx(2e-6 * 4096**3 / 624, rel=1e-3)


def test_binary_weights_move_a_32nd_of_float32(rows: list[Any]) -> None:
    row = find(rows, gpu="A100", layer="4096x4096", batch=1, format="binary")
    assert row.kernel.startswith("GEMV 1x")
    assert row.bound_by == "DRAM"
    # By hand: 4096 * 4096 bits, 4,096 scales, x and y of 4,096 floats, at 1,555 GB/s.
    assert row.megabytes == pytest.approx((4096 * 4096 / 8 + 3 * 4 * 4096) / 1e6, rel=1e-3)
    assert row.bound_us == pytest.approx(1.38, rel=0.01)
    assert row.of_float32 > 30


def test_pruned_weights_are_multiplied_where_that_ends_first(rows: list[Any]) -> None:
    def of(gpu: str, batch: int, values: str) -> Any:
        return find(rows, gpu=gpu, layer="4096x4096", batch=batch, format=f"sparse {values}")

    assert of("A100", 1, "float32 90 %").kernel.startswith("gather")
    assert of("A100", 1, "float32 90 %").bound_by == "DRAM"
    for values in ("float32 90 %", "bfloat16 90 %", "int8 90 %", "float32 2:4"):
        row = of("A100", 4096, values)
        assert row.kernel.startswith("tensor 256x64"), row
        assert row.bound_by == "tensor", row
    # By hand: 2 * 4096^3 operations at a quarter of 624 TOPS.
    a100 = of("A100", 4096, "float32 2:4")
    assert a100.bound_us == pytest.approx(2e-6 * 4096**3 / 156, rel=1e-3)
    # Tensor cores of 7.5 know no bf16 and no tf32, but int8.
    assert of("T4", 4096, "float32 90 %").kernel.startswith("columns")
    assert of("T4", 4096, "int8 90 %").kernel.startswith("tensor")


def test_a_few_rows_are_counted_with_what_kernels_pass_on(rows: list[Any]) -> None:
    row = find(rows, gpu="A100", layer="4096x4096", batch=16, format="int8")
    assert " /" in row.kernel  # K is split: sums are written and read again
    assert row.ideal_share < 1


def test_table_says_that_it_is_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    gpu_model.main(["--gpu", "T4"])
    text = capsys.readouterr().out
    assert text.startswith("A model from data-sheet peaks, not a measurement")
    assert text.count("\nT4 ") == len(gpu_model.SHAPES) * len(gpu_model.BATCHES) * 10
    gpu_model.main(["--json"])
    assert len(json.loads(capsys.readouterr().out)) == len(list(gpu_model.rows()))
