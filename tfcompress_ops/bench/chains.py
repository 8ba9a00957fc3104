"""Chains of dense layers: the unit of work that every case is timed on.

One call of an engine costs far more than one small layer (a `tf.function`: ~150 us before its
first op), so a case is a *chain*: one call that runs many layers, one after the other, in the
engine's own loop. The time of a layer is the time of the call divided by the number of layers;
nothing is subtracted, the chain is long enough that the call's own cost is below 5 %, and that
cost is measured and reported beside it.

Every layer of a chain computes `y_i = x_i @ W_i + b_i` with x_i [B, K] and W_i [K, N]. The chain
has `distinct` layers, each with its own W_i, b_i and x_i, and goes round them until it is long
enough. How many are distinct decides the state of the caches:

*   hot: as many as fill about a quarter of the last-level cache, with their weights or with their
    inputs and outputs; eight at most, one at least. A layer that does not fit by itself is as hot
    as it can be.
*   cold: as many as make twice the last-level cache, so that each layer's weights come from memory.

Layers do not feed each other (K and N may differ), so something must keep an engine from running
them side by side and from leaving out what nobody reads. LiteRT and ONNX Runtime run the nodes of
a graph one at a time, and every y_i is an output of the model. TensorFlow would do neither:

*   Layers run in turn through control dependencies.
*   Grappler's dependency optimizer turns ops that only control edges leave into no-ops. It cuts
    such a chain down to its last layer (and a chain through `IdentityN` too). `graph_kept()`
    switches it off, and every chain checks that the optimised graph holds all its layers.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.eager import context

from tfcompress_ops.bench import machine

State = Literal["hot", "cold"]
Array = npt.NDArray[np.float32]
TensorLayer = Callable[[tf.Tensor, Mapping[str, tf.Tensor]], tf.Tensor]

# A hot chain has no more distinct layers than this: enough to amortise a call of LiteRT (1.3 us).
_MAX_HOT_LAYERS = 8
# Hot weights fill no more than this share of the last-level cache, which others may use as well.
_HOT_CACHE_SHARE = 0.25
_COLD_CACHE_MULTIPLE = 2
# Bounds the memory and the graph of a cold chain where layers are tiny and the cache is huge.
_MAX_COLD_LAYERS = 512


@dataclass(frozen=True)
class Workload:
    """One point of measurement: a layer's shape, a batch, the state of the caches.

    Attributes:
        in_features: K, >= 1.
        out_features: N, >= 1.
        batch: Rows of x, >= 1.
        state: "hot" or "cold".
        threads: Threads that each engine may use, >= 1.
    """

    in_features: int
    out_features: int
    batch: int
    state: State = "hot"
    threads: int = 1

    @property
    def subject(self) -> str:
        """The shape of the weights, "K x N"."""
        return f"{self.in_features} x {self.out_features}"

    @property
    def activation_bytes(self) -> int:
        """Bytes of the inputs and outputs of one layer, in float32."""
        return 4 * self.batch * (self.in_features + self.out_features)

    @property
    def operations(self) -> int:
        """Multiplications and additions of one layer."""
        return 2 * self.batch * self.in_features * self.out_features

    def distinct_layers(self, weight_bytes: int, cache_bytes: int) -> int:
        """How many distinct layers put the caches into `state`.

        Args:
            weight_bytes: Bytes that one layer's weights take in the engine at hand.
            cache_bytes: Size of the last-level cache.

        Returns:
            The number of distinct layers, >= 1.
        """
        if self.state == "cold":
            needed = math.ceil(_COLD_CACHE_MULTIPLE * cache_bytes / weight_bytes)
            return min(_MAX_COLD_LAYERS, max(2, needed))
        # Rounded, so that a layer's scales beside its weights make no difference.
        fitting = round(_HOT_CACHE_SHARE * cache_bytes / max(weight_bytes, self.activation_bytes))
        return min(_MAX_HOT_LAYERS, max(1, fitting))


@dataclass(frozen=True)
class LayerWeights:
    """The float weights of one layer: `kernel` [K, N] and `bias` [N]."""

    kernel: Array
    bias: Array


@dataclass(frozen=True)
class Problem:
    """The distinct layers of one chain, with one input each.

    Attributes:
        weights: One entry a layer.
        inputs: x_i [B, K], one a layer.
        threads: Threads that the engine may use.
    """

    weights: tuple[LayerWeights, ...]
    inputs: tuple[Array, ...]
    threads: int = 1

    @property
    def distinct(self) -> int:
        """Number of distinct layers."""
        return len(self.weights)

    def first(self, count: int) -> "Problem":
        """The same problem with its first `count` layers only."""
        return Problem(self.weights[:count], self.inputs[:count], self.threads)


@dataclass(frozen=True)
class Chain:
    """An engine, loaded with a chain of layers.

    Attributes:
        call: Runs the whole chain once and returns when it is done.
        layers: Layers that one call runs.
        distinct: Distinct layers among them.
        empty: The smallest call of the same engine: what a call costs besides its layers.
        output: The output [B, N] of the last layer of a call that it makes.
        lengthen: `length -> chain`: the same layers in a chain of at least `length`. None where
            calls are so cheap that running every distinct layer once is long enough.
    """

    call: Callable[[], object]
    layers: int
    distinct: int
    empty: Callable[[], object]
    output: Callable[[], Array]
    lengthen: Callable[[int], "Chain"] | None = None


@dataclass(frozen=True)
class TensorFlowLayer:
    """One layer as TensorFlow ops.

    Attributes:
        apply: `(x, tensors) -> y`.
        variables: Those that `apply` looks up by name are read in the graph once a layer, before
            its turn, as layers of a model read theirs.
        op: The op that has to be in the optimised graph once for every layer.
    """

    apply: TensorLayer
    variables: dict[str, tf.Variable]
    op: str


def random_problem(
    workload: Workload, distinct: int, rng: np.random.Generator | None = None
) -> Problem:
    """Draws `distinct` layers for `workload`: normal weights of variance 1 / K, normal inputs."""
    rng = rng or np.random.default_rng(0)
    k, n = workload.in_features, workload.out_features
    deviation = np.float32(1 / math.sqrt(k))
    return Problem(
        weights=tuple(
            LayerWeights(
                kernel=rng.standard_normal((k, n), dtype=np.float32) * deviation,
                bias=rng.standard_normal(n, dtype=np.float32),
            )
            for _ in range(distinct)
        ),
        inputs=tuple(
            rng.standard_normal((workload.batch, k), dtype=np.float32) for _ in range(distinct)
        ),
        threads=workload.threads,
    )


def tensorflow_chain(
    layers: Sequence[TensorFlowLayer], inputs: Sequence[Array], length: int = 1
) -> Chain:
    """Puts `length` layers into one `tf.function`, going round `layers`.

    Build and call the chain inside `graph_kept()`.

    Args:
        layers: The distinct layers.
        inputs: Their inputs.
        length: Layers in the chain, >= 1; raised to a whole number of rounds.

    Returns:
        The chain.

    Raises:
        RuntimeError: If the optimised graph lacks some of the layers.
    """
    distinct = len(layers)
    length = distinct * max(1, math.ceil(length / distinct))
    tensors = [tf.constant(x) for x in inputs]

    def run(*xs: tf.Tensor) -> tf.Tensor:
        y: tf.Tensor | None = None
        for index in range(length):
            layer = layers[index % distinct]
            values = _Reads(layer.variables)
            with tf.control_dependencies([] if y is None else [y]):
                y = layer.apply(xs[index % distinct], values)
        return y

    def empty(*xs: tf.Tensor) -> tf.Tensor:
        # Variables are arguments of the call, and passing them is part of its cost.
        for handle in handles:
            tf.compat.v1.get_default_graph().capture(handle)
        return xs[0]

    concrete_run = tf.function(run, autograph=False).get_concrete_function(*tensors)
    handles = [captured for captured, _ in concrete_run.graph.captures]
    concrete_empty = tf.function(empty, autograph=False).get_concrete_function(*tensors)
    _check_graph(lambda: concrete_run(*tensors), layers[0].op, length)
    return Chain(
        call=lambda: concrete_run(*tensors),
        layers=length,
        distinct=distinct,
        empty=lambda: concrete_empty(*tensors),
        output=lambda: concrete_run(*tensors).numpy(),
        lengthen=lambda longer: tensorflow_chain(layers, inputs, longer),
    )


class _Reads(Mapping[str, tf.Tensor]):
    """The values of variables by name, read when asked for, whatever comes before them."""

    def __init__(self, variables: Mapping[str, tf.Variable]) -> None:
        self._variables = variables
        self._values: dict[str, tf.Tensor] = {}

    def __getitem__(self, name: str) -> tf.Tensor:
        if name not in self._values:
            with tf.control_dependencies(None):
                self._values[name] = self._variables[name].read_value()
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


@contextmanager
def graph_kept() -> Iterator[None]:
    """Switches Grappler's dependency optimizer off, which would cut chains short."""
    before = tf.config.optimizer.get_experimental_options().get("dependency_optimization", True)
    tf.config.optimizer.set_experimental_options({"dependency_optimization": False})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"dependency_optimization": before})


def set_tensorflow_threads(threads: int) -> None:
    """Gives TensorFlow's intra-op pool `threads` threads.

    Raises:
        RuntimeError: If TensorFlow has started already, with another number of threads.
    """
    # 0, the default, stands for every processor of the process.
    current = tf.config.threading.get_intra_op_parallelism_threads() or machine.available_cpus()
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError as error:
        if current == threads:
            return
        raise RuntimeError(
            f"`threads` must be set before TensorFlow runs its first op; received {threads}. "
            "Start a new process."
        ) from error


def optimised_ops(call: Callable[[], object]) -> Counter[str]:
    """Counts the ops, by type, in the graphs that the first run of `call` optimises."""
    with context.collect_graphs(optimized=True) as graphs:
        call()
    return Counter(node.op for graph in graphs for node in graph.node)


def _check_graph(call: Callable[[], object], op: str, length: int) -> None:
    """Raises unless the graph that `call` runs has `length` nodes of type `op`."""
    found = optimised_ops(call)
    if found[op] != length:
        raise RuntimeError(
            f"The optimised graph must hold {length} ops of type {op}; it holds {found[op]} "
            f"({dict(found)}). Build and call the chain inside `graph_kept()`."
        )
