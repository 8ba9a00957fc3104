"""Cases of the ops on pruned weights: packed matrices in order, and with bytes changed."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
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

_LISTS = ("scale", "x_scale", "bias")
_ENTRIES = {np.dtype(np.float32): 1, np.dtype(ml_dtypes.bfloat16): 2, np.dtype(np.int8): 4}
_PADDING = 128


@dataclasses.dataclass(frozen=True)
class _Matrix:
    """What a structure's bytes say."""

    k: int
    n: int
    entries: int
    indices: Array  # [steps, 16, entries]
    panels: Array
    order: Array
    windows: Array

    def places(self) -> tuple[Array, Array, Array, Array]:
        """Step, lane and entry of each place that belongs to an output, and that output."""
        steps, lanes, entries = np.indices(self.indices.shape)
        panel = np.repeat(np.arange(len(self.panels) - 1), np.diff(self.panels))
        output = panel[steps] * 16 + lanes if len(panel) else steps * 0
        within = output < self.n
        steps, lanes, entries = steps[within], lanes[within], entries[within]
        return steps, lanes, entries, self.order[output[within]]


def _read(structure: Array, steps: int, entries: int) -> _Matrix | None:
    """Takes a structure apart; `None` where no matrix has so many bytes."""
    rest = structure.size - steps * (16 * entries + 2)
    n = next((n for n in range(max(rest, 0) // 4) if 4 * (-(-n // 16) + n + 2) == rest), None)
    if n is None:
        return None
    at = steps * 16 * entries
    indices = structure[:at].reshape(steps, 16, entries)
    words = structure[at : at + rest].view("<i4")
    num_panels = -(-n // 16)
    return _Matrix(
        k=int(words[-1]),
        n=n,
        entries=entries,
        indices=indices,
        panels=words[: num_panels + 1],
        order=words[num_panels + 1 : -1],
        windows=structure[at + rest :].view("<u2"),
    )


def _valid(matrix: _Matrix | None, k: int, reach: int) -> bool:
    """The documented rules for a structure."""
    if matrix is None or matrix.k != k:
        return False
    stride = 16 * matrix.entries
    if k > (65_536 if matrix.entries == 4 else 65_536 * stride) or k < 0:
        return False
    if reach != 64 and not (reach == 128 and matrix.entries == 4):
        return False
    panels = matrix.panels.astype(np.int64)
    steps = len(matrix.windows)
    if panels[0] != 0 or panels[-1] != steps or (np.diff(panels) < 0).any():
        return False
    if steps and int(matrix.windows.max()) >= -(-k // stride):
        return False
    return bool(np.array_equal(np.sort(matrix.order), np.arange(matrix.n)))


def make(rng: np.random.Generator) -> Case:
    """A case."""
    maker = pick(rng, (_product, _product, _product, _unpack, _gradient))
    case: Case = maker(rng)
    return case


def _packed(
    rng: np.random.Generator, k: int, n: int, dtype: Any, reach: int
) -> tuple[Array, Array]:
    """A random packed matrix: any number of steps, some places empty, some weights stored twice."""
    entries = _ENTRIES[np.dtype(dtype)]
    num_panels = -(-n // 16)
    num_windows = -(-k // (16 * entries))
    most = 0 if k == 0 or n == 0 else int(rng.integers(0, 3 * num_windows + 2))
    counts = rng.integers(0, most + 1, num_panels)
    panels = np.concatenate([[0], np.cumsum(counts)]).astype("<i4")
    steps = int(panels[-1])
    windows = np.concatenate(
        [np.sort(rng.integers(0, max(num_windows, 1), count)) for count in counts] or [np.zeros(0)]
    ).astype("<u2")
    indices = rng.integers(0, reach, (steps, 16, entries)).astype(np.uint8)
    empty = rng.random(indices.shape) < pick(rng, (0.0, 0.2, 0.9))
    indices[empty] = _PADDING
    if dtype is np.int8:
        values = rng.integers(-128 if chance(rng, 0.3) else -127, 128, indices.shape).astype(
            np.int8
        )
    else:
        values = rng.standard_normal(indices.shape).astype(dtype)
    values[empty] = 0
    order = np.arange(n) if chance(rng, 0.5) else rng.permutation(n)
    parts = (indices, panels, order.astype("<i4"), np.array([k], "<i4"), windows)
    structure = np.concatenate([np.frombuffer(part.tobytes(), np.uint8) for part in parts])
    return structure, values.reshape(steps, 16 * entries)


def _change_bytes(rng: np.random.Generator, structure: Array) -> Array:
    """Flips bits and writes extremes, mostly where offsets, outputs and windows lie."""
    changed = structure.copy()
    for _ in range(int(rng.integers(1, 4))):
        if changed.size == 0:
            break
        if chance(rng, 0.5):
            at = int(rng.integers(changed.size))
            changed[at] ^= np.uint8(1 << rng.integers(8))
        elif changed.size >= 4:
            at = int(rng.integers(changed.size // 4)) * 4
            word = pick(rng, (0, 1, -1, 2**31 - 1, -(2**31), 65_535, 1 << 20))
            changed[at : at + 4] = np.array([word], "<i4").view(np.uint8)
    return changed


def _product(rng: np.random.Generator) -> Case:
    k, n = size(rng), size(rng)
    dtype = pick(rng, (np.float32, ml_dtypes.bfloat16, np.int8))
    is_int8 = dtype is np.int8
    reach = 128 if is_int8 and chance(rng, 0.5) else 64
    structure, values = _packed(rng, k, n, dtype, reach)
    static = is_int8 and chance(rng, 0.3)
    tensors: Tensors = {
        "x": activations(
            rng, (*leading(rng), k), pick(rng, FLOATS) if chance(rng, 0.4) else np.float32
        ),
        "structure": structure,
        "values": values,
        "scale": [vector(rng, n, 0.02)] if is_int8 else [],
        "x_scale": [np.exp(rng.standard_normal(1) - 3).astype(np.float32)] if static else [],
        "bias": [vector(rng, n)] if chance(rng, 0.5) else [],
    }
    attributes = {
        "reach": reach,
        "activations": "static" if static else "dynamic",
        "activation": pick(rng, list(reference.ACTIVATIONS)) if chance(rng, 0.4) else "linear",
    }
    _spoil(rng, tensors, attributes)
    if chance(rng, 0.02):
        attributes["activations"] = pick(rng, ("static", "dynamic", "float", ""))
    return Case("tfcompress_sparse_mat_mul", tensors, attributes, _expect_product)


def _spoil(rng: np.random.Generator, tensors: Tensors, attributes: dict[str, Any]) -> None:
    lists = [name for name in _LISTS if name in tensors]
    if chance(rng, 0.2):
        spoil(rng, tensors, lists)
    if (
        chance(rng, 0.25)
        and tensors["structure"].dtype == np.uint8
        and tensors["structure"].ndim == 1
    ):
        tensors["structure"] = _change_bytes(rng, tensors["structure"])
    if chance(rng, 0.03):
        attributes["reach"] = pick(rng, (64, 128, 0, -64, 32, 65, 1 << 40, -(1 << 63)))
    if "in_features" in attributes and chance(rng, 0.08):
        k = attributes["in_features"]
        attributes["in_features"] = pick(
            rng, (k + 1, max(k - 1, 0), -1, 1 << 20, 1 << 40, (1 << 63) - 1)
        )


def _matrix_of(tensors: Tensors, k: int, reach: int, is_float: bool = False) -> _Matrix | None:
    structure, values = tensors["structure"], tensors["values"]
    entries = _ENTRIES.get(values.dtype)
    if structure.dtype != np.uint8 or structure.ndim != 1 or entries is None or values.ndim != 2:
        return None
    if values.shape[1] != 16 * entries or (is_float and entries != 1):
        return None
    matrix = _read(structure, len(values), entries)
    return matrix if _valid(matrix, k, reach) else None


def _expect_product(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    x = tensors["x"]
    reach, kind, activation = (attributes[a] for a in ("reach", "activations", "activation"))
    if kind not in ("dynamic", "static") or activation not in reference.ACTIVATIONS:
        return None
    if x.dtype not in FLOATS or x.ndim < 1:
        return None
    k = x.shape[-1]
    matrix = _matrix_of(tensors, k, reach)
    if matrix is None:
        return None
    n, is_int8 = matrix.n, matrix.entries == 4
    x_scale, scale = optional(tensors["x_scale"]), optional(tensors["scale"])
    in_order = (
        fits(tensors["x_scale"], 1) and fits(tensors["scale"], n) and fits(tensors["bias"], n)
    )
    if not in_order or (scale is not None) != is_int8:
        return None
    if (x_scale is not None) != (is_int8 and kind == "static"):
        return None
    if x_scale is not None and not 2.0**-110 <= x_scale[0] <= 2.0**100:
        return None
    shape = (*x.shape[:-1], n)
    if 0 in shape:
        return Answer(shape)

    def check(y: Array) -> None:
        rows = x.reshape(math.prod(x.shape[:-1]), k).astype(np.float32)
        values = tensors["values"].reshape(matrix.indices.shape).astype(np.float64)
        # What a look-up finds: an index counts modulo the reach, whatever it is.
        steps, lanes, entries, outputs = matrix.places()
        stride = 16 * matrix.entries
        index = matrix.indices[steps, lanes, entries].astype(np.int64) & (reach - 1)
        ks = matrix.windows[steps].astype(np.int64) * stride + index
        inside = ks < k
        weights, sizes = np.zeros((k, n)), np.zeros((k, n))
        found = values[steps, lanes, entries][inside]
        np.add.at(weights, (ks[inside], outputs[inside]), found)
        np.add.at(sizes, (ks[inside], outputs[inside]), np.abs(found))
        if is_int8:
            wide, row_scale = reference.quantize(
                rows, None if x_scale is None else float(x_scale[0])
            )
            error, counts = np.zeros(1), np.ones(len(rows), bool)
        else:
            counts = np.isfinite(rows).all(axis=1)
            wide = np.where(counts[:, None], rows, 0).astype(np.float64)
            row_scale = np.ones(len(rows))
            rounding = 2.0**-8 if matrix.entries == 2 else 3e-6
            error = rounding * (np.abs(wide) @ sizes)
        z, tolerance = reference.finish(
            wide @ weights,
            row_scale,
            scale,
            None,
            np.zeros(len(rows)),
            optional(tensors["bias"]),
            error,
        )
        value, tolerance = reference.activate(activation, z, tolerance)
        compare(y.reshape(-1, n), value, tolerance, counts)

    return Answer(shape, check)


def _dense(matrix: _Matrix, values: Array, reach: int) -> Array:
    """The weights that are stored: padding left out, of several for one place the last."""
    steps, lanes, entries, outputs = matrix.places()
    raw = matrix.indices[steps, lanes, entries].astype(np.int64)
    ks = matrix.windows[steps].astype(np.int64) * 16 * matrix.entries + (raw & (reach - 1))
    stored = (raw < _PADDING) & (ks < matrix.k)
    weights = np.zeros((matrix.k, matrix.n))
    wide = values.reshape(matrix.indices.shape).astype(np.float64)[steps, lanes, entries]
    for k, output, value in zip(ks[stored], outputs[stored], wide[stored], strict=True):
        weights[k, output] = value
    return weights


def _unpack(rng: np.random.Generator) -> Case:
    k, n = size(rng), size(rng)
    dtype = pick(rng, (np.float32, ml_dtypes.bfloat16, np.int8))
    reach = 128 if dtype is np.int8 and chance(rng, 0.5) else 64
    structure, values = _packed(rng, k, n, dtype, reach)
    tensors: Tensors = {
        "structure": structure,
        "values": values,
        "scale": [vector(rng, n)] if dtype is np.int8 else [],
    }
    attributes = {"in_features": k, "reach": reach}
    _spoil(rng, tensors, attributes)
    return Case("tfcompress_sparse_unpack", tensors, attributes, _expect_unpack)


def _expect_unpack(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    k, reach = attributes["in_features"], attributes["reach"]
    matrix = _matrix_of(tensors, k, reach)
    if matrix is None or not fits(tensors["scale"], matrix.n):
        return None

    def check(y: Array) -> None:
        scale = optional(tensors["scale"])
        weights = _dense(matrix, tensors["values"], reach)
        weights = weights if scale is None else weights * scale.astype(np.float64)
        compare(y, weights, 2e-7 * np.abs(weights))

    return Answer((k, matrix.n), check)


def _gradient(rng: np.random.Generator) -> Case:
    k, n, m = size(rng), size(rng), int(pick(rng, (0, 1, 2, 5, 63, 64, 65, 130)))
    structure, values = _packed(rng, k, n, np.float32, 64)
    tensors: Tensors = {
        "x": rng.standard_normal((m, k)).astype(np.float32),
        "dz": rng.standard_normal((m, n)).astype(np.float32),
        "structure": structure,
        "values": values,
    }
    attributes = {"reach": 64}
    _spoil(rng, tensors, attributes)
    return Case("tfcompress_sparse_values_gradient", tensors, attributes, _expect_gradient)


def _expect_gradient(tensors: Tensors, attributes: Mapping[str, Any]) -> Answer | None:
    x, dz, reach = tensors["x"], tensors["dz"], attributes["reach"]
    if not (x.dtype == dz.dtype == np.float32 and x.ndim == dz.ndim == 2 and len(x) == len(dz)):
        return None
    matrix = _matrix_of(tensors, x.shape[1], reach, is_float=True)
    if matrix is None or dz.shape[1] != matrix.n:
        return None

    def check(y: Array) -> None:
        steps, lanes, entries, outputs = matrix.places()
        raw = matrix.indices[steps, lanes, entries].astype(np.int64)
        ks = matrix.windows[steps].astype(np.int64) * 16 + (raw & (reach - 1))
        stored = (raw < _PADDING) & (ks < matrix.k)
        steps, lanes, ks, outputs = steps[stored], lanes[stored], ks[stored], outputs[stored]
        a, b = x[:, ks].astype(np.float64), dz[:, outputs].astype(np.float64)
        expected, size_ = np.zeros(y.shape), np.zeros(y.shape)
        expected[steps, lanes] = (a * b).sum(axis=0)
        size_[steps, lanes] = np.abs(a * b).sum(axis=0)
        compare(y, expected, 3e-6 * size_)

    return Answer(tensors["values"].shape, check)
