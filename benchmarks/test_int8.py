"""int8 layers: the points and the cases of `tfcompress bench int8`."""

from collections.abc import Callable

import pytest

from tfcompress_ops.bench import machine
from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.chains import Workload
from tfcompress_ops.bench.int8 import INT8
from tfcompress_ops.bench.runner import Settings

WORKLOADS = list(Settings(threads=machine.available_cpus()).workloads())


def name(workload: Workload) -> str:
    shape = f"{workload.in_features}x{workload.out_features}"
    return f"{shape}-{workload.batch}-{workload.state}"


@pytest.mark.parametrize("case", INT8.cases(), ids=lambda case: case.name.replace(" ", "_"))
@pytest.mark.parametrize(
    "workload",
    [
        pytest.param(point, id=name(point), marks=pytest.mark.benchmark(group=name(point)))
        for point in WORKLOADS
    ],
)
def test_layer(run: Callable[[Case, Workload], None], case: Case, workload: Workload) -> None:
    run(case, workload)
