"""Cases of the ops between the matrices: attention, layer normalisation, sums."""

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

_MASKED = np.float64(np.float32(-0.7) * np.float32(3.38953e38))


def make(rng: np.random.Generator) -> Case:
    """A case."""
    case: Case = pick(rng, (_attention, _layer_norm, _add))(rng)
    return case


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    return rng.standard_normal(shape, np.float32).astype(dtype)


def _attention(rng: np.random.Generator) -> Case:
    dtype = pick(rng, FLOATS)
    batch, kv_heads = (int(pick(rng, (0, 1, 1, 2, 3))) for _ in range(2))
    heads = kv_heads * int(rng.integers(1, 4))
    queries, keys, key_dim, value_dim = (size(rng) for _ in range(4))
    tensors: Tensors = {
        "query": _numbers(rng, (batch, queries, heads, key_dim), dtype),
        "key": _numbers(rng, (batch, keys, kv_heads, key_dim), dtype),
        "value": _numbers(rng, (batch, keys, kv_heads, value_dim), dtype),
        "mask": [],
    }
    if chance(rng, 0.5):
        shape = [n if chance(rng, 0.7) else 1 for n in (batch, heads, queries, keys)]
        tensors["mask"] = [rng.random(shape) < pick(rng, (0.0, 0.3, 0.8))]
    attributes = {"scale": float(key_dim or 1) ** -0.5, "zero_blind": chance(rng, 0.5)}
    if chance(rng, 0.1):
        attributes["scale"] = float(pick(rng, (0.0, -1.0, np.inf, np.nan)))
    if chance(rng, 0.3):
        spoil(rng, tensors, ("mask",))
    return Case("tfcompress_attention", tensors, attributes, _expect_attention)


def _expect_attention(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    query, key, value, masks = (tensors[name] for name in ("query", "key", "value", "mask"))
    if query.dtype not in FLOATS or not query.dtype == key.dtype == value.dtype:
        return None
    if not query.ndim == key.ndim == value.ndim == 4 or not np.isfinite(attributes["scale"]):
        return None
    batch, queries, heads, key_dim = query.shape
    keys, kv_heads = key.shape[1:3]
    if key.shape != (batch, keys, kv_heads, key_dim) or value.shape[:3] != key.shape[:3]:
        return None
    if heads and (not kv_heads or heads % kv_heads):
        return None
    scores_shape = (batch, heads, queries, keys)
    if len(masks) > 1 or any(mask.dtype != np.bool_ or mask.ndim != 4 for mask in masks):
        return None
    for mask in masks:
        if any(n not in (1, whole) for n, whole in zip(mask.shape, scores_shape, strict=True)):
            return None
    shape = (batch, queries, heads, value.shape[3])

    def check(y: Array) -> None:
        q, k, v = (x.astype(np.float64) for x in (query, key, value))
        allowed = np.broadcast_to(masks[0] if masks else np.True_, scores_shape)
        expected, sizes = np.zeros(shape), np.zeros(shape)
        for b, h in np.ndindex(batch, heads):
            g = h // (heads // kv_heads)
            scores = q[b, :, h] @ k[b, :, g].T * attributes["scale"]
            scores = np.where(allowed[b, h], scores, _MASKED)
            powers = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
            shares = powers / np.maximum(powers.sum(axis=-1, keepdims=True), 1e-300)
            if attributes["zero_blind"]:
                shares = shares * allowed[b, h].any(axis=-1, keepdims=True)
            expected[b, :, h] = shares @ v[b, :, g]
            sizes[b, :, h] = shares @ np.abs(v[b, :, g])
        compare(y, expected, 1e-4 * sizes + 1e-6)

    return Answer(shape, check)


def _layer_norm(rng: np.random.Generator) -> Case:
    features = size(rng)
    tensors: Tensors = {
        "x": _numbers(rng, (*leading(rng), features), pick(rng, FLOATS)),
        "gamma": [vector(rng, features)] if chance(rng, 0.6) else [],
        "beta": [vector(rng, features)] if chance(rng, 0.6) else [],
    }
    attributes = {"epsilon": float(pick(rng, (1e-3, 1e-3, 1e-6, 0.1, 0.1, -1.0, np.nan, np.inf)))}
    if chance(rng, 0.25):
        spoil(rng, tensors, ("gamma", "beta"))
    return Case("tfcompress_layer_norm", tensors, attributes, _expect_layer_norm)


def _expect_layer_norm(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    x, epsilon = tensors["x"], np.float32(attributes["epsilon"])
    if x.dtype not in FLOATS or x.ndim < 1 or not np.isfinite(epsilon) or epsilon < 0:
        return None
    if not all(fits(tensors[name], x.shape[-1]) for name in ("gamma", "beta")):
        return None
    if x.size == 0:
        return Answer(x.shape)

    def check(y: Array) -> None:
        wide = x.astype(np.float64)
        mean = wide.mean(axis=-1, keepdims=True)
        deviation = np.sqrt(wide.var(axis=-1, keepdims=True) + float(epsilon))
        gamma, beta = optional(tensors["gamma"]), optional(tensors["beta"])
        expected = (wide - mean) / deviation * (1 if gamma is None else gamma)
        error = 1e-5 * np.abs(expected) + 1e-6 * (1 + np.abs(wide).max()) / deviation * (
            1 if gamma is None else np.abs(gamma)
        )
        compare(y, expected + (0 if beta is None else beta), error + 1e-6)

    return Answer(x.shape, check)


def _add(rng: np.random.Generator) -> Case:
    dtype = pick(rng, FLOATS)
    shape = (*leading(rng), size(rng))
    tensors: Tensors = {"x": [_numbers(rng, shape, dtype) for _ in range(int(rng.integers(1, 5)))]}
    attributes = {"activation": pick(rng, (*reference.ACTIVATIONS, "relu", "relu", "RELU"))}
    if chance(rng, 0.3):
        spoilt: Tensors = {"x": tensors["x"][-1]}
        spoil(rng, spoilt, ())
        tensors["x"][-1] = spoilt["x"]
    return Case("tfcompress_add", tensors, attributes, _expect_add)


def _expect_add(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    x, name = tensors["x"], attributes["activation"]
    first = x[0]
    if first.dtype not in FLOATS or name not in reference.ACTIVATIONS:
        return None
    if any(one.dtype != first.dtype or one.shape != first.shape for one in x):
        return None
    if first.size == 0:
        return Answer(first.shape)

    def check(y: Array) -> None:
        total = sum(one.astype(np.float64) for one in x)
        sizes = sum(np.abs(one.astype(np.float64)) for one in x)
        compare(y, *reference.activate(name, total, 1e-6 * sizes))

    return Answer(first.shape, check)
