"""What the ops compute, in plain NumPy from the layout drawings alone: no code of the package."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .case import Array

_erf = np.vectorize(math.erf, otypes=[np.float64])
_SELU = (1.0507009873554805, 1.6732632423543772)


def _sigmoid(z: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -z))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "relu6": lambda z: np.clip(z, 0, 6),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.2 * z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "selu": lambda z: _SELU[0] * np.where(z > 0, z, _SELU[1] * np.expm1(np.minimum(z, 0))),
    "gelu": lambda z: 0.5 * z * (1 + _erf(z / math.sqrt(2))),
    "gelu_tanh": lambda z: 0.5 * z * (1 + np.tanh(0.7978845608028654 * (z + 0.044715 * z**3))),
    "silu": lambda z: z * _sigmoid(z),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softplus": lambda z: np.logaddexp(0.0, z),
    "softsign": lambda z: z / (1 + np.abs(z)),
    "exponential": np.exp,
    "hard_sigmoid": lambda z: np.clip(z / 6 + 0.5, 0, 1),
    "hard_silu": lambda z: z * np.clip(z / 6 + 0.5, 0, 1),
}


def activate(name: str, z: Array, tolerance: Array) -> tuple[Array, Array]:
    """An activation of `z +- tolerance` (infinite where nothing is known): value and tolerance."""
    f = ACTIVATIONS[name]
    with np.errstate(all="ignore"):
        value = f(z)
        spread = np.abs(f(z + tolerance) - value) + np.abs(f(z - tolerance) - value)
        # Polynomials instead of libm, float32 throughout; exponential functions of large sums.
        spread += 3e-6 * np.minimum(np.abs(z), 1e30) * (name not in ("linear", "relu", "relu6"))
        spread += 3e-6 * np.abs(value) * (np.abs(z) if name == "exponential" else 1) + 1e-6
    return value, np.where(np.isfinite(spread), spread, np.inf)


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def int8_bytes(k: int, n: int) -> int:
    return round_up(k, 4) * round_up(n, 16)


def int8_weights(packed: Array, k: int, n: int) -> Array:
    """float64 [k, n] of -128 ... 127: panels of 64 outputs, inputs in groups of 4 bytes."""
    rows = round_up(k, 4)
    weights = np.zeros((rows, n))
    for first in range(0, n, 64):
        valid = min(64, n - first)
        width = round_up(valid, 16)
        panel = packed[first * rows : (first + width) * rows].reshape(rows // 4, width, 4)
        matrix = panel.transpose(0, 2, 1).reshape(rows, width)[:, :valid]
        weights[:, first : first + valid] = matrix.astype(np.float64) - 128
    return weights[:k]


def bit_bytes(levels: str, k: int, n: int) -> int:
    bits = 2 if levels == "ternary" else 1
    return -(-k * bits // 32) * round_up(n, 16) * 4


def bit_weights(packed: Array, levels: str, k: int, n: int) -> Array:
    """float64 [k, n] of -1, +1, or -1, 0, 1, 2: words of one output, panels of 64 outputs."""
    bits = 2 if levels == "ternary" else 1
    depth = 32 // bits
    words = -(-k // depth)
    weights = np.zeros((k, n))
    all_words = packed.view("<u4")
    for first in range(0, n, 64):
        valid = min(64, n - first)
        width = round_up(valid, 16)
        panel = all_words[first * words : (first + width) * words].reshape(words, width)
        shifts = np.arange(depth, dtype=np.uint32) * np.uint32(bits)
        fields = (panel[:, None, :] >> shifts[None, :, None]) & np.uint32((1 << bits) - 1)
        fields = fields.reshape(words * depth, width)[:k, :valid].astype(np.float64)
        weights[:, first : first + valid] = fields - 1 if bits == 2 else 2 * fields - 1
    return weights


def sign_words(positive: Array) -> Array:
    """int32 [m, ceil(k / 32)] of booleans [m, k]: bit k % 32 of word k // 32."""
    m, k = positive.shape
    padded = np.zeros((m, round_up(k, 32)), bool)
    padded[:, :k] = positive
    packed = np.packbits(padded, axis=1, bitorder="little")
    return packed.view("<i4") if packed.size else np.zeros((m, -(-k // 32)), np.int32)


def signs_of_words(words: Array, k: int) -> Array:
    """Booleans [m, k] of int32 words."""
    if words.size == 0:
        return np.zeros((len(words), k), bool)
    octets = np.ascontiguousarray(words).view(np.uint8)
    return np.unpackbits(octets, axis=1, bitorder="little")[:, :k].astype(bool)


def quantize(x: Array, x_scale: float | None) -> tuple[Array, Array]:
    """Integers as float64 [m, k] and the scales of the rows [m], NaN for a void row, in the float32
    arithmetic that is documented: every tier must give these very integers."""
    x = x.astype(np.float32)
    most = np.abs(x).max(axis=1, initial=0) if x.shape[1] else np.zeros(len(x), np.float32)
    with np.errstate(all="ignore"):
        if x_scale is None:
            scale = np.where(np.isfinite(most), most / np.float32(127), np.float32(np.nan))
            inverse = np.where(np.isfinite(most), np.float32(127) / most, np.float32(0))
            tiny = most < np.float32(2.0**-100)
            scale[tiny], inverse[tiny] = 0, 0
        else:
            scale = np.full(len(x), x_scale, np.float32)
            scale[np.isnan(x).any(axis=1)] = np.nan
            inverse = np.full(len(x), np.float32(1) / np.float32(x_scale), np.float32)
        scaled = x * inverse[:, None]
        integers = np.clip(
            np.rint(np.nan_to_num(scaled, nan=0.0, posinf=127, neginf=-127)), -127, 127
        )
    integers[np.isnan(scale)] = 0
    return integers.astype(np.float64), scale.astype(np.float64)


def finish(
    sums: Array,
    row_scale: Array,
    scale: Array | None,
    mean: Array | None,
    row_sum: Array,
    bias: Array | None,
    error: Array,
) -> tuple[Array, Array]:
    """row_scale * (scale * sums + mean * row_sum) + bias, and how far float32 may be from it, where
    `error` is how far the sums may be."""
    n = sums.shape[1]
    ones, zeros = np.ones(n), np.zeros(n)
    scale = ones if scale is None else scale.astype(np.float64)
    mean = zeros if mean is None else mean.astype(np.float64)
    bias = zeros if bias is None else bias.astype(np.float64)
    rows = row_scale[:, None]
    with np.errstate(all="ignore"):
        z = rows * (scale * sums + mean * row_sum[:, None]) + bias
        size = np.abs(scale) * np.abs(sums) + np.abs(mean * row_sum[:, None])
        tolerance = (
            np.abs(rows) * (2e-6 * size + np.abs(scale) * error) + 2e-6 * np.abs(bias) + 1e-35
        )
    return z, tolerance


@functools.cache
def shared(name: str) -> Any:
    """The op library's functions."""
    import tfcompress_ops as tfc

    return getattr(tfc.ops._module, name)
