"""What sparse formats are measured against: the sparse products of TensorFlow and SciPy.

Each engine runs in the form that was measured to be its fastest, on the weights that are left when
the smallest of a layer are removed. Like a layer of a model it takes `x` [B, K] and gives `y`
[B, N], both by rows: an engine that multiplies columns pays for its transposes.
"""

import importlib
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from tensorflow.python.ops.linalg.sparse import sparse_csr_matrix_ops

from tfcompress_ops import patterns
from tfcompress_ops.bench.cases import Arithmetic, Case
from tfcompress_ops.bench.chains import (
    Array,
    Chain,
    LayerWeights,
    Problem,
    TensorFlowLayer,
    tensorflow_chain,
)

# From this batch on TensorFlow's CSR product is faster with W^T on the left, up to twice.
_CSR_TRANSPOSED_BATCH = 32


class PrunedCase(Case):
    """An engine that multiplies by float32 weights in the CSR format, the smallest removed.

    Args:
        sparsity: Fraction of zeros, 0 <= sparsity < 1.

    Attributes:
        engine: What the name begins with.
    """

    engine: ClassVar[str]
    arithmetic: Arithmetic = "float32"
    tolerance = 1e-5

    def __init__(self, sparsity: float) -> None:
        self.sparsity = sparsity
        self.name = f"{self.engine} {100 * sparsity:g} %"

    def weights(self, kernel: Array) -> Array:
        """`kernel` without its smallest weights; see `Case`."""
        keep = patterns.keep_mask(kernel, sparsity=self.sparsity)
        return np.where(keep, kernel, np.float32(0))

    def density(self, in_features: int, out_features: int) -> float:
        """The share that is no zero; see `Case`."""
        return self._stored(in_features, out_features) / (in_features * out_features)

    def weight_bytes(self, in_features: int, out_features: int) -> int:
        """A value and an index a weight, and where each row begins."""
        return 8 * self._stored(in_features, out_features) + 4 * (in_features + 1)

    def _stored(self, in_features: int, out_features: int) -> int:
        weights = in_features * out_features
        return weights - round(self.sparsity * weights)


class TensorFlowSparse(PrunedCase):
    """`tf.sparse.sparse_dense_matmul`, which takes the sparse matrix on the left.

    `y = (W^T @ x^T)^T + b`: W as `tf.sparse.from_dense` gives it, transposed by the op, and a
    transpose in the graph before and after it. Storing W^T instead takes up to three times as long
    for one row, and about as long for many.
    """

    engine: ClassVar[str] = "tf.sparse"

    def weight_bytes(self, in_features: int, out_features: int) -> int:
        """A value and two int64 indices a weight."""
        return 20 * self._stored(in_features, out_features)

    def build(self, problem: Problem) -> Chain:
        """Chains the ops; see `Case`."""
        return tensorflow_chain([self._layer(layer) for layer in problem.weights], problem.inputs)

    def _layer(self, layer: LayerWeights) -> TensorFlowLayer:
        matrix = _coordinates(self.weights(layer.kernel))

        def apply(x: tf.Tensor, tensors: Any) -> tf.Tensor:
            weights = tf.SparseTensor(tensors["indices"], tensors["values"], matrix.shape)
            y = tf.sparse.sparse_dense_matmul(weights, tf.transpose(x), adjoint_a=True)
            return tf.transpose(y) + tensors["bias"]

        return TensorFlowLayer(
            apply=apply,
            variables={
                "indices": tf.Variable(matrix.indices, trainable=False),
                "values": tf.Variable(matrix.values, trainable=False),
                "bias": tf.Variable(layer.bias, trainable=False),
            },
            op="SparseTensorDenseMatMul",
        )


class TensorFlowCsr(PrunedCase):
    """TensorFlow's `CSRSparseMatrix`, which is not among its public names.

    `y = x @ W + b` for small batches, where the op transposes; from 32 rows on
    `y = (W^T @ x^T)^T + b`, with W^T stored and the transposes in the graph.
    """

    engine: ClassVar[str] = "tf CSR"

    def build(self, problem: Problem) -> Chain:
        """Chains the ops; see `Case`."""
        transposed = len(problem.inputs[0]) >= _CSR_TRANSPOSED_BATCH
        layers = [self._layer(layer, transposed) for layer in problem.weights]
        return tensorflow_chain(layers, problem.inputs)

    def _layer(self, layer: LayerWeights, transposed: bool) -> TensorFlowLayer:
        weights = self.weights(layer.kernel)
        matrix = sparse_csr_matrix_ops.CSRSparseMatrix(
            _coordinates(weights.T if transposed else weights)
        )

        def apply(x: tf.Tensor, tensors: Any) -> tf.Tensor:
            if transposed:
                y = tf.transpose(sparse_csr_matrix_ops.matmul(matrix, tf.transpose(x)))
            else:
                y = sparse_csr_matrix_ops.matmul(x, matrix)
            return y + tensors["bias"]

        return TensorFlowLayer(
            apply=apply,
            variables={"bias": tf.Variable(layer.bias, trainable=False)},
            op="SparseMatrixMatMul",
        )


class SciPy(PrunedCase):
    """`scipy.sparse`: `y = x @ W + b` with W in CSR, one layer after the other in Python.

    SciPy runs on one thread, whatever the others may use. The call of its product is part of a
    layer: there is no graph to run many of them in.
    """

    engine: ClassVar[str] = "scipy CSR"
    modules: ClassVar[tuple[str, ...]] = ("scipy",)
    install: ClassVar[str] = "pip install scipy"

    def build(self, problem: Problem) -> Chain:
        """Loops over the layers; see `Case`."""
        sparse = importlib.import_module("scipy.sparse")
        layers = [
            (x, sparse.csr_array(self.weights(layer.kernel)), layer.bias)
            for x, layer in zip(problem.inputs, problem.weights, strict=True)
        ]

        def call() -> Array:
            for x, matrix, bias in layers:
                y: Array = x @ matrix + bias
            return y

        return Chain(
            call=call,
            layers=len(layers),
            distinct=len(layers),
            empty=lambda: None,
            output=call,
        )


def _coordinates(matrix: Array) -> tf.SparseTensor:
    """The weights that are no zeros, with their places by row and column."""
    places = np.argwhere(matrix)
    return tf.SparseTensor(places, matrix[tuple(places.T)], matrix.shape)
