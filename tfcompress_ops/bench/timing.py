"""Timing several callables against each other on a machine that is not quiet.

Cases are interleaved: a round runs one burst of consecutive calls of every case, and the order of
the cases changes from round to round. Whatever slows the machine down for a second then slows all
of them, and no case always follows the same neighbour. Two modes show two things:

*   Bursts of several calls, with a lead-in: what a case costs while it has the machine to itself.
    The lead-in is not timed; after it the threads of the case before, which may still spin, are
    asleep, and the case's own threads and caches are awake.
*   Alternating single calls, without a lead-in: what a call costs between calls of something else,
    caches cold and threads asleep. Small calls may look several times slower here, so calls that
    are compared should take about as long: `burst_seconds` groups short ones.

A claim is worth making when it holds in both.
"""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

# A burst is this long where its number of calls is left open: long against a thread's wake-up
# (~50 us) and a scheduler's tick (1-4 ms), short against the machine's slow phases (~1 s).
DEFAULT_BURST_SECONDS = 0.02
# Share of a burst's calls that run before the clock starts, one call at least.
_LEAD_IN_SHARE = 0.1
# Rounds that run whatever the budget: quartiles need three samples.
_MIN_ROUNDS = 3
# An adapted burst has no more calls than this, however short they are.
_MAX_BURST_CALLS = 10_000


@dataclass(frozen=True)
class Timing:
    """The time of one call of one case.

    Attributes:
        median_us: Median over the samples, in microseconds.
        q1_us: First quartile, in microseconds.
        q3_us: Third quartile, in microseconds.
        samples: Microseconds per call, one sample a burst, in the order of measurement. Sample `i`
            of two cases of one run was taken in the same round.
        burst: Calls that each sample is the mean of.
    """

    median_us: float
    q1_us: float
    q3_us: float
    samples: tuple[float, ...]
    burst: int = 1

    @classmethod
    def from_samples(cls, samples: Sequence[float], burst: int = 1) -> "Timing":
        """Summarises `samples` (microseconds per call, at least one)."""
        q1_us, median_us, q3_us = quartiles(samples)
        return cls(median_us, q1_us, q3_us, tuple(samples), burst)

    def scaled(self, factor: float) -> "Timing":
        """The same timing in another unit of work: every time multiplied by `factor`."""
        return Timing.from_samples([factor * sample for sample in self.samples], self.burst)


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """The three quartiles of `samples`, interpolated linearly between order statistics.

    Args:
        samples: One number or more, in any order.

    Returns:
        `(q1, median, q3)`.

    Raises:
        ValueError: If `samples` is empty.
    """
    if not samples:
        raise ValueError("`samples` must hold at least one number; received none.")
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
    return q1, median, q3


def interleave(
    cases: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 20,
    burst: int | None = None,
    lead_in: bool | None = None,
    warmup: int = 3,
    burst_seconds: float = DEFAULT_BURST_SECONDS,
    budget_seconds: float | None = None,
    on_burst: Callable[[str], None] | None = None,
) -> dict[str, Timing]:
    """Times `cases` in interleaved bursts.

    Args:
        cases: Name to callable. A callable must not return before its work is done.
        rounds: Bursts of every case, >= 1: the number of samples.
        burst: Consecutive calls that one sample is the mean of. 1 is strict alternation of single
            calls. `None` adapts it to each case: as many calls as take `burst_seconds`, with a
            lead-in two at least.
        lead_in: Whether each burst opens with calls that are not timed, a tenth of its number.
            `None`: unless `burst` is 1.
        warmup: Calls of every case, >= 0, before anything is timed.
        burst_seconds: Length of an adapted burst, in seconds; unused where `burst` is given.
        budget_seconds: No round begins later than this after the first, except for the first
            three. `None` sets no limit.
        on_burst: Called with a case's name after each of its bursts, outside the timed span.

    Returns:
        Name to `Timing`, in the order of `cases`.

    Raises:
        ValueError: If `rounds` or `burst` is below 1, or `warmup` below 0.

    Example:
        >>> timings = interleave({"a": lambda: sum(range(9)), "b": lambda: None}, rounds=3, burst=2)
        >>> timings["a"].median_us > 0
        True
    """
    if rounds < 1:
        raise ValueError(f"`rounds` must be at least 1; received {rounds}.")
    if burst is not None and burst < 1:
        raise ValueError(f"`burst` must be at least 1, or None; received {burst}.")
    if warmup < 0:
        raise ValueError(f"`warmup` must not be negative; received {warmup}.")
    if lead_in is None:
        lead_in = burst != 1
    for call in cases.values():
        for _ in range(warmup):
            call()
    calls = {name: burst or calls_within(call, burst_seconds) for name, call in cases.items()}
    if lead_in and burst is None:
        calls = {name: max(2, count) for name, count in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in cases}
    end = math.inf if budget_seconds is None else time.perf_counter() + budget_seconds
    with _no_garbage_collection():
        for done, order in enumerate(_orders(list(cases), rounds)):
            if done >= _MIN_ROUNDS and time.perf_counter() > end:
                break
            for name in order:
                samples[name].append(_time_burst(cases[name], calls[name], lead_in))
                if on_burst is not None:
                    on_burst(name)
    return {name: Timing.from_samples(samples[name], calls[name]) for name in cases}


def calls_within(call: Callable[[], object], seconds: float) -> int:
    """How many calls of `call` take about `seconds`, at least 1: measured, not counted exactly."""
    count = 1
    while True:
        elapsed = _time_burst(call, count, lead_in=False) * 1e-6 * count
        if elapsed >= seconds / 2 or count >= _MAX_BURST_CALLS:
            break
        count = min(_MAX_BURST_CALLS, max(2 * count, int(count * seconds / max(elapsed, 1e-9))))
    return min(_MAX_BURST_CALLS, max(1, round(count * seconds / max(elapsed, 1e-9))))


def _time_burst(call: Callable[[], object], burst: int, lead_in: bool) -> float:
    """Microseconds per call over `burst` calls, with or without a lead-in."""
    for _ in range(math.ceil(_LEAD_IN_SHARE * burst) if lead_in else 0):
        call()
    start = time.perf_counter_ns()
    for _ in range(burst):
        call()
    return (time.perf_counter_ns() - start) / (1e3 * burst)


def _orders(names: list[str], rounds: int) -> Iterator[list[str]]:
    """One order of the cases a round: shuffled, by the same numbers in every run.

    Rotation would keep every case behind the same neighbour.
    """
    shuffled = random.Random(0)
    for _ in range(rounds):
        yield shuffled.sample(names, len(names))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keeps Python's cycle collector from running inside a timed span."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
