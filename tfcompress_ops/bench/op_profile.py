"""Which ops of a graph its time goes to, by TensorFlow's profiler."""

import glob
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

# Host events down to ops; not Python's, which would cost as much as what is measured.
_OPTIONS = {"host_tracer_level": 2, "python_tracer_level": 0, "device_tracer_level": 0}
# Lines of the trace on which ops run, and what is around ops there.
_LINE = "tf_Compute"
_AROUND = ("ExecutorState::", "FunctionRun")


def op_times_us(call: Callable[[], Any], runs: int = 5) -> dict[str, float]:
    """Times the ops of a call of a graph by their types.

    Ops that run side by side each count in full, so that the sum may exceed the time of a call. A
    program compiled by XLA is one op. The work of an op's other threads is not counted beside it.

    Args:
        call: Runs a graph and returns when it is done.
        runs: Calls that are profiled, after one that is not.

    Returns:
        Op type to microseconds per call, the largest first.
    """
    call()
    with tempfile.TemporaryDirectory() as directory:
        options = tf.profiler.experimental.ProfilerOptions(**_OPTIONS)
        with tf.profiler.experimental.Profile(directory, options):
            for _ in range(runs):
                call()
        found: Counter[str] = Counter()
        for path in glob.glob(os.path.join(directory, "**", "*.xplane.pb"), recursive=True):
            space = xplane_pb2.XSpace()
            with open(path, "rb") as file:
                space.ParseFromString(file.read())
            for plane in space.planes:
                for line in plane.lines:
                    if line.name.startswith(_LINE):
                        _add(found, plane, line)
    return {op: picoseconds / 1e6 / runs for op, picoseconds in found.most_common()}


def _add(found: Counter[str], plane: Any, line: Any) -> None:
    """Adds the picoseconds of the events of one thread, named `node:type`."""
    for event in line.events:
        name = plane.event_metadata[event.metadata_id].name
        node, _, op = name.rpartition(":")
        if node and not name.startswith(_AROUND):
            found[op] += event.duration_ps
