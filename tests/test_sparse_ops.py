"""The op of pruned weights inside TensorFlow: graphs, threads, gradients, bad inputs."""

import concurrent.futures

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops.formats import Sparse

K, N = 100, 37
VALUES = ("float32", "bfloat16", "int8")
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.03}


def problem(values="float32", m=5, **options):
    rng = np.random.default_rng(0)
    format_ = Sparse(**(options or {"sparsity": 0.7}), values=values)
    arrays = format_.pack(rng.standard_normal((K, N)).astype(np.float32))
    x = rng.standard_normal((m, K)).astype(np.float32)
    bias = rng.standard_normal(N).astype(np.float32)
    return format_, arrays, x, bias


def assert_close(y, expected, values):
    scale = np.abs(expected).max() + 1
    np.testing.assert_allclose(y, expected, atol=TOLERANCE[values] * scale)


@pytest.mark.parametrize("values", VALUES)
def test_graphs_with_unknown_shapes(values):
    format_, arrays, x, bias = problem(values)

    @tf.function(input_signature=[tf.TensorSpec(None)])
    def product(x):
        return format_.matmul(x, arrays, bias=bias)

    expected = x @ format_.unpack(arrays) + bias
    assert_close(product(x), expected, values)
    assert_close(product(x[:, None])[:, 0], expected, values)
    assert_close(product(x[0]), expected[0], values)
    assert product(np.zeros((0, 3, K), np.float32)).shape == (0, 3, N)


def test_shape_function():
    format_, arrays, _, _ = problem()
    traced = tf.function(lambda x: format_.matmul(x, arrays)).get_concrete_function(
        tf.TensorSpec([None, 7, K])
    )
    assert traced.output_shapes == (None, 7, N) or traced.output_shapes.as_list() == [None, 7, N]


@pytest.mark.parametrize("values", VALUES)
def test_pipelines_and_threads(values):
    format_, arrays, x, _ = problem(values, m=64)
    tensors = {name: tf.constant(array) for name, array in arrays.items()}
    expected = x @ format_.unpack(arrays)
    data = tf.data.Dataset.from_tensor_slices(x).batch(8)
    data = data.map(lambda rows: format_.matmul(rows, tensors), num_parallel_calls=4)
    assert_close(np.concatenate(list(data.as_numpy_iterator())), expected, values)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for y in pool.map(lambda _: format_.matmul(x, tensors).numpy(), range(50)):
            assert_close(y, expected, values)


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "tanh", "softplus", "silu", "elu"])
@pytest.mark.parametrize("shape", [(5, K), (2, 3, K), (70, K)])
def test_gradients_are_those_of_the_dense_product(activation, shape):
    format_, arrays, _, bias = problem()
    x = tf.constant(np.random.default_rng(1).standard_normal(shape).astype(np.float32))
    values, bias = tf.Variable(arrays["values"]), tf.Variable(bias)
    dense = tf.Variable(format_.unpack(arrays))
    apply = keras.activations.get(activation)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = format_.matmul(x, {**arrays, "values": values}, bias=bias, activation=activation)
        loss = tf.reduce_sum(y * y)
    dx, dvalues, dbias = tape.gradient(loss, [x, values, bias])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = apply(tf.tensordot(x, dense, 1) + bias)
        loss = tf.reduce_sum(y * y)
    expected_dx, ddense, expected_dbias = tape.gradient(loss, [x, dense, bias])
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(dbias, expected_dbias, rtol=1e-4, atol=1e-3)
    stored = format_.unpack(arrays) != 0
    unpacked = format_.unpack({**arrays, "values": dvalues.numpy()})
    np.testing.assert_allclose(unpacked, ddense * stored, rtol=1e-4, atol=2e-3)
    # What is no weight has no gradient: every optimizer leaves it at 0.
    assert np.count_nonzero(dvalues) <= stored.sum()


@pytest.mark.parametrize("values", ["bfloat16", "int8"])
def test_other_values_have_no_gradient(values):
    format_, arrays, x, bias = problem(values)
    x, bias = tf.constant(x), tf.Variable(bias)
    stored = tf.constant(arrays["values"])
    with tf.GradientTape() as tape:
        tape.watch([x, stored] if values == "bfloat16" else [x])
        y = format_.matmul(x, {**arrays, "values": stored}, bias=bias, activation="tanh")
        loss = tf.reduce_sum(y * y)
    dx, dstored, dbias = tape.gradient(loss, [x, stored, bias])
    assert dstored is None
    dense = tf.constant(format_.unpack(arrays))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.tanh(x @ dense + bias)
        loss = tf.reduce_sum(y * y)
    expected_dx, expected_dbias = tape.gradient(loss, [x, bias])
    for one, other in ((dx, expected_dx), (dbias, expected_dbias)):
        np.testing.assert_allclose(one, other, atol=0.1 * np.abs(other).max())


def test_gradient_needs_a_known_width():
    format_, arrays, x, _ = problem()

    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = format_.matmul(x, arrays)
        return tape.gradient(y, x)

    with pytest.raises(ValueError, match="`x` must have a known last dimension"):
        gradient(x)


class TestErrors:
    def call(self, message, stored_as="int8", **changes):
        _, arrays, x, bias = problem(stored_as)
        given = {**arrays, "x": x, "bias": bias, **changes}
        given.pop("shape")
        structure, stored, x = given.pop("structure"), given.pop("values"), given.pop("x")
        reach = 128 if stored_as == "int8" else 64
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
            tfc.ops.sparse_matmul(x, structure, stored, **{"reach": reach, **given})

    def test_x(self):
        x = np.ones((2, K + 1), np.float32)
        self.call(f"SparseMatMul: in_features must be {K}, as structure has it; received", x=x)
        self.call("x must have rank >= 1|rank", x=np.float32(1))
        with pytest.raises(TypeError, match="`x` must be float32, bfloat16 or float16"):
            tfc.ops.sparse_matmul(np.ones((2, K)), *([np.zeros(1, np.uint8)] * 2))

    def test_shapes(self):
        _, arrays, _, _ = problem("int8")
        structure, values = arrays["structure"], arrays["values"]
        self.call("structure must have a size that goes with", structure=structure[:-2])
        self.call("structure must have a size that goes with", values=values[1:])
        self.call("values must have shape|Dimension must be", values=values[:, :32])
        self.call("must have rank|rank", structure=structure[None])
        self.call("must have rank|rank", values=values[0])
        self.call("structure must have a size", structure=structure[:0])
        self.call("scale must have shape|same", scale=arrays["scale"][:-1])
        self.call("bias must have shape|same", bias=np.ones(N + 1, np.float32))

    def test_scales(self):
        self.call("scale must be given if and only if values are int8", scale=None)
        self.call("scale must be given if and only if", "float32", scale=np.ones(N, np.float32))
        x_scale = np.ones(1, np.float32)
        self.call("x_scale must be given if and only if", "float32", x_scale=x_scale)
        self.call("x_scale must be a finite number", x_scale=x_scale * 0)
        self.call("reach must be 64, or with int8 values 128; received 32", reach=32)
        self.call("reach must be 64, or with int8 values 128", "float32", reach=128)

    def test_swapped_arrays(self):
        _, arrays, _, _ = problem("int8")
        other = Sparse(values="int8", sparsity=0.3).pack(np.random.randn(K, N))
        self.call("structure must have a size", values=other["values"])
        self.call("in_features must be", structure=arrays["structure"][::-1])

    def test_contents(self):
        _, arrays, _, _ = problem("int8")
        places = arrays["values"].size
        panels = -(-N // 16) + 1
        for word, value, message in (
            (0, 1, "panels must ascend from 0 to the number of steps"),
            (1, -5, "panels must ascend from 0 to the number of steps"),
            (panels - 1, 10**6, "panels must ascend from 0 to the number of steps"),
            (panels, N, f"order must hold each output from 0 to {N - 1} once; received {N}"),
            (panels, 1, "order must hold each output"),
            (panels + 3, -1, "order must hold each output"),
        ):
            broken = arrays["structure"].copy()
            broken[places + 4 * word : places + 4 * word + 4] = np.array([value], "<i4").view("u1")
            self.call(message, structure=broken)
        broken = arrays["structure"].copy()
        broken[-2:] = np.array([2], "<u2").view("u1")
        self.call("windows must be below 2 for in_features = 100; received 2", structure=broken)

    def test_indices_can_do_no_harm(self):
        """Any index is in bounds; the result is some number."""
        for values in VALUES:
            format_, arrays, x, _ = problem(values)
            broken = arrays["structure"].copy()
            broken[: arrays["values"].size] = np.random.default_rng(0).integers(
                0, 256, arrays["values"].size
            )
            y = format_.matmul(x, {**arrays, "structure": broken})
            assert np.isfinite(y).all()


def test_unpack_and_gradient_ops_check_too():
    _, arrays, x, _ = problem()
    raw = tfc.ops._module
    with pytest.raises(tf.errors.InvalidArgumentError, match="in_features must be 100"):
        raw.tfcompress_sparse_unpack(arrays["structure"], arrays["values"], scale=[], in_features=9)
    with pytest.raises(tf.errors.InvalidArgumentError, match="dz must have shape"):
        raw.tfcompress_sparse_values_gradient(x, x, arrays["structure"], arrays["values"])
