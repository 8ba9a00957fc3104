"""What the demonstration finds out: what the JSON file holds, and the page and table show."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tfcompress_ops.bench.timing import Timing
from tfcompress_ops.demo.method_results import MethodResults

FLOAT32 = "Keras float32"
FLOAT32_XLA = "Keras float32, XLA"
KERAS_INT8 = 'Keras quantize("int8")'
# A variant that loses more than this share of the test digits is not the one to recommend.
_MAX_ACCURACY_LOSS = 0.01


@dataclasses.dataclass(frozen=True)
class Latency:
    """Times of one variant at one batch size, in microseconds.

    Attributes:
        median_us: one call of a `tf.function` that runs the model, the median over the bursts.
        q1_us: first quartile of the same.
        q3_us: third quartile of the same.
        samples: number of bursts.
        in_graph_us: the model alone, from calls that run it several times over; see `latencies`.
        speedup: how many times faster than plain Keras float32 in the same run.
        speedup_over_keras_int8: how many times faster than Keras' own int8 in the same run.
    """

    median_us: float
    q1_us: float
    q3_us: float
    samples: int
    in_graph_us: float
    speedup: float
    speedup_over_keras_int8: float


@dataclasses.dataclass(frozen=True)
class VariantResult:
    """One row of the table.

    Attributes:
        label: what the row is called.
        compressed: whether this package compressed it; False for the baselines.
        format: the format as Python code, None for the baselines.
        calibrated: whether the format needs calibration data.
        accuracy: share of the test digits that it gets right, 0 to 1.
        correct: number of test digits that it gets right.
        changed: number of test digits that it reads differently than the float32 model does.
        file_bytes: size of its `.keras` file.
        latency: batch size, as text, to `Latency`.
    """

    label: str
    compressed: bool
    format: str | None
    calibrated: bool
    accuracy: float
    correct: int
    changed: int
    file_bytes: int
    latency: dict[str, Latency]

    @property
    def mean_speedup(self) -> float:
        """Geometric mean, over the batch sizes, of the speed-up over plain Keras float32."""
        return geometric_mean([latency.speedup for latency in self.latency.values()])


@dataclasses.dataclass(frozen=True)
class Headline:
    """What the page opens with.

    Attributes:
        label: the variant that it speaks of.
        smaller: bytes of the float32 file over bytes of this variant's file.
        faster: geometric mean of the speed-ups over the batch sizes.
        accuracy_change: accuracy less the float32 model's, in percentage points.
    """

    label: str
    smaller: float
    faster: float
    accuracy_change: float


@dataclasses.dataclass(frozen=True)
class Example:
    """A test digit and how two models read it.

    Attributes:
        index: row of the test digits.
        label: the digit that it is.
        float_digit: the digit that the float32 model reads.
        float_confidence: its probability, 0 to 1.
        digit: the digit that the compressed model reads.
        confidence: its probability, 0 to 1.
    """

    index: int
    label: int
    float_digit: int
    float_confidence: float
    digit: int
    confidence: float


@dataclasses.dataclass(frozen=True)
class WeightPlot:
    """The weights of one layer before and after.

    Attributes:
        layer: the layer's path in the model.
        shape: `[in_features, out_features]` of its kernel.
        edges: boundaries of the histogram's bins.
        before: number of float32 weights in each bin.
        after: number of weights, as the format stands for them, in each bin.
        rms_error: root of the mean squared difference, relative to that of the weights.
        neuron: output that `pairs` shows.
        pairs: some weights of that output near zero, each (before, after).
    """

    layer: str
    shape: tuple[int, int]
    edges: list[float]
    before: list[int]
    after: list[int]
    rms_error: float
    neuron: int
    pairs: list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Training:
    """How the classifier came to be."""

    layers: list[int]
    parameters: int
    epochs: int
    seconds: float
    train_digits: int
    test_digits: int


@dataclasses.dataclass(frozen=True)
class SeedAccuracy:
    """Accuracies of one kind of classifier, trained once for each of several seeds.

    Attributes:
        label: what it is called.
        accuracies: share of the test digits that it gets right, 0 to 1, for each seed.
    """

    label: str
    accuracies: list[float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return sum(self.accuracies) / len(self.accuracies)


@dataclasses.dataclass(frozen=True)
class Seeds:
    """What weights of one bit cost, over several seeds.

    Attributes:
        hidden: width of both hidden layers of these classifiers.
        seeds: the seeds.
        rows: the accuracies, the float32 classifier's first.
    """

    hidden: int
    seeds: list[int]
    rows: list[SeedAccuracy]


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything that the demonstration finds out.

    Attributes:
        environment: versions, machine and threads: what `tfcompress info --json` prints.
        command: the command that was run.
        finished: local date and time, ISO 8601.
        seconds: how long everything took.
        batch_sizes: the batch sizes of the latencies.
        training: how the classifier came to be.
        variants: the rows of the table, plain Keras float32 first.
        headline: what the page opens with.
        seeds: accuracies of classifiers of one bit over several seeds.
        examples: test digits that the page shows.
        weights: the weights of one layer before and after.
        files: name of each file in the output directory to what it holds.
        methods: the article's five methods, where they were asked for.
    """

    environment: dict[str, Any]
    command: str
    finished: str
    seconds: float
    batch_sizes: list[int]
    training: Training
    variants: list[VariantResult]
    headline: Headline
    seeds: Seeds
    examples: list[Example]
    weights: WeightPlot
    files: dict[str, str]
    methods: MethodResults | None = None

    def variant(self, label: str) -> VariantResult:
        """Returns the row called `label`."""
        return next(variant for variant in self.variants if variant.label == label)

    def to_json(self) -> dict[str, Any]:
        """Returns plain dicts, lists, numbers and strings."""
        return dataclasses.asdict(self)


def latencies(
    calls: dict[str, Timing], chains: dict[str, Timing], repetitions: int
) -> dict[str, Latency]:
    """Combines the timings of one batch size.

    A call is the model's time and a fixed cost around it, a chain is `repetitions` times the
    model's and the same fixed cost: the difference is the model's time `repetitions - 1` times.

    Args:
        calls: label to the timing of one call of the model through `tf.function`.
        chains: label to the timing of one call that runs the model `repetitions` times.
        repetitions: how often a chain runs the model, > 1.

    Returns:
        Label to `Latency`.
    """
    return {
        label: Latency(
            median_us=timing.median_us,
            q1_us=timing.q1_us,
            q3_us=timing.q3_us,
            samples=len(timing.samples),
            in_graph_us=_in_graph_us(timing.median_us, chains[label].median_us, repetitions),
            speedup=calls[FLOAT32].median_us / timing.median_us,
            speedup_over_keras_int8=calls[KERAS_INT8].median_us / timing.median_us,
        )
        for label, timing in calls.items()
    }


def _in_graph_us(call_us: float, chain_us: float, repetitions: int) -> float:
    """The model's time, which cannot be less than nothing, nor more than a call of it."""
    return min(call_us, max(0.0, (chain_us - call_us) / (repetitions - 1)))


def headline(variants: list[VariantResult]) -> Headline:
    """Picks the fastest compressed variant that is about as accurate as the float32 model.

    Where every variant loses more than a point of accuracy, the most accurate one is picked.
    """
    plain = next(variant for variant in variants if variant.label == FLOAT32)
    compressed = [variant for variant in variants if variant.compressed]
    accurate = [v for v in compressed if v.accuracy >= plain.accuracy - _MAX_ACCURACY_LOSS]
    if accurate:
        chosen = max(accurate, key=lambda variant: variant.mean_speedup)
    else:
        chosen = max(compressed, key=lambda variant: variant.accuracy)
    return Headline(
        label=chosen.label,
        smaller=plain.file_bytes / chosen.file_bytes,
        faster=chosen.mean_speedup,
        accuracy_change=100 * (chosen.accuracy - plain.accuracy),
    )


def geometric_mean(values: list[float]) -> float:
    """Returns the geometric mean of positive numbers."""
    return math.exp(sum(math.log(value) for value in values) / len(values))
