"""The cases of a benchmark: each builds one chain of layers in one engine."""

import abc
import importlib.util
from dataclasses import dataclass
from typing import ClassVar, Literal

from tfcompress_ops.bench.chains import Array, Chain, Problem

Arithmetic = Literal["float32", "int8", "binary"]
View = Literal["op", "kernel", "eager"]


@dataclass(frozen=True)
class CaseFacts:
    """What a case is, for those who read its results.

    Attributes:
        group: Name of this package's format, such as "int8"; empty for other engines.
        view: "op": in a graph of TensorFlow, or as the engine runs it. "kernel": the kernel alone,
            without TensorFlow. "eager": the op called from Python, one call a layer.
        of: The case whose kernel it is, or whose op it calls; empty for those cases themselves.
        family: In a sweep over shares of zeros, the kind of weights; otherwise empty.
        sparsity: In such a sweep, the share of zeros, 0 <= sparsity < 1.
    """

    group: str = ""
    view: View = "op"
    of: str = ""
    family: str = ""
    sparsity: float = 0.0


class Case(abc.ABC):
    """One way of running a dense layer.

    Attributes:
        name: Short, unique within a run, and what results are filed under.
        arithmetic: Which of the machine's peaks bounds it: that of float32 multiply-adds, of the
            best dot product of bytes, or of bits.
        tolerance: Largest error of an output against `reference`, relative to the largest output:
            what rounding explains. Tests hold every case to it.
        modules: Modules that must be installed.
        install: The command that installs them.
    """

    name: str
    arithmetic: Arithmetic
    tolerance: float
    modules: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = ""

    def facts(self) -> CaseFacts:
        """What it is: by default another engine."""
        return CaseFacts()

    def missing(self) -> str | None:
        """The command that installs what this case lacks, or None if it lacks nothing."""
        if all(importlib.util.find_spec(module) for module in self.modules):
            return None
        return self.install

    def weights(self, kernel: Array) -> Array:
        """The weights [K, N] that this case multiplies by, before it rounds them.

        Args:
            kernel: A layer's weights.

        Returns:
            `kernel`, with zeros for what the case leaves out.
        """
        return kernel

    def reference(self, problem: Problem, index: int) -> Array:
        """Output of distinct layer `index` in float32: what this case approximates."""
        layer = problem.weights[index]
        return problem.inputs[index] @ self.weights(layer.kernel) + layer.bias

    def density(self, in_features: int, out_features: int) -> float:
        """Share of one layer's weights [K, N] that are multiplied, 0 to 1: all but pruned ones."""
        del in_features, out_features
        return 1.0

    @abc.abstractmethod
    def weight_bytes(self, in_features: int, out_features: int) -> int:
        """Bytes that one layer's weights [K, N] take in this engine."""

    @abc.abstractmethod
    def build(self, problem: Problem) -> Chain:
        """Loads the layers of `problem` into the engine: a chain that runs each of them once."""
