"""Cases of the ops of windows: what they see as rows, and each channel convolved by itself."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from . import reference
from .case import (
    FLOATS,
    Answer,
    Array,
    Case,
    Tensors,
    chance,
    compare,
    fits,
    optional,
    pick,
    spoil,
    vector,
)

_PADDINGS = ("valid", "same", "causal")
_MOST = 1 << 20


def make(rng: np.random.Generator) -> Case:
    """A case."""
    case: Case = pick(rng, (_patches, _gradient, _depthwise))(rng)
    return case


def _attributes(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "kernel_size": [int(rng.integers(1, 5)) for _ in range(2)],
        "strides": [int(rng.integers(1, 4)) for _ in range(2)],
        "dilations": [int(rng.integers(1, 4)) if chance(rng, 0.4) else 1 for _ in range(2)],
        "padding": pick(rng, _PADDINGS),
    }


def _spoil_attributes(rng: np.random.Generator, attributes: dict[str, Any]) -> None:
    if chance(rng, 0.15):
        name = pick(rng, ("kernel_size", "strides", "dilations"))
        values = list(attributes[name])
        kind = int(rng.integers(3))
        if kind == 0:
            values = pick(rng, ([], [1], [1, 1, 1], [2, 2, 2, 2]))
        else:
            extremes = (0, -1, _MOST, _MOST + 1, 1 << 40, (1 << 63) - 1, -(1 << 63))
            values[int(rng.integers(2))] = pick(rng, extremes)
        attributes[name] = values
    if chance(rng, 0.03):
        attributes["padding"] = pick(rng, ("", "SAME", "full"))


def _windows(
    shape: tuple[int, ...], attributes: Mapping[str, Any]
) -> tuple[int, int, int, int] | None:
    """Windows down and across, zeros above and left; `None` where attributes are wrong."""
    lists = [attributes[name] for name in ("kernel_size", "strides", "dilations")]
    if any(len(values) != 2 or not all(1 <= v <= _MOST for v in values) for values in lists):
        return None
    if attributes["padding"] not in _PADDINGS:
        return None
    counts, before = [], []
    for size, kernel, stride, dilation in zip(shape[1:3], *lists, strict=True):
        extent = (kernel - 1) * dilation + 1
        if attributes["padding"] == "valid":
            counts.append(max(0, -(-(size - extent + 1) // stride)))
            before.append(0)
            continue
        counts.append(-(-size // stride))
        around = max((counts[-1] - 1) * stride + extent - size, 0) if counts[-1] else 0
        before.append(extent - 1 if attributes["padding"] == "causal" else around // 2)
    return counts[0], counts[1], before[0], before[1]


def _places(
    shape: tuple[int, ...], attributes: Mapping[str, Any], first: int, rows: int
) -> Iterator[tuple[int, int, tuple[int, int, int]]]:
    """(row, column / channels, (image, y, x)) of all that lies inside."""
    found = _windows(shape, attributes)
    assert found is not None
    down, across, above, left = found
    (kernel_h, kernel_w), (stride_h, stride_w), (dilation_h, dilation_w) = (
        attributes[name] for name in ("kernel_size", "strides", "dilations")
    )
    for row in range(rows):
        image, rest = divmod(first + row, down * across)
        top, start = rest // across * stride_h - above, rest % across * stride_w - left
        for i in _inside(top, dilation_h, kernel_h, shape[1]):
            for j in _inside(start, dilation_w, kernel_w, shape[2]):
                yield row, i * kernel_w + j, (image, top + i * dilation_h, start + j * dilation_w)


def _inside(start: int, step: int, count: int, size: int) -> range:
    """The i of 0 ... count - 1 for which 0 <= start + i * step < size."""
    return range(max(0, -(start // step)), min(count, -((start - size) // step)))


def _shape(rng: np.random.Generator) -> tuple[int, ...]:
    return (*(int(rng.integers(0, n)) for n in (4, 9, 9)), int(rng.integers(0, 5)))


def _rows(
    rng: np.random.Generator, shape: tuple[int, ...], attributes: Mapping[str, Any]
) -> tuple[int, int]:
    found = _windows(shape, attributes)
    count = shape[0] * found[0] * found[1] if found else 3
    first = int(rng.integers(0, count + 1))
    return first, int(rng.integers(0, count - first + 1))


def _patches(rng: np.random.Generator) -> Case:
    shape, attributes = _shape(rng), _attributes(rng)
    _spoil_attributes(rng, attributes)
    first, rows = _rows(rng, shape, attributes)
    if chance(rng, 0.1):
        first += int(pick(rng, (-1, 1, 100, 1 << 62, -(1 << 62))))
    if chance(rng, 0.1):
        rows += int(pick(rng, (-1, 1, 100, 1 << 62, -(1 << 62))))
    tensors: Tensors = {
        "x": rng.standard_normal(shape).astype(pick(rng, FLOATS)),
        "first": np.asarray(first, np.int64),
        "rows": np.asarray(rows, np.int64),
    }
    if chance(rng, 0.2):
        spoil(rng, tensors, ())
    return Case("tfcompress_patches", tensors, attributes, _expect_patches)


def _scalar(array: Array) -> int | None:
    return int(array) if array.dtype == np.int64 and array.ndim == 0 else None


def _expect_patches(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    x, first, rows = tensors["x"], _scalar(tensors["first"]), _scalar(tensors["rows"])
    if x.dtype not in FLOATS or x.ndim != 4 or first is None or rows is None:
        return None
    found = _windows(x.shape, attributes)
    if found is None:
        return None
    count = x.shape[0] * found[0] * found[1]
    if first < 0 or rows < 0 or first + rows > count:
        return None
    kernel_h, kernel_w = attributes["kernel_size"]
    columns = kernel_h * kernel_w * x.shape[3]
    if columns >= 1 << 62:
        return None
    if rows * columns == 0:
        return Answer((rows, columns))

    def check(y: Array) -> None:
        expected = np.zeros((rows, kernel_h * kernel_w, x.shape[3]), x.dtype)
        for row, at, place in _places(x.shape, attributes, first, rows):
            expected[row, at] = x[place]
        np.testing.assert_array_equal(y, expected.reshape(rows, columns))

    return Answer((rows, columns), check)


def _gradient(rng: np.random.Generator) -> Case:
    shape, attributes = _shape(rng), _attributes(rng)
    first, rows = _rows(rng, shape, attributes)
    columns = int(np.prod(attributes["kernel_size"])) * shape[3]
    _spoil_attributes(rng, attributes)
    if chance(rng, 0.1):
        first += int(pick(rng, (-1, 1, 100, 1 << 62, -(1 << 62))))
    x_shape = np.array(shape, np.int64)
    if chance(rng, 0.1):
        extremes = (-1, 0, 1, 1 << 20, 1 << 40, (1 << 63) - 1, -(1 << 63))
        x_shape[int(rng.integers(4))] = pick(rng, extremes)
    tensors: Tensors = {
        "dy": rng.standard_normal((rows, columns)).astype(np.float32),
        "x_shape": x_shape,
        "first": np.asarray(first, np.int64),
    }
    if chance(rng, 0.2):
        spoil(rng, tensors, ())
    return Case("tfcompress_patches_gradient", tensors, attributes, _expect_gradient)


def _expect_gradient(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    dy, x_shape, first = tensors["dy"], tensors["x_shape"], _scalar(tensors["first"])
    if dy.dtype != np.float32 or dy.ndim != 2 or first is None:
        return None
    if x_shape.dtype != np.int64 or x_shape.shape != (4,) or (x_shape < 0).any():
        return None
    shape = tuple(int(size) for size in x_shape)
    found = _windows(shape, attributes)
    # TensorFlow multiplies a shape's dimensions in order.
    elements = 1
    for size in shape:
        elements *= size
        if elements >= 1 << 63:
            return None
    if found is None:
        return None
    kernel_h, kernel_w = attributes["kernel_size"]
    rows = len(dy)
    if first < 0 or first + rows > shape[0] * found[0] * found[1]:
        return None
    if dy.shape[1] != kernel_h * kernel_w * shape[3]:
        return None
    if 0 in shape:
        return Answer(shape)

    def check(dx: Array) -> None:
        expected, sizes = np.zeros(shape), np.zeros(shape)
        parts = dy.reshape(rows, kernel_h * kernel_w, shape[3]).astype(np.float64)
        for row, at, place in _places(shape, attributes, first, rows):
            expected[place] += parts[row, at]
            sizes[place] += np.abs(parts[row, at])
        assert (np.abs(dx - expected) <= 2e-6 * sizes).all(), "another gradient"

    return Answer(shape, check)


def _depthwise(rng: np.random.Generator) -> Case:
    channels = int(pick(rng, (0, 1, 3, 4, 8, 15, 16, 17, 33, 40)))
    shape, attributes = (*_shape(rng)[:3], channels), _attributes(rng)
    taps = int(np.prod(attributes["kernel_size"]))
    tensors: Tensors = {
        "x": rng.standard_normal(shape).astype(np.float32),
        "kernel": rng.standard_normal((taps, channels)).astype(np.float32),
        "bias": [vector(rng, channels)] if chance(rng, 0.5) else [],
    }
    attributes["activation"] = "linear"
    _spoil_attributes(rng, attributes)
    if chance(rng, 0.3):
        attributes["activation"] = pick(rng, (*reference.ACTIVATIONS, "", "RELU"))
    if chance(rng, 0.25):
        spoil(rng, tensors, ("bias",))
    return Case("tfcompress_depthwise_conv2d", tensors, attributes, _expect_depthwise)


def _expect_depthwise(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    x, kernel = tensors["x"], tensors["kernel"]
    if any(array.dtype != np.float32 for array in (x, kernel)) or x.ndim != 4:
        return None
    found, name = _windows(x.shape, attributes), attributes["activation"]
    if found is None or name not in reference.ACTIVATIONS:
        return None
    kernel_h, kernel_w = attributes["kernel_size"]
    batch, channels = x.shape[0], x.shape[3]
    if kernel.shape != (kernel_h * kernel_w, channels) or not fits(tensors["bias"], channels):
        return None
    shape = (batch, *found[:2], channels)
    if 0 in shape:
        return Answer(shape)

    def check(y: Array) -> None:
        rows = batch * found[0] * found[1]
        sums, sizes = np.zeros((rows, channels)), np.zeros((rows, channels))
        for row, at, place in _places(x.shape, attributes, 0, rows):
            product = x[place].astype(np.float64) * kernel[at]
            sums[row] += product
            sizes[row] += np.abs(product)
        bias = optional(tensors["bias"])
        if bias is not None:
            sums, sizes = sums + bias, sizes + np.abs(bias)
        compare(y, *(v.reshape(shape) for v in reference.activate(name, sums, 4e-6 * sizes)))

    return Answer(shape, check)
