"""Cases of the int8 ops: the product, its gradient's unpacking, and the embedding look-up."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import reference
from .case import (
    FLOATS,
    Answer,
    Array,
    Case,
    Tensors,
    activations,
    chance,
    compare,
    fits,
    leading,
    optional,
    pick,
    size,
    spoil,
    vector,
)

_MOST_ROWS = 65_536
_LISTS = ("x_scale", "mean", "bias")
_KINDS = ("dynamic", "static", "float")


def make(rng: np.random.Generator) -> Case:
    """A case."""
    maker = pick(rng, (_product, _product, _product, _unpack, _lookup))
    case: Case = maker(rng)
    return case


def _packed(rng: np.random.Generator, k: int, n: int) -> Array:
    packed = rng.integers(0, 256, reference.int8_bytes(k, n), np.uint8)
    return packed if chance(rng, 0.7) else np.clip(packed, 1, 255)


def _product(rng: np.random.Generator) -> Case:
    k, n = size(rng), size(rng)
    kind = pick(rng, _KINDS)
    x = activations(rng, (*leading(rng), k), pick(rng, FLOATS) if chance(rng, 0.4) else np.float32)
    tensors: Tensors = {
        "x": x,
        "kernel": _packed(rng, k, n),
        "scale": vector(rng, n, 0.02),
        "x_scale": [np.exp(rng.standard_normal(1) - 3).astype(np.float32)]
        if kind == "static"
        else [],
        "mean": [vector(rng, n, 0.1)] if chance(rng, 0.4) else [],
        "bias": [vector(rng, n)] if chance(rng, 0.5) else [],
    }
    attributes = {"activations": kind, "activation": "linear"}
    if chance(rng, 0.4):
        attributes["activation"] = pick(rng, list(reference.ACTIVATIONS))
    if chance(rng, 0.35):
        spoil(rng, tensors, _LISTS)
    if chance(rng, 0.05):
        attributes["activations"] = pick(rng, (*_KINDS, "binary", "", "Dynamic", "\0"))
    if chance(rng, 0.02):
        attributes["activation"] = pick(rng, ("softmax", "", "RELU", "linear\0"))
    if chance(rng, 0.05) and tensors["x_scale"]:
        value = pick(rng, (0.0, -1.0, np.nan, np.inf, 1e-40, 2.0**-110, 2.0**100, 2.0**-111, 3e38))
        tensors["x_scale"] = [np.full(1, value, np.float32)]
    return Case("tfcompress_int8_mat_mul", tensors, attributes, expect_product)


def expect_product(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    """The answer, or `None` where the op must refuse."""
    x, kernel, scale = tensors["x"], tensors["kernel"], tensors["scale"]
    kind, activation = attributes["activations"], attributes["activation"]
    if kind not in _KINDS or activation not in reference.ACTIVATIONS:
        return None
    if x.dtype not in FLOATS or x.ndim < 1 or x.shape[-1] > _MOST_ROWS:
        return None
    if not _is_packed(kernel, scale, x.shape[-1]):
        return None
    k, n = x.shape[-1], len(scale)
    x_scale = optional(tensors["x_scale"])
    if not (fits(tensors["x_scale"], 1) and fits(tensors["mean"], n) and fits(tensors["bias"], n)):
        return None
    if (x_scale is not None) != (kind == "static"):
        return None
    if x_scale is not None and not 2.0**-110 <= x_scale[0] <= 2.0**100:
        return None
    shape = (*x.shape[:-1], n)
    if 0 in shape:
        return Answer(shape)

    def check(y: Array) -> None:
        rows = x.reshape(math.prod(x.shape[:-1]), k).astype(np.float32)
        weights = reference.int8_weights(kernel, k, n)
        mean, bias = optional(tensors["mean"]), optional(tensors["bias"])
        assert y.dtype == x.dtype
        z, tolerance, counts = _sums(rows, weights, kind, x_scale, scale, mean, bias)
        value, tolerance = reference.activate(activation, z, tolerance)
        compare(y.reshape(-1, n), value, tolerance, counts)

    return Answer(shape, check)


def _sums(
    rows: Array,
    weights: Array,
    kind: str,
    x_scale: Array | None,
    scale: Array,
    mean: Array | None,
    bias: Array | None,
) -> tuple[Array, Array, Array]:
    """What is activated, its tolerance, and the rows that count."""
    if kind == "float":
        counts = np.isfinite(rows).all(axis=1)
        wide = np.where(counts[:, None], rows, 0).astype(np.float64)
        magnitude = np.abs(wide)
        error = 3e-6 * (magnitude @ np.abs(weights))
        z, tolerance = reference.finish(
            wide @ weights, np.ones(len(rows)), scale, mean, wide.sum(axis=1), bias, error
        )
        if mean is not None:
            tolerance += 3e-6 * magnitude.sum(axis=1)[:, None] * np.abs(mean)
        return z, tolerance, counts
    integers, row_scale = reference.quantize(rows, None if x_scale is None else float(x_scale[0]))
    z, tolerance = reference.finish(
        integers @ weights, row_scale, scale, mean, integers.sum(axis=1), bias, np.zeros(1)
    )
    return z, tolerance, np.ones(len(rows), bool)


def _is_packed(kernel: Array, scale: Array, k: int) -> bool:
    return bool(
        kernel.dtype == np.uint8
        and kernel.ndim == 1
        and scale.dtype == np.float32
        and scale.ndim == 1
        and 0 <= k <= _MOST_ROWS
        and kernel.size == reference.int8_bytes(k, len(scale))
    )


def _unpack(rng: np.random.Generator) -> Case:
    k, n = size(rng), size(rng)
    tensors: Tensors = {
        "kernel": _packed(rng, k, n),
        "scale": vector(rng, n, 0.02),
        "mean": [vector(rng, n, 0.1)] if chance(rng, 0.4) else [],
    }
    attributes = {"in_features": k}
    if chance(rng, 0.3):
        spoil(rng, tensors, ("mean",))
    if chance(rng, 0.1):
        wrong = (
            k + 1,
            k + 3,
            max(k - 1, 0),
            -1,
            _MOST_ROWS + 1,
            1 << 40,
            (1 << 63) - 1,
            -(1 << 63),
        )
        attributes["in_features"] = pick(rng, wrong)
    return Case("tfcompress_int8_unpack", tensors, attributes, _expect_unpack)


def _expect_unpack(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    kernel, scale, k = tensors["kernel"], tensors["scale"], attributes["in_features"]
    if not _is_packed(kernel, scale, k) or not fits(tensors["mean"], len(scale)):
        return None

    def check(y: Array) -> None:
        weights, tolerance = _weights(tensors, k)
        compare(y, weights, tolerance)

    return Answer((k, len(scale)), check)


def _weights(tensors: Tensors, k: int) -> tuple[Array, Array]:
    scale = tensors["scale"].astype(np.float64)
    mean = optional(tensors["mean"])
    scaled = reference.int8_weights(tensors["kernel"], k, len(scale)) * scale
    offset = 0.0 if mean is None else mean.astype(np.float64)
    return scaled + offset, 2e-7 * (np.abs(scaled) + np.abs(offset))


def _lookup(rng: np.random.Generator) -> Case:
    k, n = size(rng), size(rng)
    shape = tuple(int(rng.integers(0, 5)) for _ in range(int(rng.integers(0, 3))))
    dtype = pick(rng, (np.int32, np.int64))
    tensors: Tensors = {
        "indices": np.asarray(rng.integers(0, max(n, 1), shape), dtype),
        "rows": rng.integers(-128, 128, (n, k)).astype(np.int8),
        "scale": vector(rng, n, 0.02),
        "mean": [vector(rng, n, 0.1)] if chance(rng, 0.3) else [],
    }
    if chance(rng, 0.25):
        spoil(rng, tensors, ("mean",))
    if chance(rng, 0.1):
        tensors["indices"] = np.asarray(pick(rng, (-1, n, n + 63, 2**31 - 1, -(2**31))), dtype)
    attributes = {"T": pick(rng, ("float32", "bfloat16", "float16"))}
    return Case("tfcompress_int8_lookup", tensors, attributes, _expect_lookup)


def _expect_lookup(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    indices, rows, scale = (tensors[name] for name in ("indices", "rows", "scale"))
    if indices.dtype not in (np.int32, np.int64) or rows.dtype != np.int8 or rows.ndim != 2:
        return None
    if not fits([scale], len(rows)) or not fits(tensors["mean"], len(rows)):
        return None
    if indices.size and not (indices.min() >= 0 and indices.max() < len(rows)):
        return None
    shape = (*indices.shape, rows.shape[1])
    if 0 in shape:
        return Answer(shape)

    def check(y: Array) -> None:
        assert y.dtype.name == attributes["T"]
        mean = optional(tensors["mean"])
        scaled = rows[indices].astype(np.float64) * scale[indices][..., None]
        offset = 0.0 if mean is None else mean[indices][..., None].astype(np.float64)
        compare(y, scaled + offset, 2e-7 * (np.abs(scaled) + np.abs(offset)))

    return Answer(shape, check)
