"""What is measured of each contestant: predictions, size on disk, latency, weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfcompress_ops import structure
from tfcompress_ops.bench.timing import interleave
from tfcompress_ops.demo import results as results_lib
from tfcompress_ops.demo.contestants import Contestant
from tfcompress_ops.layers.layer import CompressedLayer

_PREDICTION_BATCH = 250
_SHOWN_DIGITS = 21
_MOST_DISAGREEMENTS = 7
_HISTOGRAM_BINS = 81
_HISTOGRAM_QUANTILE = 0.999
_SHOWN_LEVELS = 7
_SHOWN_PAIRS = 600


# Batch sizes, and how many calls of each are timed in a burst: several, so that threads and caches
# are warm.
BURSTS = {1: 10, 32: 5, 256: 2}
_REPETITIONS = 3
_MIN_ROUNDS = 3


def probabilities(contestant: Contestant, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the probability of each class, float32 `[images, 10]`."""
    function = contestant.function()
    parts = [
        tf.nn.softmax(function(tf.constant(images[start : start + _PREDICTION_BATCH]))).numpy()
        for start in range(0, len(images), _PREDICTION_BATCH)
    ]
    joined: NDArray[np.float32] = np.concatenate(parts)
    return joined


def file_bytes(model: keras.Model, directory: Path) -> int:
    """Returns the size of the model's `.keras` file, which is written to `directory`."""
    path = directory / "model.keras"
    model.save(path)
    return path.stat().st_size


def latencies(
    contestants: Sequence[Contestant],
    images: NDArray[np.float32],
    *,
    rounds: int,
    seconds: float,
    on_burst: Callable[[float], None],
) -> dict[str, dict[str, results_lib.Latency]]:
    """Times all contestants against each other at each batch size.

    Args:
        contestants: the models.
        images: float32 `[test, 784]`, at least as many as the largest batch.
        rounds: bursts of each contestant at each batch size,
        seconds: unless they would take longer than this, per batch size; then fewer, but three.
        on_burst: called with the share of all the work that is done, after each burst.

    Returns:
        Batch size, as text, to label to `Latency`.
    """
    functions = {one.label: one.function() for one in contestants}
    functions |= {_chain(one.label): one.function(_REPETITIONS) for one in contestants}
    measured = {}
    for index, (batch, burst) in enumerate(BURSTS.items()):
        pixels = tf.constant(images[:batch])
        cases = {label: _case(function, pixels) for label, function in functions.items()}
        fitting = int(seconds / (burst * _seconds_of_all(cases.values())))
        affordable = max(_MIN_ROUNDS, min(rounds, fitting))
        shares = np.linspace(index, index + 1, affordable * len(cases) + 1)[1:] / len(BURSTS)
        timings = interleave(
            cases, rounds=affordable, burst=burst, on_burst=_reporting(shares, on_burst)
        )
        measured[str(batch)] = results_lib.latencies(
            {one.label: timings[one.label] for one in contestants},
            {one.label: timings[_chain(one.label)] for one in contestants},
            _REPETITIONS,
        )
    return measured


def _case(function: Any, pixels: tf.Tensor) -> Callable[[], object]:
    """A call that returns when its result is there."""
    concrete = function.get_concrete_function(pixels)
    return lambda: concrete(pixels).numpy()


def _reporting(shares: Iterable[float], on_burst: Callable[[float], None]) -> Callable[[str], None]:
    """Reports the next of the shares at each call."""
    upcoming = iter(shares)
    return lambda _: on_burst(next(upcoming))


def _seconds_of_all(calls: Iterable[Callable[[], object]]) -> float:
    """How long one call of each takes, the second, as the first may compile something."""
    total = 0.0
    for call in calls:
        call()
        start = time.perf_counter()
        call()
        total += time.perf_counter() - start
    return total


def _chain(label: str) -> str:
    return f"{label}, repeated"


def examples(
    labels: NDArray[np.int64], before: NDArray[np.float32], after: NDArray[np.float32]
) -> list[results_lib.Example]:
    """Picks digits to show: disagreements, then those the float model is least sure of, then some.

    Args:
        labels: int64 `[test]`.
        before: the float model's probabilities, `[test, 10]`.
        after: the compressed model's.
    """
    read, reread = before.argmax(axis=1), after.argmax(axis=1)
    disagreements = np.flatnonzero(read != reread)[:_MOST_DISAGREEMENTS]
    unsure = np.argsort(before.max(axis=1))[: 2 * _SHOWN_DIGITS // 3]
    order = [*disagreements, *unsure, *range(len(labels))]
    chosen = list(dict.fromkeys(int(index) for index in order))[:_SHOWN_DIGITS]
    return [
        results_lib.Example(
            index=index,
            label=int(labels[index]),
            float_digit=int(read[index]),
            float_confidence=float(before[index].max()),
            digit=int(reread[index]),
            confidence=float(after[index].max()),
        )
        for index in chosen
    ]


def weight_plot(model: keras.Model, compressed: keras.Model) -> results_lib.WeightPlot:
    """Compares the weights of the largest compressed layer before and after."""
    after_layers: dict[str, CompressedLayer] = {
        path: layer
        for path, layer in structure.layer_paths(compressed).items()
        if isinstance(layer, CompressedLayer)
    }
    path = max(after_layers, key=lambda path: after_layers[path].weight_matrix().size)
    layer = after_layers[path]
    before = type(layer).source_weights(structure.layer_paths(model)[path]).dense()
    after = layer.weight_matrix()
    reach = float(np.quantile(np.abs(before), _HISTOGRAM_QUANTILE))
    edges = np.linspace(-reach, reach, _HISTOGRAM_BINS + 1)
    neuron = int(np.square(before).sum(axis=0).argmax())
    return results_lib.WeightPlot(
        layer=path,
        shape=(before.shape[0], before.shape[1]),
        edges=[float(edge) for edge in edges],
        before=np.histogram(before, edges)[0].tolist(),
        after=np.histogram(after, edges)[0].tolist(),
        rms_error=float(np.linalg.norm(after - before) / np.linalg.norm(before)),
        neuron=neuron,
        pairs=_pairs(before[:, neuron], after[:, neuron]),
    )


def _pairs(before: NDArray[np.float32], after: NDArray[np.float32]) -> list[tuple[float, float]]:
    """Weights of one output near zero, so few levels of them that the steps can be seen."""
    levels = np.unique(np.abs(after[after != 0]))
    reach = levels[min(_SHOWN_LEVELS, len(levels)) - 1] if len(levels) else np.abs(before).max()
    near = np.flatnonzero((np.abs(before) <= reach) & (np.abs(after) <= reach))[:_SHOWN_PAIRS]
    return [(float(before[index]), float(after[index])) for index in near]
