"""The op of binary and ternary weights inside TensorFlow: graphs, signs, gradients, bad inputs."""

import concurrent.futures

import numpy as np
import pytest
import tensorflow as tf

from tfcompress_ops import kernels, ops
from tfcompress_ops.formats import Binary, Ternary

K, N = 67, 37
FORMATS = [
    *(Binary(activations) for activations in ("float", "int8", "binary")),
    *(Ternary(activations) for activations in ("float", "int8")),
    Binary("int8", center=True),
    Binary("binary", center=True, scale_inputs=True),
]
FUSED = sorted(ops.FUSED_ACTIVATIONS)


def by_label(format_):
    return format_.label


def problem(format_, rows=(5,), k=K, n=N, seed=0):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(0.02, 1 / np.sqrt(max(k, 1)), (k, n)).astype(np.float32)
    x = rng.standard_normal((*rows, k)).astype(np.float32)
    return x, format_.pack(kernel), rng.standard_normal(n).astype(np.float32)


def words(signs):
    """Packed signs of a boolean matrix, by NumPy."""
    padded = np.pad(signs, ((0, 0), (0, -signs.shape[1] % 32)))
    return np.packbits(padded, axis=1, bitorder="little").view("<i4")


@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
@pytest.mark.parametrize("rows", [(), (0,), (3,), (2, 3), (2, 0, 3), (2, 3, 17)])
def test_every_rank(format_, rows):
    x, arrays, bias = problem(format_, rows)
    y = format_.matmul(x, arrays, bias)
    assert y.shape == (*rows, N)
    flat = format_.matmul(x.reshape(-1, K), arrays, bias)
    np.testing.assert_allclose(tf.reshape(y, (-1, N)), flat, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_dtype(format_, dtype):
    x, arrays, bias = problem(format_)
    x = tf.cast(x, dtype)
    y = format_.matmul(x, arrays, bias, activation="tanh")
    assert y.dtype == dtype
    expected = format_.matmul(tf.cast(x, "float32"), arrays, bias, activation="tanh")
    np.testing.assert_array_equal(y, tf.cast(expected, dtype))  # rounded once, at the end


@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
def test_graphs_pipelines_and_threads(format_):
    x, arrays, bias = problem(format_, (24,))
    expected = format_.matmul(x, arrays, bias, activation="relu")

    @tf.function(input_signature=[tf.TensorSpec([None, K])])
    def product(rows):
        return format_.matmul(rows, arrays, bias, activation="relu")

    assert product.get_concrete_function().structured_outputs.shape.as_list() == [None, N]
    np.testing.assert_array_equal(product(x), expected)
    data = tf.data.Dataset.from_tensor_slices(x).batch(5).map(product, num_parallel_calls=2)
    got = np.concatenate(list(data.as_numpy_iterator()))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for y in pool.map(lambda _: product(x).numpy(), range(12)):
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("format_", [Binary(), Binary("binary"), Ternary("int8")], ids=by_label)
def test_fused_activations(format_, name):
    x, arrays, bias = problem(format_, (18,))
    y = format_.matmul(x, arrays, bias, activation=name)
    z = format_.matmul(x, arrays, bias)
    np.testing.assert_allclose(y, ops.FUSED_ACTIVATIONS[name](z), rtol=3e-5, atol=3e-6)


def test_activations_that_run_after_the_op():
    x, arrays, bias = problem(Binary())
    y = Binary().matmul(x, arrays, bias, activation="softmax")
    np.testing.assert_allclose(y, tf.nn.softmax(Binary().matmul(x, arrays, bias)), rtol=1e-6)


# Packed signs


@pytest.mark.parametrize(
    ("k", "n", "last"), [(1, 1, 1), (33, 31, 5), (64, 65, 16), (130, 100, 64), (0, 3, 2), (7, 0, 2)]
)
@pytest.mark.parametrize("m", [0, 1, 17, 101])
def test_signs_travel_packed(k, n, last, m):
    format_, rng = Binary("binary"), np.random.default_rng(0)
    x, first, _ = problem(format_, (m,), k, n)
    _, second, bias = problem(format_, (m,), n, last, 1)
    threshold = rng.integers(-k - 1, k + 2, n).astype(np.int32)
    signs = ops.binary_matmul(
        x, first["kernel"], first["scale"], k, activations="binary", threshold=threshold
    )
    levels = kernels.binary_unpack(first["kernel"], k, n).astype(np.int64)
    hidden = np.where(x >= 0, 1, -1) @ levels >= threshold
    assert (signs.dtype, signs.shape) == (tf.int32, (m, -(-n // 32)))
    np.testing.assert_array_equal(signs, words(hidden))  # zeros beyond n too
    ours = kernels.binary_matmul(
        x, first["kernel"], first["scale"], k, threshold=threshold, activations="binary"
    )
    np.testing.assert_array_equal(ours.view(np.int32), signs)

    fused = ops.binary_matmul(
        signs, second["kernel"], second["scale"], n, bias=bias, activations="binary"
    )
    chain = format_.matmul(np.where(hidden, 1, -1).astype(np.float32), second, bias)
    np.testing.assert_array_equal(fused, chain)
    if n:
        exact = kernels.binary_matmul(
            ours, second["kernel"], second["scale"], n, activations="binary", sums=True
        )
        weights = kernels.binary_unpack(second["kernel"], n, last).astype(np.int64)
        np.testing.assert_array_equal(exact, np.where(hidden, 1, -1) @ weights)


def test_bits_beyond_the_last_sign_count_for_nothing():
    format_ = Binary("binary", center=True)
    x, arrays, _ = problem(format_, (20,), 35)
    clean = words(x >= 0)
    dirty = clean.copy()
    dirty[:, -1] |= np.int32(-8)
    options = {"mean": arrays["mean"], "activations": "binary"}
    results = [
        ops.binary_matmul(signs, arrays["kernel"], arrays["scale"], 35, **options).numpy()
        for signs in (clean, dirty)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], format_.matmul(x, arrays))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_of_what_packed_signs_give(dtype):
    x, arrays, _ = problem(Binary("binary"))
    signs = words(x >= 0)
    y = ops.binary_matmul(
        signs, arrays["kernel"], arrays["scale"], K, activations="binary", dtype=dtype
    )
    assert y.dtype == dtype
    expected = tf.cast(Binary("binary").matmul(x, arrays), dtype)
    np.testing.assert_array_equal(y, expected)


# Gradients


def expected_gradients(format_, x, arrays, bias, activation, dy):
    """Plain TensorFlow: float weights, and what the estimators let through."""
    weights = tf.constant(format_.unpack(arrays))
    z = tf.cast(format_.matmul(tf.cast(x, tf.float32), arrays, bias), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(z)
        y = ops.FUSED_ACTIVATIONS[activation](z)
    dz = tape.gradient(y, z, tf.cast(dy, tf.float32))
    dx = tf.tensordot(dz, tf.transpose(weights), 1)
    if format_.activations == "binary":
        magnitude = tf.abs(tf.cast(x, tf.float32))
        if format_.scales_inputs:
            dx *= tf.reduce_mean(magnitude, axis=-1, keepdims=True)
        dx *= tf.cast(magnitude <= 1, tf.float32)
    return dx, tf.reduce_sum(tf.reshape(dz, (-1, N)), axis=0)


def gradients(format_, x, arrays, bias, activation, dy):
    with tf.GradientTape() as tape:
        tape.watch([x, bias])
        y = format_.matmul(x, arrays, bias, activation=activation)
    return tape.gradient(y, [x, bias], tf.cast(dy, y.dtype))


@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
@pytest.mark.parametrize("rows", [(), (0,), (18,), (2, 2, 3)])
def test_gradient_of_every_format_and_rank(format_, rows):
    x, arrays, bias = map_tensors(problem(format_, rows))
    dy = tf.random.stateless_normal((*rows, N), (1, 2))
    got = gradients(format_, x, arrays, bias, "tanh", dy)
    for one, other in zip(
        got, expected_gradients(format_, x, arrays, bias, "tanh", dy), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def map_tensors(found):
    x, arrays, bias = found
    return tf.constant(x), arrays, tf.constant(bias)


@pytest.mark.parametrize("activation", FUSED)
@pytest.mark.parametrize("format_", [Binary(), Binary("binary"), Ternary("int8")], ids=by_label)
def test_gradient_of_every_activation(format_, activation):
    x, arrays, bias = map_tensors(problem(format_, (2, 3)))
    dy = tf.random.stateless_normal((2, 3, N), (1, 2))
    run = tf.function(lambda x, bias: gradients(format_, x, arrays, bias, activation, dy))
    expected = expected_gradients(format_, x, arrays, bias, activation, dy)
    for one, other in zip(run(x, bias), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("format_", [Binary(), Binary("binary")], ids=by_label)
def test_gradient_is_clipped_only_where_signs_are_taken(format_):
    x = tf.constant([[-1.5, -1.0, -0.0, 1.0, 1.0001]])
    arrays = format_.pack(np.ones((5, 2), np.float32))
    dx, _ = gradients(format_, x, arrays, tf.zeros(2), "linear", tf.ones((1, 2)))
    clipped = [[0, 2, 2, 2, 0]] if format_.activations == "binary" else [[2] * 5]
    np.testing.assert_array_equal(dx, clipped)


@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradient_of_short_dtypes(format_, dtype):
    x, arrays, bias = map_tensors(problem(format_))
    x = tf.cast(x, dtype)
    dx, dbias = gradients(format_, x, arrays, bias, "gelu", tf.ones((5, N)))
    assert (dx.dtype, dbias.dtype) == (dtype, tf.float32)
    expected_dx, expected_dbias = expected_gradients(
        format_, x, arrays, bias, "gelu", tf.ones((5, N))
    )
    # Rounded once: apart by one unit at most, where float32's own rounding tips it.
    got, expected_dx = (tf.cast(dx, "float32").numpy(), tf.cast(expected_dx, dtype))
    expected_dx = tf.cast(expected_dx, "float32").numpy()
    np.testing.assert_allclose(got, expected_dx, rtol=2**-7 if dtype == "bfloat16" else 2**-10)
    assert (got != expected_dx).mean() < 0.02
    np.testing.assert_allclose(dbias, expected_dbias, rtol=1e-5, atol=1e-6)


def test_packed_arrays_and_signs_have_no_gradient():
    x, arrays, bias = map_tensors(problem(Binary("binary", center=True)))
    scale, mean = tf.constant(arrays["scale"]), tf.constant(arrays["mean"])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, scale, mean, bias])
        y = ops.binary_matmul(x, arrays["kernel"], scale, K, mean=mean, activations="binary")
        signs = words(x.numpy() >= 0)
        from_signs = ops.binary_matmul(
            signs, arrays["kernel"], scale, K, bias=bias, activations="binary", activation="tanh"
        )
    assert tape.gradient(y, [scale, mean]) == [None, None]
    dbias = tape.gradient(from_signs, bias)
    np.testing.assert_allclose(dbias, tf.reduce_sum(1 - from_signs**2, axis=0), rtol=1e-4)


def test_gradient_is_numerically_right():
    """Against finite differences, where nothing is rounded: float activations."""
    for format_ in (Binary(center=True), Ternary()):
        x, arrays, bias = problem(format_, (2,), 9, 5)
        theoretical, numerical = tf.test.compute_gradient(
            lambda x, bias, format_=format_, arrays=arrays: format_.matmul(
                x, arrays, bias, activation="silu"
            ),
            [x, bias],
            delta=1e-2,
        )
        for one, other in zip(theoretical, numerical, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-3)


# Bad inputs


@pytest.fixture
def arrays():
    return problem(Binary())[1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((2, K))}, TypeError, "`x` must be float32.*received float64"),
        ({"x": np.ones((2, 3), np.int32)}, TypeError, "`x` must be float32.*received int32"),
        ({"levels": "int2"}, ValueError, "`levels` must be .*received 'int2'"),
        ({"activations": "static"}, ValueError, "`activations` must be .*received 'static'"),
        (
            {"levels": "ternary", "activations": "binary"},
            ValueError,
            "`activations` must be 'float' or 'int8' with ternary weights",
        ),
        ({"scale_x": True}, ValueError, "go with activations='binary' only; received .*'float'"),
        ({"threshold": np.zeros(N, np.int32)}, ValueError, "go with activations='binary' only"),
        ({"activation": "no_such"}, ValueError, "no_such"),
    ],
)
def test_python_arguments_are_checked(arrays, change, error, message):
    given = {"x": np.ones((2, K), np.float32), "in_features": K, **change}
    with pytest.raises(error, match=message):
        ops.binary_matmul(kernel=arrays["kernel"], scale=arrays["scale"], **given)


SIGNS = {"activations": "binary"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.float32(1)}, "x must have rank >= 1"),
        ({"x": np.ones((2, K + 1), np.float32)}, f"x must have .*{K} columns"),
        ({"x": np.ones((2, K), np.int32), **SIGNS}, f"x must have .*3 columns for .* = {K}"),
        ({"kernel": np.ones(5, np.uint8)}, "kernel must have shape .*for binary weights"),
        ({"levels": "ternary"}, "kernel must have shape .*for ternary weights"),
        ({"kernel": np.ones((4, 80), np.uint8)}, "kernel must"),
        ({"scale": np.ones((1, N), np.float32)}, "scale must"),
        ({"scale": np.ones(N + 16, np.float32)}, "kernel must"),
        ({"mean": np.ones(N + 1, np.float32)}, "mean must"),
        ({"bias": np.ones((N, 1), np.float32)}, "bias must"),
        ({"threshold": np.ones(N + 1, np.int32), **SIGNS}, "threshold must"),
        ({"in_features": (1 << 22) + 1}, "in_features must be at most 4194304"),
        (
            {"threshold": np.ones(N, np.int32), "scale_x": True, **SIGNS},
            "rows can be scaled by their mean magnitude only where",
        ),
    ],
)
def test_the_op_refuses_what_does_not_fit(arrays, change, message):
    given = {
        "x": np.ones((2, K), np.float32),
        "kernel": arrays["kernel"],
        "scale": arrays["scale"],
        "in_features": K,
        **change,
    }
    message = f"Tfcompress>BinaryMatMul: {message}"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.binary_matmul(**given)
    tensors = {name: value for name, value in given.items() if hasattr(value, "dtype")}
    fixed = {name: value for name, value in given.items() if name not in tensors}
    run = tf.function(
        lambda *values: ops.binary_matmul(**dict(zip(tensors, values, strict=True)), **fixed),
        input_signature=[
            tf.TensorSpec(None, tf.as_dtype(value.dtype)) for value in tensors.values()
        ],
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        run(*tensors.values())


def test_known_shapes_are_refused_as_a_graph_is_traced(arrays):
    def trace(x, kernel):
        specs = [tf.TensorSpec(x), tf.TensorSpec(kernel, tf.uint8)]
        tf.function(
            lambda x, kernel: ops.binary_matmul(x, kernel, arrays["scale"], K),
            input_signature=specs,
        ).get_concrete_function()

    with pytest.raises(ValueError, match=f"x must have {K} columns for in_features = {K}"):
        trace([2, K + 1], [None])
    with pytest.raises(ValueError, match="kernel must hold 576 bytes for in_features"):
        trace([2, K], [7])


def test_raw_ops_check_too(arrays):
    raw, scale = ops._module, arrays["scale"]
    options = {"mean": [], "bias": [], "in_features": K}
    x, signs = np.ones((2, K), np.float32), np.zeros((2, 3), np.int32)
    for given, threshold, dtype, activations, message in (
        (x, [], tf.int32, "binary", "threshold must be given if and only if y is int32"),
        (x, [[0] * N], tf.float32, "binary", "threshold must be given if and only if"),
        (x, [[0] * N], tf.int32, "int8", "exist only where activations are binary"),
        (signs, [], tf.float32, "int8", "x must be floating-point unless"),
    ):
        threshold = [tf.constant(values, tf.int32) for values in threshold]
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            raw.tfcompress_binary_mat_mul(
                given,
                arrays["kernel"],
                scale,
                threshold=threshold,
                Ty=dtype,
                activations=activations,
                **options,
            )


@pytest.mark.parametrize("format_", FORMATS, ids=by_label)
def test_unpack(format_):
    _, arrays, _ = problem(format_)
    kernel, scale, mean = arrays["kernel"], arrays["scale"], arrays.get("mean")
    weights = ops.binary_unpack(kernel, scale, K, mean=mean, levels=format_.levels)
    np.testing.assert_array_equal(weights, format_.unpack(arrays))
    error = tf.errors.InvalidArgumentError
    with pytest.raises(error, match="Tfcompress>BinaryUnpack: kernel must have shape"):
        ops.binary_unpack(kernel, scale, K + 32, mean=mean, levels=format_.levels)
    with pytest.raises(error, match="Tfcompress>BinaryUnpack: mean must"):
        ops.binary_unpack(kernel, scale, K, mean=np.ones(N + 1), levels=format_.levels)
    with pytest.raises(error, match="in_features must be at most 4194304"):
        ops.binary_unpack(kernel, scale, (1 << 22) + 1, levels=format_.levels)


def test_random_bytes_can_do_no_harm():
    """Any bytes of the right length are weights; of any other length they are refused."""
    rng = np.random.default_rng(0)
    refused = 0
    for case in range(300):
        m, k, n = (int(size) for size in rng.integers(0, (40, 150, 90)))
        format_ = FORMATS[case % len(FORMATS)]
        size = kernels.binary_packed_size(k, n, format_.levels)
        change = int(rng.integers(-3, 4)) if case % 2 else 0
        packed = rng.integers(0, 256, max(size + change, 0)).astype(np.uint8)
        x = rng.standard_normal((m, k)).astype(np.float32)
        given = (x, packed, np.ones(n, np.float32), k)
        options = {"levels": format_.levels, "activations": format_.activations}
        if packed.size != size:
            refused += 1
            with pytest.raises(tf.errors.InvalidArgumentError, match="kernel must have shape"):
                ops.binary_matmul(*given, **options)
        else:
            y = ops.binary_matmul(*given, **options).numpy()
            weights = ops.binary_unpack(*given[1:], levels=format_.levels).numpy()
            assert set(np.unique(weights)) <= {-1, 0, 1, 2}
            if format_.activations == "binary":
                x = np.where(x >= 0, 1, -1)
            bound = 0.02 if format_.activations == "int8" else 1e-5
            limit = bound * (np.abs(x) @ np.abs(weights)).max(initial=1)
            np.testing.assert_allclose(y, x @ weights, atol=limit)
    assert refused > 80


def test_random_words_of_signs_can_do_no_harm():
    """Any words are signs, those beyond in_features count for nothing; others are refused."""
    rng = np.random.default_rng(1)
    for case in range(120):
        m, k, n = (int(size) for size in rng.integers((0, 1, 1), (40, 150, 90)))
        columns = -(-k // 32) + (int(rng.integers(0, 2)) if case % 4 == 0 else 0)
        x = rng.integers(-(2**31), 2**31, (m, columns)).astype(np.int32)
        packed = rng.integers(0, 256, kernels.binary_packed_size(k, n, "binary"), np.uint8)
        scale = np.ones(n, np.float32)
        threshold = rng.integers(-(2**31), 2**31, n) if case % 3 else rng.integers(-9, 9, n)
        threshold = threshold.astype(np.int32)
        options = {"activations": "binary"}
        if columns != -(-k // 32):
            with pytest.raises(tf.errors.InvalidArgumentError, match="x must have"):
                ops.binary_matmul(x, packed, scale, k, **options)
            continue
        bits = np.unpackbits(x.view(np.uint8), axis=1, bitorder="little")[:, :k]
        signs = np.where(bits, 1, -1)
        weights = ops.binary_unpack(packed, scale, k, levels="binary").numpy().astype(int)
        sums = signs @ weights
        np.testing.assert_array_equal(ops.binary_matmul(x, packed, scale, k, **options), sums)
        joined = ops.binary_matmul(x, packed, scale, k, threshold=threshold, **options)
        np.testing.assert_array_equal(joined, words(sums >= threshold))


@pytest.mark.parametrize("rows", [0, 2])
def test_signs_go_with_binary_activations_whatever_the_size(rows):
    """Empty tensors have no pointers to go by."""
    kernel, scale = np.zeros(64, np.uint8), np.ones(5, np.float32)
    raw = ops._module.tfcompress_binary_mat_mul
    threshold = [np.zeros(5, np.int32)]
    for x, options in (
        (np.ones((rows, 3), np.float32), {"activations": "float", "Ty": tf.int32}),
        (np.ones((rows, 3), np.float32), {"scale_x": True, "Ty": tf.int32}),
        (np.ones((rows, 1), np.int32), {"scale_x": True, "Ty": tf.float32}),
        (np.ones((rows, 1), np.int32), {"activations": "int8", "Ty": tf.float32}),
    ):
        given = {"activations": "binary", **options}
        signs = threshold if given["Ty"] == tf.int32 else []
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"binary|scaled by their mean"):
            raw(x, kernel, scale, mean=[], bias=[], threshold=signs, in_features=3, **given)
