"""The case of this package's own formats: one op a layer, whatever the format."""

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfcompress_ops.bench.cases import Arithmetic, Case
from tfcompress_ops.bench.chains import Array, Chain, Problem, TensorFlowLayer, tensorflow_chain
from tfcompress_ops.formats import Format


class FormatCase(Case):
    """A format's op on packed weights, as the compressed layers call it.

    Args:
        format: The format.
        op: Type of the op that it multiplies with.
        arithmetic: See `Case`.
        tolerance: See `Case`.
        name: Name in tables and results; the format's label if `None`.
    """

    def __init__(
        self,
        format: Format,
        op: str,
        arithmetic: Arithmetic,
        tolerance: float,
        name: str | None = None,
    ) -> None:
        self.format = format
        self.op = op
        self.arithmetic = arithmetic
        self.tolerance = tolerance
        self.name = format.label if name is None else name

    def weight_bytes(self, in_features: int, out_features: int) -> int:
        """Bytes of the packed arrays; for formats whose size depends on the weights, of a sample.

        See `Case`.
        """
        specs = self.format.array_specs(in_features, out_features)
        if all(None not in shape for shape, _ in specs.values()):
            return sum(
                math.prod(size or 0 for size in shape) * np.dtype(dtype).itemsize
                for shape, dtype in specs.values()
            )
        rng = np.random.default_rng(0)
        kernel = rng.standard_normal((in_features, out_features), dtype=np.float32)
        return self.format.nbytes(self.format.pack(kernel, self._calibration(kernel)))

    def build(self, problem: Problem) -> Chain:
        """Packs the weights and chains the op; see `Case`."""
        layers = []
        for weights, x in zip(problem.weights, problem.inputs, strict=True):
            arrays = self.format.pack(weights.kernel, self._calibration(x))
            variables = {
                name: tf.Variable(array, trainable=False) for name, array in arrays.items()
            }
            variables["bias"] = tf.Variable(weights.bias, trainable=False)
            layers.append(TensorFlowLayer(apply=self._apply, variables=variables, op=self.op))
        return tensorflow_chain(layers, problem.inputs)

    def _apply(self, x: tf.Tensor, tensors: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return self.format.matmul(x, tensors, bias=tensors["bias"])

    def _calibration(self, x: Array) -> object:
        if not self.format.needs_calibration:
            return None
        return self.format.observe(None, tf.constant(x))
