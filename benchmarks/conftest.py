"""Fixtures of the benchmark suites, and how to run them.

    pytest benchmarks                                  every case; an hour or so
    pytest benchmarks -k "sparse-1024x1024-16-hot"     one suite at one point of measurement
    pytest benchmarks -k "layers-Conv2D"               one kind of layer
    pytest benchmarks -k "models-MobileNetV2"          one model
    pytest benchmarks -k int8- --benchmark-save=before keep a run; then, after a change,
    pytest benchmarks -k int8- --benchmark-compare     look at both

The chains are those of `tfcompress bench`, and so are the cases, layers and models.
pytest-benchmark times one case after the other: use it to see what a change did to one case. Ratios
between cases are what `tfcompress bench` is for, which interleaves them.
"""

from collections.abc import Callable, Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tfcompress_ops.bench import machine
from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.chains import Chain, Workload, graph_kept, set_tensorflow_threads
from tfcompress_ops.bench.runner import Settings, build_chains, call_overhead_us


@pytest.fixture(scope="session")
def settings() -> Settings:
    threads = machine.available_cpus()
    set_tensorflow_threads(threads)
    return Settings(threads=threads, cache_bytes=machine.last_level_cache_bytes())


def time_layers(benchmark: BenchmarkFixture, chain: Chain, operations: int) -> None:
    """Times a chain, each layer of which has so many operations."""
    benchmark.extra_info.update(
        layers=chain.layers,
        distinct=chain.distinct,
        call_overhead_us=call_overhead_us(chain),
        operations=chain.layers * operations,
    )
    benchmark(chain.call)
    # None with --benchmark-disable.
    if benchmark.stats is not None:
        layer_us = 1e6 * benchmark.stats.stats.median / chain.layers
        benchmark.extra_info["us_per_layer"] = layer_us
        benchmark.extra_info["gops"] = operations / (1e3 * layer_us)


@pytest.fixture
def run(benchmark: BenchmarkFixture, settings: Settings) -> Iterator[Callable[..., None]]:
    """Times the chain of one case at one point; skips a case that is not installed."""

    def time_chain(case: Case, workload: Workload) -> None:
        if (command := case.missing()) is not None:
            pytest.skip(f"{case.name} is not installed: {command}")
        time_layers(
            benchmark, build_chains([case], workload, settings)[case.name], workload.operations
        )

    with graph_kept():
        yield time_chain
