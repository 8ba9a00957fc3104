"""Every suite of `tfcompress bench`: all its cases at all its points."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tfcompress_ops.bench import machine
from tfcompress_ops.bench.all_formats import ALL_FORMATS
from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.chains import Workload
from tfcompress_ops.bench.runner import Settings
from tfcompress_ops.bench.suites import suites


def points() -> Iterator[Any]:
    for suite in suites():
        if suite is ALL_FORMATS:  # which has no cases of its own
            continue
        for workload in Settings(threads=machine.available_cpus()).workloads():
            shape = f"{workload.in_features}x{workload.out_features}"
            group = f"{suite.name}-{shape}-{workload.batch}-{workload.state}"
            for case in suite.cases(list(suite.variants), views=True):
                yield pytest.param(
                    case,
                    workload,
                    id=f"{group}-{case.name.replace(' ', '_')}",
                    marks=pytest.mark.benchmark(group=group),
                )


@pytest.mark.parametrize(("case", "workload"), list(points()))
def test_layer(run: Callable[[Case, Workload], None], case: Case, workload: Workload) -> None:
    run(case, workload)
