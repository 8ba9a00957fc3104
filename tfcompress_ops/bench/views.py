"""A format's product seen without TensorFlow, and without a graph: what the op adds to its kernel.

The op in a graph is `FormatCase`; beside it these two run the same weights and inputs. All three
times hold what their own call costs, which is measured and reported beside them: `empty` is the
same call with next to nothing to multiply.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfcompress_ops.bench.cases import Case, CaseFacts, View
from tfcompress_ops.bench.chains import Array, Chain, Problem
from tfcompress_ops.bench.format_case import FormatCase

# Signs are packed by 32, sparse weights look 64 inputs up: the least that every format takes.
_TINY = 64


class _View(Case):
    """Another way to run the product of a case.

    Args:
        case: The case.
    """

    view: View
    suffix: str

    def __init__(self, case: FormatCase) -> None:
        self.case = case
        self.name = f"{case.name}, {self.suffix}"
        self.arithmetic = case.arithmetic
        self.tolerance = case.tolerance

    def facts(self) -> CaseFacts:
        """The view, and of what; see `Case`."""
        return CaseFacts(group=self.case.format.name, view=self.view, of=self.case.name)

    def weights(self, kernel: Array) -> Array:
        """Those of the case; see `Case`."""
        return self.case.weights(kernel)

    def reference(self, problem: Problem, index: int) -> Array:
        """That of the case; see `Case`."""
        return self.case.reference(problem, index)

    def density(self, in_features: int, out_features: int) -> float:
        """That of the case; see `Case`."""
        return self.case.density(in_features, out_features)

    def weight_bytes(self, in_features: int, out_features: int) -> int:
        """Those of the case; see `Case`."""
        return self.case.weight_bytes(in_features, out_features)

    def build(self, problem: Problem) -> Chain:
        """Packs the weights; a call of the chain runs its layers from Python; see `Case`."""
        return _loop(self._calls(problem), [self._call_of_nothing(problem)])

    def _calls(self, problem: Problem) -> list[Callable[[], Any]]:
        """One call a layer."""
        raise NotImplementedError

    def _call_of_nothing(self, problem: Problem) -> Callable[[], Any]:
        """The same call, of a layer so small that its kernel takes no time."""
        weights = np.random.default_rng(0).standard_normal((_TINY, _TINY), dtype=np.float32)
        layer = type(problem.weights[0])(weights, np.zeros(_TINY, np.float32))
        return self._calls(Problem((layer,), (weights[:1],), threads=1))[0]


class KernelCase(_View):
    """The kernel on NumPy arrays, called from Python: no TensorFlow."""

    view = "kernel"
    suffix = "kernel"

    def _calls(self, problem: Problem) -> list[Callable[[], Any]]:
        return [
            functools.partial(
                self.case.format.kernel(
                    self.case.pack(layer.kernel, x), layer.bias, problem.threads
                ),
                x,
            )
            for layer, x in zip(problem.weights, problem.inputs, strict=True)
        ]


class EagerCase(_View):
    """The op called eagerly from Python, as a compressed layer calls it outside a graph."""

    view = "eager"
    suffix = "eager"

    def _calls(self, problem: Problem) -> list[Callable[[], Any]]:
        calls: list[Callable[[], Any]] = []
        for layer, x in zip(problem.weights, problem.inputs, strict=True):
            arrays = {
                name: tf.constant(array) for name, array in self.case.pack(layer.kernel, x).items()
            }
            bias = tf.constant(layer.bias)
            calls.append(
                functools.partial(self.case.format.matmul, tf.constant(x), arrays, bias=bias)
            )
        return calls


def _loop(calls: Sequence[Callable[[], Any]], empty: Sequence[Callable[[], Any]]) -> Chain:
    """A chain that makes `calls` one after the other; `empty` costs what one of them does."""

    def run(calls: Sequence[Callable[[], Any]]) -> Any:
        output = None
        for call in calls:
            output = call()
        return output

    return Chain(
        call=functools.partial(run, calls),
        layers=len(calls),
        distinct=len(calls),
        empty=functools.partial(run, list(empty) * len(calls)),
        output=lambda: np.asarray(run(calls)),
    )
