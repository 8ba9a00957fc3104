"""Runs cases in a child process, so that a crash or a hang can be reported."""

import dataclasses
import faulthandler
import importlib
import json
import math
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .case import LARGE_ELEMENTS, MOST_ELEMENTS, Answer, Case

FORMATS = ("int8", "sparse", "binary", "patches", "float_ops")
# How an op is called: run at once; in a graph whose shapes are unknown while it is traced; and only
# its shape function, with shapes that are known.
WAYS = ("eager", "graph", "shapes")
_SHARES = (0.91, 0.02, 0.07)
# What a case may add to the address space of the child: what asks for more than there is must be
# refused.
_MEMORY_BYTES = 1 << 30
_MOST_FAILURES = 20


@dataclasses.dataclass(frozen=True)
class Failure:
    """A case that ended in something else than an error or the right answer."""

    format: str
    seed: int
    case: int
    what: str

    def __str__(self) -> str:
        return (
            f"{self.format}, seed {self.seed}, case {self.case}: {self.what}\n"
            f"    python -m tests.fuzz --format {self.format} --seed {self.seed} --case {self.case}"
        )


@dataclasses.dataclass
class Result:
    """What became of the cases of one format."""

    format: str
    seed: int
    answers: int = 0
    errors: int = 0
    seconds: float = 0.0
    failures: list[Failure] = dataclasses.field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.answers + self.errors + len(self.failures)

    def __str__(self) -> str:
        return (
            f"{self.format}: {self.cases} cases of seed {self.seed} in {self.seconds:.0f} s: "
            f"{self.answers} right answers, {self.errors} errors, {len(self.failures)} failures"
        )


def run(
    format: str, cases: int, seed: int = 1, first: int = 0, timeout: float = 60.0, threads: int = 2
) -> Result:
    """Runs cases `first` ... `first + cases - 1`.

    Args:
        format: One of `FORMATS`.
        cases: How many.
        seed: A case is made from the format, the seed and its number alone.
        first: Number of the first one.
        timeout: Seconds that a case may take before it counts as a hang.
        threads: Of TensorFlow's intra-op pool.
    """
    result = Result(format, seed)
    end = first + cases
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        while first < end and len(result.failures) < _MOST_FAILURES:
            first = _run_child(result, first, end, timeout, threads, Path(folder))
    result.seconds = time.monotonic() - start
    return result


def _run_child(
    result: Result, first: int, end: int, timeout: float, threads: int, folder: Path
) -> int:
    """Runs a child until it ends or is stuck. Returns the case to go on with."""
    progress_path = folder / "progress"
    progress_path.write_bytes(b"\0" * 24)
    options = (result.format, result.seed, first, end, threads, progress_path)
    with (
        (folder / "stdout").open("w+") as out,
        (folder / "stderr").open("w+") as err,
        progress_path.open("r+b") as file,
        mmap.mmap(file.fileno(), 24) as progress,
    ):
        child = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.runner", *map(str, options)],
            stdout=out,
            stderr=err,
        )
        seen, since, hung = (0, 0), time.monotonic(), False
        while child.poll() is None:
            time.sleep(0.05)
            now = _numbers(progress)
            if now[0] == 0:  # TensorFlow is being imported
                if time.monotonic() - since > 120 + timeout:
                    child.kill()
            elif now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > timeout:
                hung = True
                child.send_signal(signal.SIGABRT)
                child.wait(10)
        started, answers, errors = _numbers(progress, 3)
        result.answers += answers
        result.errors += errors
        out.seek(0)
        for line in out:
            failed = json.loads(line)
            result.failures.append(
                Failure(result.format, result.seed, failed["case"], failed["what"])
            )
        if child.returncode == 0:
            return end
        err.seek(0)
        tail = err.read()[-4000:]
        what = "hang" if hung else f"the process ended with {child.returncode}"
        case = first + started - 1
        if started == 0:
            raise RuntimeError(f"no case was begun: {what}\n{tail}")
        result.failures.append(Failure(result.format, result.seed, case, f"{what}\n{tail}"))
        return case + 1


def _numbers(progress: mmap.mmap, count: int = 2) -> tuple[int, ...]:
    return tuple(int(number) for number in np.frombuffer(progress[: 8 * count], "<i8"))


def make(format: str, seed: int, number: int) -> tuple[Case, str]:
    """A case and the way in which it is called."""
    module = importlib.import_module(f".{format}", __package__)
    rng = np.random.default_rng([FORMATS.index(format), seed, number])
    way = WAYS[int(np.searchsorted(np.cumsum(_SHARES), rng.random(), "right"))]
    while True:
        case: Case = module.make(rng)
        answer = case.expect(case.tensors, case.attributes)
        elements = 0 if answer is None else math.prod(answer.shape)
        # Zeros by the gigabyte prove nothing. For lack of memory TensorFlow waits 10 s.
        if elements <= LARGE_ELEMENTS or (elements > MOST_ELEMENTS and rng.random() < 0.01):
            return case, way


def execute(case: Case, way: str) -> str:
    """Runs one case.

    Returns:
        "answer" or "error".

    Raises:
        AssertionError: where it is neither an error that was due nor the right answer.
    """
    import tensorflow as tf

    from . import reference

    function = reference.shared(case.op)
    answer = case.expect(case.tensors, case.attributes)
    refused = ""
    try:
        if way == "shapes":
            return _trace(function, case, answer)
        if way == "graph":
            specs = {
                name: [tf.TensorSpec(None, one.dtype) for one in value]
                if isinstance(value, list)
                else tf.TensorSpec(None, value.dtype)
                for name, value in case.tensors.items()
            }
            traced = tf.function(lambda **tensors: function(**tensors, **case.attributes))
            concrete = traced.get_concrete_function(**specs)
            y = concrete(**tf.nest.map_structure(tf.constant, case.tensors))
        else:
            # Tensors, not arrays: those are converted to what an op takes.
            tensors = tf.nest.map_structure(tf.constant, case.tensors)
            y = function(**tensors, **case.attributes)
    except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
        refused = str(error)
    except tf.errors.ResourceExhaustedError:
        refused = "there is not that much memory"
    if refused:
        possible = answer is not None and math.prod(answer.shape) <= MOST_ELEMENTS
        assert not possible, f"refused: {refused}"
        return "error"
    assert answer is not None, f"not refused; answered with shape {y.shape}"
    # NumPy has no arrays of some shapes that TensorFlow has.
    answer(y.numpy() if answer.check is not None else y)
    return "answer"


def _trace(function: Any, case: Case, answer: Answer | None) -> str:
    """Builds the op in a graph, where only its shape function runs: what it gets to know may be too
    little to refuse the arguments, but what it says must be true.
    """
    import tensorflow as tf

    with tf.Graph().as_default():
        holders = tf.nest.map_structure(
            lambda array: tf.compat.v1.placeholder(array.dtype, array.shape), case.tensors
        )
        y = function(**holders, **case.attributes)
    if answer is None:
        return "error"
    assert y.shape.is_compatible_with(answer.shape), f"{y.shape}, not {answer.shape}"
    return "answer"


def _child(
    format: str, seed: int, first: int, end: int, threads: int, progress: Path
) -> Iterator[str]:
    faulthandler.enable()
    import tensorflow as tf

    import tfcompress_ops  # noqa: F401

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.constant(0)  # which starts the threads
    if "asan" not in os.environ.get("LD_PRELOAD", ""):  # it reserves terabytes
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + _MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with progress.open("r+b") as file, mmap.mmap(file.fileno(), 24) as shared:
        counts = np.frombuffer(shared, "<i8")
        failures = 0
        for number in range(first, end):
            counts[0] = number - first + 1
            case, way = make(format, seed, number)
            try:
                outcome = execute(case, way)
                counts[1 if outcome == "answer" else 2] += 1
            except Exception as error:
                text = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
                yield json.dumps({"case": number, "what": f"{way} {case.describe()}\n{text}"})
                failures += 1
                if failures >= _MOST_FAILURES:
                    break
        del counts


def _main(arguments: list[str]) -> None:
    format, *numbers, progress = arguments
    seed, first, end, threads = map(int, numbers)
    for line in _child(format, seed, first, end, threads, Path(progress)):
        print(line, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
