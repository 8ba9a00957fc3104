"""Compressed layers against the Keras layers that they replace: `tfcompress bench layers`.

Each kind of layer is one model of one layer. A call of it through `tf.function` would tell of the
call, so it runs in a chain inside one graph, like the products (see `chains`); each step is traced
by itself, so that TensorFlow fuses in it what it fuses in a model.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops import kernels
from tfcompress_ops.bench import machine
from tfcompress_ops.bench.all_formats import ALL_FORMATS
from tfcompress_ops.bench.cases import Arithmetic, CaseFacts
from tfcompress_ops.bench.chains import (
    Chain,
    graph_kept,
    optimised_ops,
    set_tensorflow_threads,
)
from tfcompress_ops.bench.format_case import FormatCase
from tfcompress_ops.bench.results import Measurement, Results
from tfcompress_ops.bench.runner import Settings, call_overhead_us, lengthened
from tfcompress_ops.bench.timing import interleave

SUITE = "layers"
KERAS, KERAS_INT8 = "keras", "keras int8"
DEFAULTS = ("int8-dynamic", "sparse-float32-90", "sparse-int8-8:64", "binary-w1a8")

_POSITIONS, _STEPS, _SIDE, _VOCABULARY, _HEADS = 64, 16, 14, 10_000, 4
# Layers that Keras itself quantises.
_QUANTIZED_BY_KERAS = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding)
# What ops that do a layer's work have in their names; of others, Grappler shares some among layers.
_WORK = ("MatMul", "Conv", "Gather", "Einsum", "LoopCond", "Tfcompress")

Build = Callable[[int, int], keras.layers.Layer]


@dataclass(frozen=True)
class LayerKind:
    """A Keras layer to time.

    Attributes:
        name: What `--layers` picks it by: the layer's name, and what tells it from others.
        inputs: `in_features -> shape` of one example.
        layer: `(in_features, out_features) -> layer`.
        operations: `(in_features, out_features)` to the multiplications and additions of one
            example; 0 where there are none.
        tokens: Whether inputs are indices.
    """

    name: str
    inputs: Callable[[int], tuple[int, ...]]
    layer: Build
    operations: Callable[[int, int], int]
    tokens: bool = False

    def subject(self, in_features: int, out_features: int) -> str:
        """The layer and its sizes, for tables."""
        shape = " x ".join(map(str, self.inputs(in_features)))
        return f"{self.name}, {shape} to {out_features}"

    def model(self, in_features: int, out_features: int) -> keras.Model:
        """A model of this layer alone, its weights drawn anew but always the same."""
        keras.utils.set_random_seed(0)
        dtype = "int32" if self.tokens else "float32"
        inputs = keras.Input(self.inputs(in_features), dtype=dtype)
        layer = self.layer(in_features, out_features)
        arguments = [inputs] * (2 if isinstance(layer, keras.layers.MultiHeadAttention) else 1)
        return keras.Model(inputs, layer(*arguments))

    def example(self, in_features: int, batch: int) -> tf.Tensor:
        """Random inputs of such a model."""
        draw = np.random.default_rng(0)
        shape = (batch, *self.inputs(in_features))
        if self.tokens:
            return tf.constant(draw.integers(0, _VOCABULARY, shape), tf.int32)
        return tf.constant(draw.standard_normal(shape), tf.float32)


def _recurrent(layer: Callable[..., keras.layers.Layer], gates: int, name: str) -> LayerKind:
    return LayerKind(
        name,
        lambda k: (_STEPS, k),
        lambda k, n: layer(n),
        lambda k, n: 2 * _STEPS * gates * n * (k + n),
    )


KINDS = {
    kind.name: kind
    for kind in (
        LayerKind(
            "Dense",
            lambda k: (k,),
            lambda k, n: keras.layers.Dense(n, "relu"),
            lambda k, n: 2 * k * n,
        ),
        LayerKind(
            "EinsumDense",
            lambda k: (_POSITIONS, k),
            lambda k, n: keras.layers.EinsumDense("abc,cd->abd", (_POSITIONS, n), bias_axes="d"),
            lambda k, n: 2 * _POSITIONS * k * n,
        ),
        LayerKind(
            "Conv1D",
            lambda k: (_POSITIONS, k),
            lambda k, n: keras.layers.Conv1D(n, 3, padding="same"),
            lambda k, n: 2 * _POSITIONS * 3 * k * n,
        ),
        LayerKind(
            "Conv2D",
            lambda k: (_SIDE, _SIDE, k),
            lambda k, n: keras.layers.Conv2D(n, 3, padding="same", activation="relu"),
            lambda k, n: 2 * _SIDE**2 * 9 * k * n,
        ),
        LayerKind(
            "Conv2D-1x1",
            lambda k: (_SIDE, _SIDE, k),
            lambda k, n: keras.layers.Conv2D(n, 1, activation="relu"),
            lambda k, n: 2 * _SIDE**2 * k * n,
        ),
        LayerKind(
            "SeparableConv2D",
            lambda k: (_SIDE, _SIDE, k),
            lambda k, n: keras.layers.SeparableConv2D(n, 3, padding="same"),
            lambda k, n: 2 * _SIDE**2 * k * (9 + n),
        ),
        LayerKind(
            "Embedding",
            lambda k: (_POSITIONS,),
            lambda k, n: keras.layers.Embedding(_VOCABULARY, n),
            lambda k, n: 0,
            tokens=True,
        ),
        _recurrent(keras.layers.LSTM, 4, "LSTM"),
        _recurrent(keras.layers.GRU, 3, "GRU"),
        _recurrent(keras.layers.SimpleRNN, 1, "SimpleRNN"),
        LayerKind(
            "MultiHeadAttention",
            lambda k: (_POSITIONS, k),
            lambda k, n: keras.layers.MultiHeadAttention(
                _HEADS, max(1, n // _HEADS), output_shape=n
            ),
            lambda k, n: 2 * _POSITIONS * (3 * k * n + n * n + 2 * _POSITIONS * n),
        ),
    )
}


@dataclass(frozen=True)
class LayerSettings:
    """What to measure of layers, and how long.

    Attributes:
        kinds: Out of `KINDS`.
        variants: Out of those of the suite of all formats.
        shapes: (in_features, out_features) of every layer.
        batches: Examples of a call.
        threads: Threads of every engine.
        peers: Whether Keras' own int8 layers run too, where it has any.
        rounds: Samples of every case.
        burst_seconds: Length of a burst.
        budget_seconds: Limit for the bursts of one layer, shape and batch.
        max_layers: Longest chain.
    """

    kinds: Sequence[str] = tuple(KINDS)
    variants: Sequence[str] = DEFAULTS
    shapes: Sequence[tuple[int, int]] = ((256, 256),)
    batches: Sequence[int] = (1, 16)
    threads: int = 1
    peers: bool = True
    rounds: int = 9
    burst_seconds: float = 0.02
    budget_seconds: float = 2.0
    max_layers: int = 256

    def __post_init__(self) -> None:
        for option, chosen, known in (
            ("--layers", self.kinds, KINDS),
            ("--variants", self.variants, ALL_FORMATS.variants),
        ):
            for name in chosen:
                if name not in known:
                    raise ValueError(
                        f"`{option}` must be one of {', '.join(known)}; received {name}."
                    )

    def quick(self) -> "LayerSettings":
        """The same in seconds, to see that everything runs. Its numbers mean nothing."""
        return replace(
            self,
            kinds=("Dense", "Embedding"),
            shapes=((64, 32),),
            batches=(1,),
            rounds=3,
            burst_seconds=1e-3,
            budget_seconds=0.1,
            max_layers=8,
        )

    def points(self) -> Iterator[tuple[LayerKind, tuple[int, int], int]]:
        """Each layer, shape and batch, in order."""
        for kind in self.kinds:
            for shape in self.shapes:
                for batch in self.batches:
                    yield KINDS[kind], shape, batch


@dataclass(frozen=True)
class LayerCase:
    """One way of running a layer.

    Attributes:
        model: The model of the layer alone.
        arithmetic: See `Case`.
        density: See `Case`; that of a matrix of the layer's inputs and outputs.
        error: See `Measurement`: of the outputs, against a plain layer of the same weights.
    """

    model: keras.Model
    arithmetic: Arithmetic = "float32"
    density: float = 1.0
    error: float | None = None

    @property
    def weight_bytes(self) -> int:
        """Bytes of all the weights."""
        return sum(
            int(np.prod(weight.shape)) * tf.as_dtype(weight.dtype).size
            for weight in self.model.weights
        )


@dataclass
class Layer:
    """The cases of one kind of layer at one shape, for all batches.

    Attributes:
        kind: The layer.
        shape: (in_features, out_features).
        cases: By name.
    """

    kind: LayerKind
    shape: tuple[int, int]
    cases: dict[str, LayerCase] = field(default_factory=dict)


def build_layer(
    kind: LayerKind, shape: tuple[int, int], variants: Sequence[str], peers: bool = True
) -> Layer:
    """Makes the layer, and its compressed forms.

    Args:
        kind: The layer.
        shape: (in_features, out_features).
        variants: Out of those of the suite of all formats; those that `compress` does not take for
            this layer are left out.
        peers: Whether Keras' own int8 layer is one of the cases, where there is one.

    Returns:
        The cases, the Keras layer first.
    """
    model = kind.model(*shape)
    layer = Layer(kind, shape, {KERAS: LayerCase(model)})
    x = kind.example(shape[0], 2)
    for name in variants:
        case = ALL_FORMATS.variants[name]
        assert isinstance(case, FormatCase)
        try:
            compressed = tfc.compress(model, case.format, batch_size=None)
        except ValueError:  # such as an embedding of pruned weights
            continue
        layer.cases[case.name] = LayerCase(
            compressed,
            case.arithmetic,
            case.density(*shape),
            _relative_error(compressed(x), tfc.decompress(compressed)(x)),
        )
    if peers and isinstance(model.layers[-1], _QUANTIZED_BY_KERAS):
        quantized = kind.model(*shape)
        quantized.layers[-1].quantize("int8")
        layer.cases[KERAS_INT8] = LayerCase(
            quantized, "int8", error=_relative_error(quantized(x), model(x))
        )
    return layer


def run_layers(settings: LayerSettings, on_step: Callable[[str], None] | None = None) -> Results:
    """Measures layers.

    Args:
        settings: What to measure.
        on_step: Called with a description before each step; there are `count_steps(settings)`.

    Returns:
        The results; the Keras layers are the baseline.

    Raises:
        RuntimeError: If TensorFlow runs already with another number of threads.
    """
    set_tensorflow_threads(settings.threads)
    tell = on_step or (lambda _: None)
    tell("measuring the machine's peaks")
    other_load = machine.OtherLoad()
    peaks = kernels.measure_peaks(settings.threads)
    measurements: list[Measurement] = []
    built: Layer | None = None
    with graph_kept():
        for kind, shape, batch in settings.points():
            tell(f"{kind.subject(*shape)}, batch {batch}")
            if built is None or (built.kind, built.shape) != (kind, shape):
                built = build_layer(kind, shape, settings.variants, settings.peers)
            measurements += _measure(built, batch, settings)
    groups = {case.name: case.facts() for case in ALL_FORMATS.variants.values()}
    return Results(
        suite=SUITE,
        baseline=KERAS,
        reference=KERAS_INT8,
        measurements=measurements,
        cases={
            name: groups.get(name, CaseFacts())
            for name in dict.fromkeys(measurement.case for measurement in measurements)
        },
        peaks=peaks,
        machine=machine.of_run(other_load),
        versions=machine.versions(),
        settings=asdict(settings),
    )


def count_steps(settings: LayerSettings) -> int:
    """How often `run_layers` calls its `on_step`."""
    return 1 + len(list(settings.points()))


def layer_chain(model: keras.Model, inputs: tf.Tensor, length: int = 1) -> Chain:
    """Puts `length` calls of a model into one `tf.function`, one after the other.

    Build and call the chain inside `graph_kept()`.

    Args:
        model: A model of one layer.
        inputs: What it takes.
        length: Calls in the chain, >= 1.

    Returns:
        The chain.

    Raises:
        RuntimeError: If the optimised graph lacks some of the calls.
    """
    # Traced once, and inlined where it is called. Control edges go from an identity behind its
    # output to one before its input, so that Grappler fuses what is between. (An edge from the call
    # itself would wait for what it does, not for its output, which could then be left out.)
    step = tf.function(functools.partial(model, training=False), autograph=False)

    def run(x: tf.Tensor, calls: int) -> tf.Tensor:
        y = None
        for _ in range(calls):
            with tf.control_dependencies([] if y is None else [y]):
                x_now = tf.identity(x)
            y = tf.identity(step(x_now))
        return y

    def empty(x: tf.Tensor) -> tf.Tensor:
        for handle in handles:
            tf.compat.v1.get_default_graph().capture(handle)
        return x

    def concrete(calls: int) -> Any:
        function = tf.function(functools.partial(run, calls=calls), autograph=False)
        return function.get_concrete_function(inputs)

    chained = concrete(length)
    handles = [captured for captured, _ in chained.graph.captures]
    nothing = tf.function(empty, autograph=False).get_concrete_function(inputs)
    if length > 1:
        one = concrete(1)
        _check_graph(
            optimised_ops(lambda: one(inputs)), optimised_ops(lambda: chained(inputs)), length
        )
    return Chain(
        call=lambda: chained(inputs),
        layers=length,
        distinct=1,
        empty=lambda: nothing(inputs),
        output=lambda: chained(inputs).numpy(),
        lengthen=lambda longer: layer_chain(model, inputs, longer),
    )


def _check_graph(one: Counter[str], many: Counter[str], length: int) -> None:
    """Raises unless a chain's graph has all that one layer's has, `length` times."""
    lacking = {
        op: (many[op], length * count)
        for op, count in one.items()
        if any(work in op for work in _WORK) and many[op] < length * count
    }
    if lacking:
        raise RuntimeError(
            f"The optimised graph must hold {length} layers; of some ops it holds fewer: {lacking} "
            "(found, needed). Build and call the chain inside `graph_kept()`."
        )


def _measure(layer: Layer, batch: int, settings: LayerSettings) -> list[Measurement]:
    """Times the cases of one layer against each other."""
    inputs = layer.kind.example(layer.shape[0], batch)
    chains = {
        name: lengthened(layer_chain(case.model, inputs), settings.max_layers)
        for name, case in layer.cases.items()
    }
    overheads = {name: call_overhead_us(chain) for name, chain in chains.items()}
    timings = interleave(
        {name: chain.call for name, chain in chains.items()},
        rounds=settings.rounds,
        warmup=1,
        burst_seconds=settings.burst_seconds,
        budget_seconds=settings.budget_seconds,
    )
    outputs = layer.cases[KERAS].model.compute_output_shape(inputs.shape)
    elements = int(tf.size(inputs)) + int(np.prod(outputs))
    return [
        Measurement(
            subject=layer.kind.subject(*layer.shape),
            case=name,
            arithmetic=case.arithmetic,
            batch=batch,
            state=Settings.states[0],
            mode=Settings.modes[0],
            layer=timings[name].scaled(1 / chains[name].layers),
            layers=chains[name].layers,
            distinct=1,
            weight_bytes=case.weight_bytes,
            call_overhead_us=overheads[name],
            operations=batch * layer.kind.operations(*layer.shape),
            activation_bytes=4 * elements,
            density=case.density,
            error=case.error,
        )
        for name, case in layer.cases.items()
    ]


def _relative_error(outputs: Any, reference: Any) -> float:
    one, other = (np.asarray(values, np.float64) for values in (outputs, reference))
    return float(np.abs(one - other).max() / np.abs(other).max())
