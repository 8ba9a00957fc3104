"""What `tfcompress bench layers` times: every kind of layer, plain and in each format."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from conftest import time_layers
from pytest_benchmark.fixture import BenchmarkFixture

from tfcompress_ops.bench import layers
from tfcompress_ops.bench.all_formats import ALL_FORMATS
from tfcompress_ops.bench.chains import graph_kept
from tfcompress_ops.bench.layers import KERAS, KERAS_INT8, KINDS, Layer, LayerKind, LayerSettings
from tfcompress_ops.bench.runner import Settings, lengthened

SETTINGS = LayerSettings()
CASES = [KERAS, *(ALL_FORMATS.variants[name].name for name in SETTINGS.variants), KERAS_INT8]


@cache
def built(kind: str, shape: tuple[int, int]) -> Layer:
    return layers.build_layer(KINDS[kind], shape, SETTINGS.variants)


def points() -> Iterator[Any]:
    for kind, shape, batch in SETTINGS.points():
        group = f"layers-{kind.name}-{shape[0]}x{shape[1]}-{batch}"
        for case in CASES:
            yield pytest.param(
                kind,
                shape,
                batch,
                case,
                id=f"{group}-{case.replace(' ', '_')}",
                marks=pytest.mark.benchmark(group=group),
            )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("kind", "shape", "batch", "case"), list(points()))
def test_layer(
    benchmark: BenchmarkFixture,
    settings: Settings,
    kind: LayerKind,
    shape: tuple[int, int],
    batch: int,
    case: str,
) -> None:
    layer = built(kind.name, shape)
    if case not in layer.cases:
        pytest.skip(f"{kind.name} has no such form: {case}")
    inputs = kind.example(shape[0], batch)
    with graph_kept():
        chain = lengthened(layers.layer_chain(layer.cases[case].model, inputs), SETTINGS.max_layers)
        time_layers(benchmark, chain, batch * kind.operations(*shape))
