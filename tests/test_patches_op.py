"""The op that lays out what the windows of a convolution see, against plain loops in NumPy."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfcompress_ops import ops
from tfcompress_ops.ops import Geometry

PADDINGS = ("valid", "same", "causal")


def axis_of(size, kernel, stride, dilation, padding):
    """How many windows there are along an axis, and how many zeros come before it."""
    extent = (kernel - 1) * dilation + 1
    if padding == "valid":
        return len(range(0, size - extent + 1, stride)), 0
    count = len(range(0, size, stride))
    if padding == "causal":
        return count, extent - 1
    return count, max(0, (count - 1) * stride + extent - size) // 2


def reference(x, geometry):
    """All windows, and where each of their elements comes from in x (-1: from a zero)."""
    batch, height, width, channels = x.shape
    places = np.arange(x.size).reshape(x.shape)
    (rows, top), (columns, left) = (
        axis_of(size, *(option[axis] for option in sizes_of(geometry)), geometry.padding)
        for axis, size in enumerate((height, width))
    )
    kernel_h, kernel_w = geometry.kernel_size
    source = np.full((batch, rows, columns, kernel_h, kernel_w, channels), -1)
    for b, r, c, i, j in itertools.product(*map(range, source.shape[:5])):
        h = r * geometry.strides[0] - top + i * geometry.dilations[0]
        w = c * geometry.strides[1] - left + j * geometry.dilations[1]
        if 0 <= h < height and 0 <= w < width:
            source[b, r, c, i, j] = places[b, h, w]
    source = source.reshape(batch * rows * columns, kernel_h * kernel_w * channels)
    return np.append(x.reshape(-1), 0)[source], source


def sizes_of(geometry):
    return geometry.kernel_size, geometry.strides, geometry.dilations


def random_case(rng):
    def pair(high):
        return tuple(int(size) for size in rng.integers(1, high, 2))

    geometry = Geometry(pair(5), pair(4), pair(4), PADDINGS[rng.integers(3)])
    batch, height, width, channels = rng.integers((0, 0, 0, 0), (4, 9, 9, 5))
    return rng.normal(size=(batch, height, width, channels)).astype(np.float32), geometry


@pytest.mark.parametrize("seed", range(6))
def test_random_geometries(seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        x, geometry = random_case(rng)
        expected, _ = reference(x, geometry)
        count = len(expected)
        assert count == len(x) * np.prod(geometry.output_space(*x.shape[1:3]))
        first, end = sorted(rng.integers(0, count + 1, 2))
        got = ops.patches(x, first, end - first, geometry)
        np.testing.assert_array_equal(got, expected[first:end], err_msg=f"{x.shape} {geometry}")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_dtypes(dtype):
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, geometry = random_case(rng)
        x = tf.cast(x, dtype)
        expected, _ = reference(tf.cast(x, tf.float32).numpy(), geometry)
        got = ops.patches(x, 0, len(expected), geometry)
        assert got.dtype == dtype
        np.testing.assert_array_equal(tf.cast(got, tf.float32), expected)


def test_gradient():
    """Each element of x gets what the windows that see it get."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        x, geometry = random_case(rng)
        expected, source = reference(x, geometry)
        first, end = sorted(rng.integers(0, len(expected) + 1, 2))
        upstream = rng.normal(size=expected[first:end].shape).astype(np.float32)
        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ops.patches(x, first, end - first, geometry)
        gradient = np.zeros(int(tf.size(x)) + 1)
        np.add.at(gradient, source[first:end], upstream)
        np.testing.assert_allclose(
            tape.gradient(y, x, upstream), gradient[:-1].reshape(x.shape), rtol=1e-5, atol=1e-5
        )


def test_shapes_in_a_graph():
    geometry = Geometry((3, 2), (1, 1), (1, 1), "same")
    run = tf.function(
        lambda x: ops.patches(x, 0, 4, geometry),
        input_signature=[tf.TensorSpec((None, None, None, 5), tf.float32)],
    )
    assert run.get_concrete_function().output_shapes == (4, 30)


def raw(x=None, first=0, rows=1, **changes):
    x = np.ones((1, 4, 4, 2), np.float32) if x is None else x
    options = {"kernel_size": [2, 2], "strides": [1, 1], "dilations": [1, 1], "padding": "valid"}
    return ops._module.tfcompress_patches(x, first, rows, **{**options, **changes})


@pytest.mark.parametrize("name", ["kernel_size", "strides", "dilations"])
@pytest.mark.parametrize(
    "sizes", [[], [1], [1, 1, 1], [0, 1], [1, -1], [1, 2**20 + 1], [2**62] * 2]
)
def test_malformed_geometry(name, sizes):
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be two integers"):
        raw(**{name: sizes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.ones((4, 4, 2), np.float32)}, "x must have rank 4"),
        ({"first": [0]}, "first must have rank 0|first must be"),
        ({"rows": [1]}, "rows must have rank 0|rows must be"),
        ({"first": -1}, "within the 9 windows; received first = -1"),
        ({"first": 9}, "within the 9 windows"),
        ({"rows": -1}, "within the 9 windows"),
        ({"first": 2**62, "rows": 2**62}, "within the 9 windows"),
        ({"first": 1, "rows": 2**63 - 1}, "within the 9 windows"),
        ({"padding": "reflect"}, "padding"),
        # 1048575 * 1048575 * 2^24 columns are more than an int64 counts.
        (
            {
                "x": np.ones((1, 1, 1, 1 << 24), np.float32),
                "kernel_size": [2**20 - 1] * 2,
                "padding": "same",
            },
            "windows of .* are too large",
        ),
    ],
)
def test_malformed_arguments(changes, message):
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
        raw(**changes)


@pytest.mark.parametrize(
    ("dy", "x_shape", "first", "message"),
    [
        ((1, 7), (1, 4, 4, 2), 0, "dy must have 8 columns"),
        ((1, 8, 1), (1, 4, 4, 2), 0, "dy must have rank 2"),
        ((1, 8), (1, 4, 4), 0, "x_shape must"),
        ((1, 8), (1, 4, -4, 2), 0, None),
        ((1, 8), (2**31, 2**31, 2**31, 2), 0, None),
        ((1, 8), (1, 4, 4, 2), 9, "within the 9 windows"),
        ((10, 8), (1, 4, 4, 2), 0, "within the 9 windows"),
        ((1, 8), (1, 4, 4, 2), -1, "within the 9 windows"),
    ],
)
def test_malformed_gradients(dy, x_shape, first, message):
    options = {"kernel_size": [2, 2], "strides": [1, 1], "dilations": [1, 1], "padding": "valid"}
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
        ops._module.tfcompress_patches_gradient(
            np.ones(dy, np.float32), np.array(x_shape, np.int64), first, **options
        )
