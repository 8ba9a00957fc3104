"""Layers on a real GPU, beside tf.matmul and the bound that benchmarks.gpu_model gives.

Skipped without a GPU or without GPU kernels in this build. A graph holds many layers in a row, so
that a call of it hardly counts; a scalar that depends on all of them is fetched: it waits for the
end.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import gpu_model
import numpy as np
import pytest
import tensorflow as tf
from pytest_benchmark.fixture import BenchmarkFixture

import tfcompress_ops as tfc

LAYERS = 20
FORMATS: dict[str, Callable[[], Any]] = {
    "int8": tfc.Int8,
    "sparse float32 90 %": lambda: tfc.Sparse(sparsity=0.9),
    "sparse bfloat16 90 %": lambda: tfc.Sparse(sparsity=0.9, values="bfloat16"),
    "sparse int8 90 %": lambda: tfc.Sparse(sparsity=0.9, values="int8"),
    "sparse float32 2:4": lambda: tfc.Sparse(pattern="2:4"),
    "sparse int8 2:4": lambda: tfc.Sparse(pattern="2:4", values="int8"),
    "binary": lambda: tfc.Binary(activations="binary"),
    "binary, int8 x": lambda: tfc.Binary(activations="int8"),
    "binary, float x": tfc.Binary,
    "ternary, int8 x": lambda: tfc.Ternary(activations="int8"),
    "tf.matmul float32": lambda: None,
    "tf.matmul float16": lambda: None,
}

_measured: list[str] = []


def gpu_name() -> str:
    """The model's name of the first GPU; skips where nothing can be measured."""
    config = importlib.import_module("tfcompress_ops._build_config")
    if config.CUDA_VERSION is None:
        pytest.skip("this build has no GPU kernels: see docs/gpu.md")
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        pytest.skip("TensorFlow finds no GPU")
    name = str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", ""))
    known = [gpu.name for gpu in gpu_model.GPUS if gpu.name in name]
    return known[0] if known else name


@pytest.fixture(scope="module", autouse=True)
def print_table() -> Iterator[None]:
    yield
    if _measured:
        print("\n" + "\n".join(_measured))


def product(name: str, k: int, n: int) -> Callable[[tf.Tensor], tf.Tensor]:
    random = np.random.default_rng(k + n)
    weights = random.standard_normal((k, n), dtype=np.float32)
    layer_format = FORMATS[name]()
    if layer_format is None:
        dtype = tf.float16 if name.endswith("float16") else tf.float32
        dense = tf.constant(weights, dtype)
        return lambda x: tf.cast(tf.matmul(tf.cast(x, dtype), dense), tf.float32)
    arrays = {key: tf.constant(value) for key, value in layer_format.pack(weights).items()}
    return lambda x: layer_format.matmul(x, arrays)


@pytest.mark.parametrize("batch", gpu_model.BATCHES)
@pytest.mark.parametrize("shape", gpu_model.SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("name", FORMATS)
def test_layer_on_gpu(
    benchmark: BenchmarkFixture, name: str, shape: tuple[int, int], batch: int
) -> None:
    gpu = gpu_name()
    k, n = shape
    benchmark.group = f"{k}x{n}-{batch}"
    with tf.device("GPU:0"):
        layer = product(name, k, n)
        x = tf.random.normal((batch, k))

        @tf.function
        def chain() -> tf.Tensor:
            total = tf.zeros(())
            for i in range(LAYERS):
                # Each layer's input depends on the one before: no two run side by side.
                total += layer(x + tf.cast(i, tf.float32) + 0.0 * total)[0, 0]
            return total

        benchmark(lambda: chain().numpy())
    if benchmark.stats is None:  # --benchmark-disable
        return
    layer_us = 1e6 * benchmark.stats.stats.median / LAYERS
    benchmark.extra_info["us_per_layer"] = layer_us
    bounds = {(row.gpu, row.layer, row.batch, row.format): row.bound_us for row in gpu_model.rows()}
    bound = bounds.get((gpu, f"{k}x{n}", batch, name))
    beside = "" if bound is None else f"  bound {bound:9.2f} us ({bound / layer_us:4.0%} of it)"
    _measured.append(f"{gpu:<8}{k}x{n:<8}{batch:>6}  {name:<20}{layer_us:10.2f} us{beside}")
