"""The TensorFlow ops: dtypes, ranks, activations, gradients, and every place where ops run."""

import concurrent.futures
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress_ops import ops
from tfcompress_ops.formats import Int8

K, N = 19, 7
EVERY_FORMAT = [format_ for _, format_ in Int8.variants()]
FUSED = sorted(ops.FUSED_ACTIVATIONS)
NOT_FUSED = [
    "softmax",
    "log_softmax",
    "mish",
    "hard_tanh",
    "celu",
    "squareplus",
    "log_sigmoid",
    "sparse_plus",
]


def problem(format_=None, rows=(5,), seed=0):
    format_ = format_ or Int8()
    rng = np.random.default_rng(seed)
    kernel = rng.normal(0.1, 1 / np.sqrt(K), (K, N)).astype(np.float32)
    x = rng.normal(size=(*rows, K)).astype(np.float32)
    bias = rng.normal(size=N).astype(np.float32)
    arrays = format_.pack(kernel, 4.0 if format_.needs_calibration else None)
    return x, arrays, bias


def int8_matmul(x, arrays, bias=None, format_=None, **kwargs):
    return (format_ or Int8()).matmul(x, arrays, bias, **kwargs)


@pytest.fixture
def arrays():
    return problem()[1]


@pytest.mark.parametrize("rows", [(), (0,), (1,), (4,), (2, 3), (2, 0, 3), (2, 1, 2, 3)])
def test_every_rank(rows):
    x, arrays, bias = problem(rows=rows)
    y = int8_matmul(x, arrays, bias)
    assert y.shape == (*rows, N)
    flat = int8_matmul(x.reshape(-1, K), arrays, bias)
    np.testing.assert_array_equal(tf.reshape(y, (-1, N)), flat)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype(dtype):
    x, arrays, bias = problem()
    x = tf.cast(x, dtype)
    y = int8_matmul(x, arrays, bias, activation="tanh")
    assert y.dtype == dtype
    expected = int8_matmul(tf.cast(x, "float32"), arrays, bias, activation="tanh")
    np.testing.assert_array_equal(y, tf.cast(expected, dtype))  # rounded once, at the end


def test_arguments_are_converted():
    x, arrays, bias = problem()
    expected = int8_matmul(tf.constant(x), arrays, bias)
    variables = {name: keras.Variable(array, dtype=array.dtype) for name, array in arrays.items()}
    for given, packed, added in (
        (x, arrays, bias.astype(np.float64)),
        (x.tolist(), arrays, bias.tolist()),
        (keras.Variable(x), variables, keras.Variable(bias)),
    ):
        np.testing.assert_array_equal(int8_matmul(given, packed, added), expected)


@pytest.mark.parametrize("name", FUSED)
def test_fused_activations(name):
    x, arrays, bias = problem(rows=(40,))
    z = int8_matmul(x, arrays, bias)
    y = int8_matmul(x, arrays, bias, activation=name)
    np.testing.assert_allclose(y, ops.FUSED_ACTIVATIONS[name](z), rtol=2e-5, atol=2e-6)
    assert ops.fused_activation_name(name) == (name, None)
    if name != "gelu_tanh":  # Keras has no such name
        function = getattr(keras.activations, name)
        assert ops.fused_activation_name(function) == (name, None)


@pytest.mark.parametrize("name", NOT_FUSED)
def test_activations_that_run_after_the_op(name):
    x, arrays, bias = problem()
    fused, rest = ops.fused_activation_name(name)
    assert fused == "linear"
    assert rest is getattr(keras.activations, name)
    y = int8_matmul(x, arrays, bias, activation=name)
    np.testing.assert_array_equal(y, rest(int8_matmul(x, arrays, bias)))


def test_every_keras_activation_by_name():
    from keras.src.activations import ALL_OBJECTS_DICT

    x, arrays, _ = problem()
    for name in sorted(set(ALL_OBJECTS_DICT) - {"glu", "threshold"}):  # halves / takes arguments
        expected = keras.activations.get(name)(int8_matmul(x, arrays))
        actual = int8_matmul(x, arrays, activation=name)
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6, err_msg=name)


def test_callable_activations():
    class NotHashable:
        __hash__ = None

        def __call__(self, z):
            return z + 1

    x, arrays, bias = problem()
    z = int8_matmul(x, arrays, bias)
    for activation in (
        NotHashable(),
        lambda z: z + 1,
        functools.partial(tf.add, tf.constant(1.0)),
    ):
        np.testing.assert_array_equal(int8_matmul(x, arrays, bias, activation=activation), z + 1)
    assert ops.fused_activation_name(None) == ("linear", None)
    assert ops.fused_activation_name("swish") == ("silu", None)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((2, K))}, TypeError, r"`x` must be float32.*float64 \(shape \(2, 19\)\)"),
        ({"x": np.ones((2, K), np.int32)}, TypeError, "received int32 .*Cast it"),
        ({"activations": "maybe"}, ValueError, "`activations` must be .*received 'maybe'"),
        ({"activation": "no_such"}, ValueError, "no_such"),
        ({"x_scale": [1.0]}, ValueError, "`x_scale` must be given with activations='static'"),
        ({"activations": "static"}, ValueError, "received x_scale=None with .*'static'"),
    ],
)
def test_python_arguments_are_checked(arrays, change, error, message):
    arguments = {"x": np.ones((2, K), np.float32), **change}
    with pytest.raises(error, match=message):
        ops.int8_matmul(kernel=arrays["kernel"], scale=arrays["scale"], **arguments)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"x": np.float32(1)}, "x"),
        ({"x": np.ones((2, K + 4), np.float32)}, "kernel"),
        ({"x": np.ones((2, 65537), np.float32)}, "in_features"),
        ({"kernel": np.ones((4, 80), np.uint8)}, "kernel"),
        ({"scale": np.ones((1, N), np.float32)}, "scale"),
        ({"scale": np.ones(N + 20, np.float32)}, "kernel"),
        ({"mean": np.ones(N + 1, np.float32)}, "mean"),
        ({"bias": np.ones((N, 1), np.float32)}, "bias"),
        ({"x_scale": np.ones(2, np.float32), "activations": "static"}, "x_scale"),
    ],
)
def test_the_op_refuses_what_does_not_fit(arrays, change, argument):
    arguments = {
        "x": np.ones((2, K), np.float32),
        "kernel": arrays["kernel"],
        "scale": arrays["scale"],
        **change,
    }
    message = rf"Tfcompress>Int8MatMul: {argument} must"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.int8_matmul(**arguments)
    # A graph whose shapes are not known fails as it runs, with the same words.
    names = [name for name in arguments if name != "activations"]
    fixed = {name: value for name, value in arguments.items() if name == "activations"}

    @tf.function(
        input_signature=[tf.TensorSpec(None, tf.as_dtype(arguments[name].dtype)) for name in names]
    )
    def run(*tensors):
        return ops.int8_matmul(**dict(zip(names, tensors, strict=True)), **fixed)

    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        run(*(arguments[name] for name in names))


def test_the_op_refuses_kernels_of_another_dtype(arrays):
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        ops.int8_matmul(np.ones((2, K), np.float32), np.ones(80, np.float32), arrays["scale"])


def test_unpack():
    for format_ in EVERY_FORMAT:
        _, arrays, _ = problem(format_)
        weights = ops.int8_unpack(arrays["kernel"], arrays["scale"], K, mean=arrays.get("mean"))
        assert weights.shape == (K, N)
        np.testing.assert_array_equal(weights, format_.unpack(arrays))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Tfcompress>Int8Unpack: kernel must"):
        ops.int8_unpack(arrays["kernel"], arrays["scale"], K + 4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Tfcompress>Int8Unpack: mean must"):
        ops.int8_unpack(arrays["kernel"], arrays["scale"], K, mean=np.ones(N + 1, np.float32))


def gradients(format_, x, arrays, bias, activation, dy):
    """What the op's gradient must be, from float32 weights and Keras' own activation."""
    weights = format_.unpack(arrays)
    z = tf.cast(int8_matmul(tf.cast(x, tf.float32), arrays, bias, format_), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(z)
        y = ops.FUSED_ACTIVATIONS[activation](z)
    dz = tf.reshape(tape.gradient(y, z, tf.cast(dy, tf.float32)), (-1, N)).numpy()
    return (dz @ weights.T).reshape(x.shape), dz.sum(axis=0)


@pytest.mark.parametrize("activation", FUSED)
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_gradient_of_every_activation(activation, graph):
    x, arrays, bias = problem(rows=(2, 3))
    x, bias = tf.constant(x), tf.constant(bias)
    dy = tf.random.stateless_normal((2, 3, N), (1, 2))

    def run(x, bias):
        with tf.GradientTape() as tape:
            tape.watch([x, bias])
            y = int8_matmul(x, arrays, bias, activation=activation)
        return tape.gradient(y, [x, bias], dy)

    actual = (tf.function(run) if graph else run)(x, bias)
    for got, expected in zip(
        actual, gradients(Int8(), x, arrays, bias, activation, dy), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format_", EVERY_FORMAT, ids=lambda format_: format_.label)
@pytest.mark.parametrize("rows", [(), (0,), (3,), (2, 2, 2)])
def test_gradient_of_every_format_and_rank(format_, rows):
    x, arrays, bias = problem(format_, rows)
    x, bias = tf.constant(x), tf.constant(bias)
    with tf.GradientTape() as tape:
        tape.watch([x, bias])
        y = int8_matmul(x, arrays, bias, format_, activation="tanh")
        loss = tf.reduce_sum(y**2)
    dx, dbias = tape.gradient(loss, [x, bias])
    expected_dx, expected_dbias = gradients(format_, x, arrays, bias, "tanh", 2 * y)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dbias, expected_dbias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradient_of_short_dtypes(dtype):
    x, arrays, bias = problem()
    x, bias = tf.cast(x, dtype), tf.constant(bias)
    with tf.GradientTape() as tape:
        tape.watch([x, bias])
        y = int8_matmul(x, arrays, bias, activation="gelu")
    dx, dbias = tape.gradient(y, [x, bias])
    assert (dx.dtype, dbias.dtype) == (dtype, tf.float32)
    expected_dx, expected_dbias = gradients(Int8(), x, arrays, bias, "gelu", tf.ones_like(y))
    np.testing.assert_array_equal(dx, tf.cast(expected_dx, dtype))
    np.testing.assert_allclose(dbias, expected_dbias, rtol=1e-5)


@pytest.mark.parametrize("activation", ["linear", "silu"])
def test_gradient_is_numerically_right(activation):
    """Against finite differences, where nothing is rounded: float activations."""
    format_ = Int8("float", center=True)
    x, arrays, bias = problem(format_, (2,))
    theoretical, numerical = tf.test.compute_gradient(
        lambda x, bias: int8_matmul(x, arrays, bias, format_, activation=activation),
        [x, bias],
        delta=1e-2,
    )
    for one, other in zip(theoretical, numerical, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("spec", [[None, None], [None, K], None, [3, None, None]])
def test_gradient_where_shapes_are_partly_unknown(center, spec):
    format_ = Int8(center=center)
    x, arrays, bias = problem(format_, (3, 2) if spec and len(spec) == 3 else (6,))

    @tf.function(input_signature=[tf.TensorSpec(spec, tf.float32)])
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = int8_matmul(x, arrays, bias, format_, activation="relu")
        return y, tape.gradient(y, x)

    y, dx = run(x)
    np.testing.assert_array_equal(y, int8_matmul(x, arrays, bias, format_, activation="relu"))
    expected, _ = gradients(format_, x, arrays, bias, "relu", tf.ones_like(y))
    np.testing.assert_allclose(dx, expected, rtol=1e-5, atol=1e-5)


def test_gradient_where_nothing_is_known_says_so():
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.float32),
            tf.TensorSpec([None], tf.uint8),
            tf.TensorSpec([None], tf.float32),
        ]
    )
    def run(x, kernel, scale):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ops.int8_matmul(x, kernel, scale)
        return tape.gradient(y, x)

    with pytest.raises(ValueError, match=r"`x` must have a known last dimension .*ensure_shape"):
        run.get_concrete_function()


def test_second_gradient():
    format_ = Int8("float")
    x, arrays, bias = problem(format_)
    weights, x = format_.unpack(arrays), tf.constant(x)

    def second(function):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = function()
            dx = inner.gradient(y, x)
        return outer.gradient(dx, x)

    actual = second(lambda: int8_matmul(x, arrays, bias, format_, activation="tanh"))
    expected = second(lambda: tf.tanh(x @ weights + bias))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_packed_arrays_have_no_gradient():
    x, arrays, _ = problem(Int8(center=True))
    scale, mean = tf.constant(arrays["scale"]), tf.constant(arrays["mean"])
    with tf.GradientTape() as tape:
        tape.watch([scale, mean])
        y = ops.int8_matmul(x, arrays["kernel"], scale, mean=mean)
    assert tape.gradient(y, [scale, mean]) == [None, None]


@pytest.mark.parametrize(
    ("x_shape", "n", "y_shape"),
    [
        (None, None, None),
        ([None, None], None, [None, None]),
        ([None, K], N, [None, N]),
        ([2, None, K], N, [2, None, N]),
        ([K], N, [N]),
    ],
)
def test_static_shapes(x_shape, n, y_shape):
    @tf.function(
        input_signature=[
            tf.TensorSpec(x_shape, tf.float32),
            tf.TensorSpec([None], tf.uint8),
            tf.TensorSpec([n], tf.float32),
        ]
    )
    def run(x, kernel, scale):
        return ops.int8_matmul(x, kernel, scale)

    outputs = run.get_concrete_function().structured_outputs
    assert outputs.shape.as_list() == y_shape if y_shape else outputs.shape.rank is None


def test_in_tf_data():
    x, arrays, bias = problem(rows=(12,))
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(3)
    mapped = dataset.map(
        lambda batch: int8_matmul(batch, arrays, bias, activation="relu"),
        num_parallel_calls=2,
    )
    np.testing.assert_array_equal(
        np.concatenate(list(mapped)), int8_matmul(x, arrays, bias, activation="relu")
    )


def test_from_several_threads():
    problems = [problem(rows=(37,), seed=seed) for seed in range(8)]
    expected = [int8_matmul(x, arrays, bias).numpy() for x, arrays, bias in problems]
    graph = tf.function(lambda x, arrays, bias: int8_matmul(x, arrays, bias))

    def work(index):
        x, arrays, bias = problems[index % 8]
        run = graph if index % 2 else int8_matmul
        return run(tf.constant(x), {n: tf.constant(a) for n, a in arrays.items()}, bias).numpy()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for index, y in enumerate(pool.map(work, range(200))):
            np.testing.assert_array_equal(y, expected[index % 8])


def test_matches_the_kernels():
    """The op and the pybind11 module are the same kernels."""
    from tfcompress_ops import kernels

    x, arrays, bias = problem(rows=(33,))
    np.testing.assert_array_equal(
        int8_matmul(x, arrays, bias, activation="gelu"),
        kernels.int8_matmul(x, arrays["kernel"], arrays["scale"], bias=bias, activation="gelu"),
    )


def test_an_unknown_tier_is_refused(run_python):
    process = run_python(
        """
        import numpy as np
        import tfcompress_ops as tfc
        layer = tfc.layers.Dense(3)
        layer(np.ones((2, 4), "float32"))
        """,
        env={"TFCOMPRESS_ISA": "sse9"},
        check=False,
    )
    last = process.stderr[process.stderr.rindex("InvalidArgumentError") :]
    assert "Tfcompress>Int8MatMul" in last
    assert "TFCOMPRESS_ISA" in last
    assert "sse9" in last


def table(rows=7, width=9):
    rng = np.random.default_rng(0)
    return {
        "rows": rng.integers(-128, 128, (rows, width)).astype(np.int8),
        "scale": rng.normal(size=rows).astype(np.float32),
        "mean": rng.normal(size=rows).astype(np.float32),
    }


def looked_up(arrays, indices, mean=None):
    """Plain NumPy, rounded to float32 after each step as the op is."""
    found = arrays["scale"][indices][..., None] * arrays["rows"][indices].astype(np.float32)
    return found if mean is None else found + mean[indices][..., None]


class TestLookup:
    def call(self, indices=(0, 6), dtype="float32", **changes):
        arrays = {**table(), "mean": None, **changes}
        return ops.int8_lookup(
            indices, arrays["rows"], arrays["scale"], mean=arrays["mean"], dtype=dtype
        )

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    @pytest.mark.parametrize("index_dtype", ["int32", "int64"])
    @pytest.mark.parametrize("shape", [(), (3,), (2, 0, 4), (2, 3, 2)])
    def test_rows(self, shape, index_dtype, dtype):
        indices = np.random.default_rng(1).integers(0, 7, shape).astype(index_dtype)
        for mean in (None, table()["mean"]):
            y = self.call(indices, dtype, mean=mean)
            expected = tf.cast(looked_up(table(), indices, mean), dtype)
            assert y.dtype == dtype
            np.testing.assert_array_equal(tf.cast(y, "float32"), tf.cast(expected, "float32"))

    def test_many_rows_on_threads(self):
        arrays = table(1000, 257)
        indices = np.random.default_rng(1).integers(0, 1000, (40, 50))
        y = ops.int8_lookup(indices, arrays["rows"], arrays["scale"])
        np.testing.assert_array_equal(y, looked_up(arrays, indices))
        indices[31, 7] = 1000
        indices[39, 1] = -1
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"indices\[31,7\] = 1000 is not"):
            ops.int8_lookup(indices, arrays["rows"], arrays["scale"])

    @pytest.mark.parametrize("wrong", [-1, 7, 2**31 - 1, -(2**31)])
    def test_index_out_of_range(self, wrong):
        message = rf"Int8Lookup: indices\[1,0\] = {wrong} is not in \[0, 7\)"
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            self.call([[0, 6], [wrong, 1]])
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"indices = {wrong} is"):
            self.call(wrong)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"not in \[0, 0\)"):
            self.call([0], rows=np.zeros((0, 3), np.int8), scale=np.zeros(0, np.float32))
        with pytest.raises(tf.errors.InvalidArgumentError, match="is not in"):  # of nothing
            self.call([wrong], rows=np.zeros((7, 0), np.int8))

    def test_arrays_of_another_table(self):
        rows = table()["rows"]
        for changes in (
            {"rows": rows[:-1]},
            {"rows": rows[None]},
            {"rows": rows.reshape(-1)},
            {"scale": np.ones(8, np.float32)},
            {"scale": np.ones((7, 1), np.float32)},
            {"mean": np.ones(8, np.float32)},
            {"mean": np.ones((), np.float32)},
        ):
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"rows|scale|mean"):
                self.call(**changes)
        with pytest.raises(TypeError, match="`dtype` must be float32, bfloat16 or float16"):
            self.call(dtype="float64")

    def test_graph_that_knows_no_shape(self):
        arrays = table()
        specs = [tf.TensorSpec(None, dtype) for dtype in (tf.int32, tf.int8, tf.float32)]
        lookup = tf.function(ops.int8_lookup, input_signature=specs)
        indices = tf.constant([[0, 3], [6, 6]])
        rows = lookup(indices, arrays["rows"], arrays["scale"])
        np.testing.assert_array_equal(rows, looked_up(arrays, indices.numpy()))
        for wrong in (arrays["rows"][:-1], arrays["rows"][None]):
            with pytest.raises(tf.errors.InvalidArgumentError):
                lookup(indices, wrong, arrays["scale"])

    def test_shape_is_known_in_a_graph(self):
        @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.int64)])
        def lookup(indices):
            y = self.call(indices)
            assert y.shape.as_list() == [None, 3, 9]
            with pytest.raises(ValueError, match="Dimensions must be equal"):
                self.call(indices, scale=np.ones(8, np.float32))
            return y

        assert lookup(tf.zeros((2, 3), tf.int64)).shape == (2, 3, 9)

    def test_it_has_no_gradient(self):
        scale = tf.constant(table()["scale"])
        with tf.GradientTape() as tape:
            tape.watch(scale)
            y = self.call(scale=scale)
        assert tape.gradient(y, scale) is None


@pytest.mark.parametrize("trace", [tf.function, lambda call: call], ids=["graph", "eager"])
def test_ragged_and_sparse_inputs(trace):
    x, arrays, _ = problem()
    call = trace(lambda x: int8_matmul(x, arrays))
    with pytest.raises(TypeError, match=r"dense tensor; received a SparseTensor .*to_dense\(x\)"):
        call(tf.sparse.from_dense(x))
    with pytest.raises(TypeError, match=r"dense tensor; received a RaggedTensor .*to_tensor\(\)"):
        call(tf.RaggedTensor.from_tensor(x))
