"""Cases of the ops on binary and ternary weights."""

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

_MOST_ROWS = 1 << 22
_LISTS = ("mean", "bias", "threshold")
_LEVELS = ("binary", "ternary")
_KINDS = ("float", "int8", "binary")
_SIGNS = np.dtype(np.int32)


def make(rng: np.random.Generator) -> Case:
    """A case."""
    maker = pick(rng, (_product, _product, _product, _unpack))
    case: Case = maker(rng)
    return case


def _packed(rng: np.random.Generator, levels: str, k: int, n: int) -> Array:
    return rng.integers(0, 256, reference.bit_bytes(levels, k, n), np.uint8)


def _product(rng: np.random.Generator) -> Case:
    k, n = size(rng), size(rng)
    kind = pick(rng, _KINDS)
    levels = "binary" if kind == "binary" and chance(rng, 0.95) else pick(rng, _LEVELS)
    x_dtype = pick(rng, FLOATS) if chance(rng, 0.4) else np.float32
    if kind == "binary" and chance(rng, 0.4):
        rows = leading(rng)
        x = rng.integers(-(2**31), 2**31, (*rows, -(-k // 32)), np.int32)
    else:
        x = activations(rng, (*leading(rng), k), x_dtype)
    to_signs = kind == "binary" and chance(rng, 0.4)
    tensors: Tensors = {
        "x": x,
        "kernel": _packed(rng, levels, k, n),
        "scale": vector(rng, n, 0.1),
        "mean": [vector(rng, n, 0.1)] if chance(rng, 0.4) else [],
        "bias": [vector(rng, n)] if chance(rng, 0.5) else [],
        "threshold": [_thresholds(rng, k, n)] if to_signs else [],
    }
    y_dtype = x.dtype if x.dtype != _SIGNS else np.dtype(x_dtype)
    attributes = {
        "Ty": "int32" if to_signs else y_dtype.name,
        "in_features": k,
        "levels": levels,
        "activations": kind,
        "scale_x": bool(
            kind == "binary" and x.dtype != _SIGNS and not to_signs and chance(rng, 0.5)
        ),
        "activation": pick(rng, list(reference.ACTIVATIONS)) if chance(rng, 0.4) else "linear",
    }
    if chance(rng, 0.3):
        spoil(rng, tensors, _LISTS)
    for name, values in (
        ("Ty", ("int32", "float32", "bfloat16", "half", "double", "uint8")),
        ("in_features", (k + 1, k + 31, max(k - 1, 0), -1, _MOST_ROWS + 1, 1 << 40, (1 << 63) - 1)),
        ("levels", (*_LEVELS, "", "quinary")),
        ("activations", (*_KINDS, "static")),
        ("scale_x", (True, False)),
        ("activation", ("softmax", "")),
    ):
        if chance(rng, 0.02):
            attributes[name] = pick(rng, values)
    return Case("tfcompress_binary_mat_mul", tensors, attributes, _expect_product)


def _thresholds(rng: np.random.Generator, k: int, n: int) -> Array:
    thresholds = rng.integers(-k - 2, k + 3, n).astype(np.int32)
    if n and chance(rng, 0.3):
        thresholds[int(rng.integers(n))] = pick(rng, (-(2**31), 2**31 - 1))
    return thresholds


def _expect_product(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    x, kernel, scale = tensors["x"], tensors["kernel"], tensors["scale"]
    k, levels, kind = (attributes[name] for name in ("in_features", "levels", "activations"))
    activation, scale_x = attributes["activation"], attributes["scale_x"]
    known = levels in _LEVELS and kind in _KINDS and activation in reference.ACTIVATIONS
    if not known or not _is_packed(kernel, scale, levels, k):
        return None
    n = len(scale)
    from_signs, to_signs = x.dtype == _SIGNS, attributes["Ty"] == "int32"
    columns = -(-k // 32) if from_signs else k
    if x.ndim < 1 or x.shape[-1] != columns or not (from_signs or x.dtype in FLOATS):
        return None
    # "half" and "float16" are one type.
    if attributes["Ty"] not in ("int32", "float32", "bfloat16", "float16", "half"):
        return None
    in_order = fits(tensors["mean"], n) and fits(tensors["bias"], n)
    if not in_order or not fits(tensors["threshold"], n, _SIGNS):
        return None
    threshold = optional(tensors["threshold"])
    if to_signs != (threshold is not None):
        return None
    if kind == "binary" and levels == "ternary":
        return None
    if kind != "binary" and (from_signs or to_signs or scale_x):
        return None
    if scale_x and (from_signs or to_signs):
        return None
    shape = (*x.shape[:-1], -(-n // 32) if to_signs else n)
    if 0 in shape:
        return Answer(shape)

    def check(y: Array) -> None:
        weights = reference.bit_weights(kernel, levels, k, n)
        rows = x.reshape(math.prod(x.shape[:-1]), columns)
        if kind == "binary":
            void = np.zeros(len(rows), bool) if from_signs else np.isnan(rows).any(axis=1)
            positive = reference.signs_of_words(rows, k) if from_signs else rows >= 0
            values = np.where(positive, 1.0, -1.0)
            if threshold is not None:
                expected = reference.sign_words(values @ weights >= threshold)
                got = y.reshape(expected.shape)[~void]
                np.testing.assert_array_equal(got, expected[~void])
                return
            row_scale = np.ones(len(rows))
            counts = np.ones(len(rows), bool)
            if scale_x:
                wide = rows.astype(np.float64)
                counts = np.isfinite(wide).all(axis=1) | void
                row_scale = np.abs(wide).mean(axis=1) if k else row_scale * 0
            row_scale = np.where(void, np.nan, row_scale)
            error = np.zeros(1)
        elif kind == "int8":
            values, row_scale = reference.quantize(rows.astype(np.float32), None)
            error, counts = np.zeros(1), np.ones(len(rows), bool)
        else:
            wide = rows.astype(np.float64)
            void = np.isnan(wide).any(axis=1)
            counts = np.isfinite(wide).all(axis=1) | void
            values = np.where(np.isfinite(wide), wide, 0.0)
            row_scale = np.where(void, np.nan, 1.0)
            error = 4e-6 * np.abs(values).sum(axis=1)[:, None] * np.ones(n)
        mean = optional(tensors["mean"])
        z, tolerance = reference.finish(
            values @ weights,
            row_scale,
            scale,
            mean,
            values.sum(axis=1),
            optional(tensors["bias"]),
            error,
        )
        if mean is not None and kind == "float":
            tolerance += 4e-6 * np.abs(values).sum(axis=1)[:, None] * np.abs(mean)
        value, tolerance = reference.activate(activation, z, tolerance)
        compare(y.reshape(-1, n), value, tolerance, counts)

    return Answer(shape, check)


def _is_packed(kernel: Array, scale: Array, levels: str, k: int) -> bool:
    return bool(
        kernel.dtype == np.uint8
        and kernel.ndim == 1
        and scale.dtype == np.float32
        and scale.ndim == 1
        and 0 <= k <= _MOST_ROWS
        and kernel.size == reference.bit_bytes(levels, k, len(scale))
    )


def _unpack(rng: np.random.Generator) -> Case:
    k, n = size(rng), size(rng)
    levels = pick(rng, _LEVELS)
    tensors: Tensors = {
        "kernel": _packed(rng, levels, k, n),
        "scale": vector(rng, n),
        "mean": [vector(rng, n, 0.1)] if chance(rng, 0.4) else [],
    }
    attributes = {"in_features": k, "levels": levels}
    if chance(rng, 0.3):
        spoil(rng, tensors, ("mean",))
    if chance(rng, 0.1):
        wrong = (k + 1, k + 32, max(k - 1, 0), -1, _MOST_ROWS + 1, 1 << 40, (1 << 63) - 1)
        attributes["in_features"] = pick(rng, wrong)
    if chance(rng, 0.05):
        attributes["levels"] = pick(rng, (*_LEVELS, ""))
    return Case("tfcompress_binary_unpack", tensors, attributes, _expect_unpack)


def _expect_unpack(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    kernel, scale, mean = tensors["kernel"], tensors["scale"], tensors["mean"]
    k, levels = attributes["in_features"], attributes["levels"]
    if levels not in _LEVELS or not _is_packed(kernel, scale, levels, k):
        return None
    if not fits(mean, len(scale)):
        return None

    def check(y: Array) -> None:
        scaled = reference.bit_weights(kernel, levels, k, len(scale)) * scale.astype(np.float64)
        offset = mean[0].astype(np.float64) if mean else 0.0
        compare(y, scaled + offset, 2e-7 * (np.abs(scaled) + np.abs(offset)))

    return Answer((k, len(scale)), check)
