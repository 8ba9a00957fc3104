"""What a case is, how one is spoilt, and how its answer is compared."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]
# An argument of an op: an array, or the list of none or one that an optional input is.
Tensors = dict[str, Any]

# Sizes at which tiles, panels, words and windows begin and end.
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 79, 80, 81)
LARGE = (96, 100, 127, 128, 129, 130, 191, 192, 193, 255, 256, 257, 320, 513)
ROWS = (0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 15, 16, 17, 18, 19, 31, 32, 33, 47, 48, 49, 50, 65)
FLOATS = (np.float32, ml_dtypes.bfloat16, np.float16)
DTYPES = (*FLOATS, np.float64, np.int8, np.uint8, np.int32, np.int64, np.bool_)
# Answers beyond this are not compared, and those beyond any memory must be refused.
LARGE_ELEMENTS = 1 << 22
MOST_ELEMENTS = 1 << 38


@dataclasses.dataclass
class Case:
    """One call of an op, and what must come of it.

    Attributes:
        op: name of the op function in the op library.
        tensors: its inputs.
        attributes: its attributes.
        expect: the answer, or `None` for arguments that the op must refuse.
    """

    op: str
    tensors: Tensors
    attributes: dict[str, Any]
    expect: Callable[[Tensors, Mapping[str, Any]], "Answer | None"]

    def describe(self) -> str:
        """The arguments in a line."""
        parts = [f"{name}={_brief(value)}" for name, value in self.tensors.items()]
        parts += [f"{name}={value!r}" for name, value in self.attributes.items()]
        return f"{self.op}({', '.join(parts)})"


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_brief, value))}]"
    return f"{value.dtype}{list(value.shape)}"


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True so often."""
    return bool(rng.random() < probability)


def pick(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    """One of the choices."""
    return choices[int(rng.integers(len(choices)))]


def size(rng: np.random.Generator) -> int:
    """A size of a matrix: small, seldom larger."""
    return int(pick(rng, LARGE) if chance(rng, 0.06) else pick(rng, SIZES))


def leading(rng: np.random.Generator) -> tuple[int, ...]:
    """The dimensions in front of a tensor's last one."""
    if chance(rng, 0.8):
        return (int(pick(rng, ROWS)) if chance(rng, 0.97) else int(rng.integers(100, 300)),)
    return tuple(int(rng.integers(0, 4)) for _ in range(int(rng.integers(0, 4))))


def activations(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Inputs of a layer; some rows hold zeros, extremes, infinities or NaN."""
    x = rng.standard_normal(shape, np.float32)
    if chance(rng, 0.2):
        x *= np.float32(10.0 ** rng.integers(-6, 4))
    if chance(rng, 0.1):
        x *= (rng.random(shape) < 0.3).astype(np.float32)
    if chance(rng, 0.08) and x.size:
        flat = x.reshape(-1)
        special = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, 1e30, -1e-31)
        for _ in range(int(rng.integers(1, 4))):
            flat[int(rng.integers(flat.size))] = pick(rng, special)
    with np.errstate(all="ignore"):
        return x.astype(dtype)


def vector(rng: np.random.Generator, n: int, spread: float = 1.0) -> Array:
    """Scales, means and biases."""
    values = (rng.standard_normal(n) * spread).astype(np.float32)
    if chance(rng, 0.2):
        values *= (rng.random(n) < 0.5).astype(np.float32)
    return values


def spoil(rng: np.random.Generator, tensors: Tensors, lists: Sequence[str]) -> None:
    """Changes one tensor's shape, dtype or presence. What comes of it may still be in order."""
    name = pick(rng, list(tensors))
    value = tensors[name]
    if name in lists:
        if not value or chance(rng, 0.2):
            n = size(rng)
            extra = rng.standard_normal(pick(rng, ((n,), (1,), ()))).astype(np.float32)
            tensors[name] = [*value, np.asarray(extra, np.float32)]
            return
        if chance(rng, 0.2):
            tensors[name] = []
            return
        tensors[name] = [_spoilt(rng, value[0])]
        return
    tensors[name] = _spoilt(rng, value)


def _spoilt(rng: np.random.Generator, array: Array) -> Array:
    kind = int(rng.integers(7))
    shape = list(array.shape)
    if kind == 0:  # one dimension larger or smaller
        if shape:
            axis = int(rng.integers(len(shape)))
            shape[axis] = max(0, shape[axis] + int(pick(rng, (-16, -4, -1, 1, 1, 3, 4, 16, 64))))
        return np.resize(array, shape) if array.size else np.zeros(shape, array.dtype)
    if kind == 1:  # another rank
        return array[None] if chance(rng, 0.5) else array.reshape(-1)
    if kind == 2:  # no rank
        return array.reshape(-1)[:1].reshape(()) if array.size else np.zeros((), array.dtype)
    if kind == 3:  # another dtype
        with np.errstate(all="ignore"):
            return array.astype(pick(rng, DTYPES))
    if kind == 4:  # nothing
        return np.zeros([0 for _ in shape], array.dtype)
    if kind == 5:  # nothing, of a size beyond all bounds
        huge = [
            int(pick(rng, (0, 1, 3, 64, 65_536, 65_537, 1 << 22, 1 << 31, 1 << 40))) for _ in shape
        ]
        if not huge or 0 not in huge or math.prod(filter(None, huge)) >= 1 << 59:
            return np.zeros([0 for _ in shape], array.dtype)
        return np.zeros(huge, array.dtype)
    return np.resize(array, size(rng)) if array.size else np.zeros(size(rng), array.dtype)


def optional(value: list[Array]) -> Array | None:
    """The array of an optional input, if it is given."""
    return value[0] if value else None


def fits(values: list[Array], n: int, dtype: Any = np.float32) -> bool:
    """Whether an optional input is a vector of n."""
    return len(values) <= 1 and all(v.dtype == dtype and v.shape == (n,) for v in values)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The right answer.

    Attributes:
        shape: its shape.
        check: raises AssertionError where the values are wrong; `None`: any will do.
    """

    shape: tuple[int, ...]
    check: Callable[[Array], None] | None = None

    def __call__(self, y: Array) -> None:
        """Raises AssertionError where `y` is another answer."""
        assert tuple(y.shape) == self.shape, f"shape {y.shape}, not {self.shape}"
        if self.check is not None:
            self.check(y)


def compare(y: Array, expected: Array, tolerance: Array | float, rows: Array | None = None) -> None:
    """Compares float answers; `rows`, of the first axis, are the ones that count."""
    assert y.shape == expected.shape, f"shape {y.shape}, not {expected.shape}"
    rounding = {"bfloat16": 2.0**-8, "float16": 2.0**-10}.get(y.dtype.name, 2e-6)
    got = y.astype(np.float64)
    bound = np.broadcast_to(np.asarray(tolerance, np.float64), expected.shape)
    bound = bound + rounding * np.abs(expected) + (1e-7 if y.dtype == np.float16 else 1e-30)
    with np.errstate(invalid="ignore"):
        good = np.abs(got - expected) <= bound
    good |= np.isnan(got) & np.isnan(expected)
    good |= got == expected
    largest = float(ml_dtypes.finfo(y.dtype).max)
    with np.errstate(invalid="ignore"):
        good |= (np.abs(expected) + bound >= largest) & (np.abs(got) >= largest * 0.99)
    if rows is not None:
        good |= ~rows.reshape(-1, *(1 for _ in y.shape[1:]))
    if not good.all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        raise AssertionError(
            f"{int((~good).sum())} of {good.size} values differ; at {where} {got[where]!r}, "
            f"not {expected[where]!r} +- {bound[where]:.3g}"
        )
