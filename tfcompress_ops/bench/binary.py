"""The binary suite: what `tfcompress bench binary` compares."""

from typing import ClassVar

import numpy as np

from tfcompress_ops.bench.cases import Arithmetic
from tfcompress_ops.bench.chains import Array, Problem
from tfcompress_ops.bench.format_case import FormatCase
from tfcompress_ops.bench.int8 import INT8
from tfcompress_ops.bench.larq import LarqComputeEngine
from tfcompress_ops.bench.peers import LiteRT
from tfcompress_ops.bench.suites import Suite, register_suite
from tfcompress_ops.formats import Binary, Ternary

_OP = "Tfcompress>BinaryMatMul"
_DENSE_INT8 = INT8.variants["dynamic"]


class _LevelsCase(FormatCase):
    """Weights of one or two bits, and signs of inputs, are no approximation: both are the problem.

    Args:
        format: The format.
    """

    # By how its activations are treated.
    _KINDS: ClassVar[dict[str, tuple[Arithmetic, float]]] = {
        "float": ("float32", 1e-5),
        "int8": ("int8", 0.03),
        "binary": ("binary", 1e-5),
    }

    def __init__(self, format: Binary | Ternary) -> None:
        super().__init__(format, _OP, *self._KINDS[format.activations])
        self._takes_signs = format.activations == "binary"

    def weights(self, kernel: Array) -> Array:
        """What is left of `kernel`; see `Case`."""
        return self.format.unpack(self.format.pack(kernel))

    def reference(self, problem: Problem, index: int) -> Array:
        """Output of a layer with these weights, and, where they are taken, signs; see `Case`."""
        layer, x = problem.weights[index], problem.inputs[index]
        if self._takes_signs:
            x = np.where(x < 0, np.float32(-1), np.float32(1))
        return x @ self.weights(layer.kernel) + layer.bias


_SIGNS = _LevelsCase(Binary("binary"))

BINARY = register_suite(
    Suite(
        name="binary",
        summary="binary and ternary weights against float32 and int8.",
        option="--weights",
        variants={
            "w1a1": _SIGNS,
            "w1a8": _LevelsCase(Binary("int8")),
            "w1a32": _LevelsCase(Binary("float")),
            "ternary-a8": _LevelsCase(Ternary("int8")),
            "ternary-a32": _LevelsCase(Ternary("float")),
        },
        peers=(_DENSE_INT8, LiteRT(), LarqComputeEngine(_SIGNS)),
        reference=_DENSE_INT8.name,
    )
)
