"""Runs a suite: builds the chains of every case, times them against each other, files results."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from tfcompress_ops import kernels
from tfcompress_ops.bench import machine
from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.chains import (
    Chain,
    State,
    Workload,
    graph_kept,
    random_problem,
    set_tensorflow_threads,
)
from tfcompress_ops.bench.peers import BASELINE
from tfcompress_ops.bench.results import Measurement, Results
from tfcompress_ops.bench.suites import Suite
from tfcompress_ops.bench.timing import DEFAULT_BURST_SECONDS, calls_within, interleave

Mode = Literal["bursts", "alternating"]

# What a call costs by itself may be no more than this share of a chain's time: less than the
# promised 5 %, since what the length is reckoned from is measured briefly.
_OVERHEAD_SHARE = 0.03
_MAX_LENGTHENINGS = 3


@dataclass(frozen=True)
class Settings:
    """What to measure, and how long.

    Attributes:
        shapes: (K, N) of the layers.
        batches: Rows of x.
        states: "hot", "cold".
        modes: "bursts", "alternating".
        threads: Threads of every engine.
        cold_batch_limit: Larger batches are measured hot only: a weight is used so often there
            that where it came from no longer shows.
        rounds: Samples of every case.
        burst_seconds: Length of a burst, in mode "bursts".
        turn_seconds: Length of a turn, in mode "alternating": about one call of a TensorFlow chain,
            as many calls of an engine that has shorter ones. Every case then has as long to wake
            its threads and to warm its caches.
        budget_seconds: Limit for the bursts of one shape, batch and state; slow cases take fewer
            rounds for it, three at least.
        cache_bytes: Size that "hot" and "cold" refer to.
        max_layers: Longest chain: what TensorFlow can trace and optimise in a few seconds.
    """

    shapes: Sequence[tuple[int, int]] = ((1024, 1024), (768, 3072), (3072, 768), (4096, 4096))
    batches: Sequence[int] = (1, 16, 128, 512)
    states: Sequence[State] = ("hot", "cold")
    modes: Sequence[Mode] = ("bursts", "alternating")
    threads: int = 1
    cold_batch_limit: int = 16
    rounds: int = 15
    burst_seconds: float = DEFAULT_BURST_SECONDS
    turn_seconds: float = 0.005
    budget_seconds: float = 6.0
    cache_bytes: int = 32 * 2**20
    max_layers: int = 1024

    def workloads(self) -> Iterator[Workload]:
        """The points of measurement, in order."""
        for k, n in self.shapes:
            for batch in self.batches:
                for state in self.states:
                    if state == "hot" or batch <= self.cold_batch_limit:
                        yield Workload(k, n, batch, state, self.threads)

    def quick(self) -> "Settings":
        """The same in seconds, to see that everything runs. Its numbers mean nothing."""
        return replace(
            self,
            shapes=[(48, 32), (32, 48)],
            batches=[1],
            rounds=3,
            burst_seconds=1e-3,
            turn_seconds=1e-4,
            budget_seconds=0.5,
            cache_bytes=2**13,
            max_layers=8,
        )


def run_suite(
    suite: Suite,
    cases: Sequence[Case],
    settings: Settings,
    on_step: Callable[[str], None] | None = None,
    workloads: Sequence[Workload] | None = None,
) -> Results:
    """Measures `cases` at every point of `settings`.

    Args:
        suite: The suite that the cases belong to.
        cases: Cases to run; those that are not installed are listed in the results.
        settings: What to measure.
        on_step: Called with a description before each step; there are as many as `count_steps`
            says.
        workloads: The points to measure, where they are not those of `settings`.

    Returns:
        The results.

    Raises:
        RuntimeError: If TensorFlow runs already with another number of threads.
    """
    set_tensorflow_threads(settings.threads)
    present = [case for case in cases if case.missing() is None]
    measurements: list[Measurement] = []
    tell = on_step or (lambda _: None)
    tell("measuring the machine's peaks")
    other_load = machine.OtherLoad()
    peaks = kernels.measure_peaks(settings.threads)
    with graph_kept():
        for workload in settings.workloads() if workloads is None else workloads:
            title = f"{workload.subject}, batch {workload.batch}, {workload.state}"
            tell(f"{title}: loading")
            chains = build_chains(present, workload, settings)
            overheads = {name: call_overhead_us(chain) for name, chain in chains.items()}
            for mode in settings.modes:
                tell(f"{title}: {mode}")
                measurements += _measure(present, chains, overheads, workload, mode, settings)
    # The machine may have been busy the first time: a peak is the best that was ever seen.
    later = kernels.measure_peaks(settings.threads)
    peaks = {name: max(value, later[name]) for name, value in peaks.items()}
    return Results(
        suite=suite.name,
        baseline=BASELINE.name,
        reference=suite.reference,
        measurements=measurements,
        cases={case.name: case.facts() for case in cases},
        peaks=peaks,
        missing={case.name: command for case in cases if (command := case.missing()) is not None},
        machine=machine.of_run(other_load),
        versions=machine.versions(),
        settings=asdict(settings),
    )


def count_steps(settings: Settings, workloads: Sequence[Workload] | None = None) -> int:
    """How often `run_suite` calls its `on_step`."""
    points = list(settings.workloads()) if workloads is None else workloads
    return 1 + (1 + len(settings.modes)) * len(points)


def build_chains(cases: Sequence[Case], workload: Workload, settings: Settings) -> dict[str, Chain]:
    """Builds every case's chain, long enough that the call's own cost hardly counts.

    Build and call them inside `graph_kept()`.

    Args:
        cases: The cases; each has to be installed.
        workload: The layers' shape, the batch, the state of the caches.
        settings: `cache_bytes` and `max_layers` count.

    Returns:
        Name of the case to its chain.
    """
    k, n = workload.in_features, workload.out_features
    distinct = {
        case.name: workload.distinct_layers(case.weight_bytes(k, n), settings.cache_bytes)
        for case in cases
    }
    problem = random_problem(workload, max(distinct.values(), default=1))
    return {
        case.name: lengthened(case.build(problem.first(distinct[case.name])), settings.max_layers)
        for case in cases
    }


def lengthened(chain: Chain, max_layers: int) -> Chain:
    """The layers of `chain` in one as long as its measured time and overhead call for.

    A chain of two layers tells little about the time of one, so a lengthened chain is measured
    again, and lengthened again if need be.

    Args:
        chain: A chain.
        max_layers: Its greatest length.

    Returns:
        The chain, or a longer one.
    """
    for _ in range(_MAX_LENGTHENINGS):
        if chain.lengthen is None or chain.layers >= max_layers:
            break
        overhead_us, call_us = call_overhead_us(chain), _median_call_us(chain.call)
        if overhead_us <= _OVERHEAD_SHARE * call_us:
            break
        layer_us = max(call_us - overhead_us, 0.05 * call_us) / chain.layers
        length = math.ceil(overhead_us / (_OVERHEAD_SHARE * layer_us))
        chain = chain.lengthen(min(max_layers, max(length, chain.layers + 1)))
    return chain


def call_overhead_us(chain: Chain) -> float:
    """Median time of the engine's smallest call, in microseconds."""
    return _median_call_us(chain.empty)


def _median_call_us(call: Callable[[], object], seconds: float = 0.01) -> float:
    """Median of single calls over `seconds`, three at least, after a few to warm up."""
    for _ in range(3):
        call()
    samples = []
    for _ in range(max(3, calls_within(call, seconds))):
        start = time.perf_counter_ns()
        call()
        samples.append((time.perf_counter_ns() - start) / 1e3)
    return statistics.median(samples)


def _measure(
    cases: Sequence[Case],
    chains: dict[str, Chain],
    overheads: dict[str, float],
    workload: Workload,
    mode: Mode,
    settings: Settings,
) -> list[Measurement]:
    """Times the chains of all cases against each other."""
    timings = interleave(
        {name: chain.call for name, chain in chains.items()},
        rounds=settings.rounds,
        lead_in=mode == "bursts",
        warmup=1,
        burst_seconds=settings.burst_seconds if mode == "bursts" else settings.turn_seconds,
        budget_seconds=settings.budget_seconds,
    )
    return [
        Measurement(
            subject=workload.subject,
            case=case.name,
            arithmetic=case.arithmetic,
            batch=workload.batch,
            state=workload.state,
            mode=mode,
            layer=timings[case.name].scaled(1 / chains[case.name].layers),
            layers=chains[case.name].layers,
            distinct=chains[case.name].distinct,
            weight_bytes=case.weight_bytes(workload.in_features, workload.out_features),
            call_overhead_us=overheads[case.name],
            operations=workload.operations,
            activation_bytes=workload.activation_bytes,
            density=case.density(workload.in_features, workload.out_features),
        )
        for case in cases
    ]
