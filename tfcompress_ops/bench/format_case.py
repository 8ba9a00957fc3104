"""The case of this package's own formats: one op a layer, whatever the format."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfcompress_ops import patterns
from tfcompress_ops.bench.cases import Arithmetic, Case, CaseFacts
from tfcompress_ops.bench.chains import Array, Chain, Problem, TensorFlowLayer, tensorflow_chain
from tfcompress_ops.formats import Arrays, Format


class _Size(NamedTuple):
    """How large one layer's packed weights are: bytes, and the share of weights in them."""

    weight_bytes: int
    density: float


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
        self._sizes: dict[tuple[int, int], _Size] = {}

    def facts(self) -> CaseFacts:
        """The format's name; see `Case`."""
        return CaseFacts(group=self.format.name)

    def weights(self, kernel: Array) -> Array:
        """`kernel` without what the format prunes; see `Case`."""
        pruning = self.format.pruning
        if pruning is None:
            return kernel
        return np.where(patterns.keep_mask(kernel, **pruning), kernel, np.float32(0))

    def density(self, in_features: int, out_features: int) -> float:
        """1 for formats of a fixed size, otherwise that of a sample; see `Case`."""
        return self._size(in_features, out_features).density

    def weight_bytes(self, in_features: int, out_features: int) -> int:
        """Bytes of the packed arrays; for formats whose size depends on the weights, of a sample.

        See `Case`.
        """
        return self._size(in_features, out_features).weight_bytes

    def pack(self, kernel: Array, x: Array) -> Arrays:
        """A layer's weights [K, N] in the format, calibrated on its input [B, K] if need be."""
        return self.format.pack(kernel, self._calibration(x))

    def build(self, problem: Problem) -> Chain:
        """Packs the weights and chains the op; see `Case`."""
        layers = []
        for weights, x in zip(problem.weights, problem.inputs, strict=True):
            arrays = self.pack(weights.kernel, x)
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

    def _size(self, in_features: int, out_features: int) -> _Size:
        """Computed, or measured once: packing a large sample takes seconds."""
        shape = (in_features, out_features)
        if shape not in self._sizes:
            self._sizes[shape] = self._fixed_size(*shape) or self._sample_size(*shape)
        return self._sizes[shape]

    def _fixed_size(self, in_features: int, out_features: int) -> _Size | None:
        """What the shape alone decides; None if the weights do."""
        weight_bytes = 0
        for shape, dtype in self.format.array_specs(in_features, out_features).values():
            sizes = [size for size in shape if size is not None]
            if len(sizes) < len(shape):
                return None
            weight_bytes += math.prod(sizes) * np.dtype(dtype).itemsize
        return _Size(weight_bytes, 1.0)

    def _sample_size(self, in_features: int, out_features: int) -> _Size:
        """Packs normal weights."""
        rng = np.random.default_rng(0)
        kernel = rng.standard_normal((in_features, out_features), dtype=np.float32)
        arrays = self.pack(kernel, kernel.T)
        kept = np.count_nonzero(self.format.unpack(arrays))
        return _Size(self.format.nbytes(arrays), kept / kernel.size)
