"""How long a layer takes inside a graph."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress_ops.bench.chains import graph_kept
from tfcompress_ops.bench.timing import interleave

_ROUNDS = 5
_BURST_SECONDS = 0.01
# A call of a tf.function costs ~200 us before its first op. The difference between a graph of one
# call of a layer and a chain of calls is the layer's own time, if the chain takes milliseconds.
_CHAIN_OPERATIONS = 200_000_000
_SHORTEST_CHAIN, _LONGEST_CHAIN = 5, 50


def layer_latencies_us(
    layers: Sequence[keras.layers.Layer], inputs: tf.Tensor, out_features: int
) -> list[float]:
    """Times layers against each other.

    Args:
        layers: Layers that take the same inputs.
        inputs: A tensor `[..., in_features]`.
        out_features: Outputs of each layer.

    Returns:
        Microseconds of one more call of each layer in a graph that calls it already: medians over
        interleaved bursts.
    """

    def chain(layer: keras.layers.Layer, calls: int) -> Callable[[], Any]:
        step = tf.function(layer, autograph=False)  # traced once

        def run() -> list[Any]:
            outputs: list[Any] = []
            for _ in range(calls):
                with tf.control_dependencies(outputs[-1:]):
                    outputs.append(step(tf.identity(inputs)))
            return outputs  # all of them, so that all are made

        return run

    operations = 2 * max(1, int(tf.size(inputs)) * out_features)
    length = min(_LONGEST_CHAIN, max(_SHORTEST_CHAIN, _CHAIN_OPERATIONS // operations))
    with graph_kept():
        times = median_call_us(*(chain(layer, calls) for layer in layers for calls in (1, length)))
    return [
        max(0.0, many - once) / (length - 1)
        for once, many in zip(times[::2], times[1::2], strict=True)
    ]


def median_call_us(*cases: Callable[[], Any]) -> list[float]:
    """Microseconds of a call of each through `tf.function`: medians over interleaved bursts."""

    def compiled(function: Callable[[], Any]) -> Callable[[], Any]:
        graph = tf.function(function, autograph=False).get_concrete_function()
        # Fetching a value waits for a GPU to finish.
        return lambda: keras.tree.flatten(graph())[0].numpy()

    timings = interleave(
        {str(index): compiled(case) for index, case in enumerate(cases)},
        rounds=_ROUNDS,
        burst_seconds=_BURST_SECONDS,
    )
    return [timing.median_us for timing in timings.values()]
