"""Whether a format pays for a layer: measured, on this machine, against what is dense.

Formats that multiply every weight pay always, at some batch size or other; one that leaves zeros
out pays from some share of zeros on, which depends on the machine, the batch size, and how well its
steps are filled. `Format.work` tells how much a packed matrix is of the dense one; this module
times both.
"""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress_ops.formats.format import Format
from tfcompress_ops.latency import layer_latencies_us
from tfcompress_ops.layers.layer import CompressedLayer

_OPEN_DIMENSION = 32
# How many times as fast as what is dense a layer must be: about what repeated measurements differ
# by. Where the two are closer, the layer may well be the slower one.
_LEAST_SPEED_UP = 1.05
# Microseconds of the compressed layer, the original and, where there is one, the dense format.
_MEASURED: dict[tuple[Any, ...], tuple[float, ...]] = {}


@dataclasses.dataclass(frozen=True)
class Alternative:
    """What is faster than a compressed layer.

    Attributes:
        format: The format to use instead, or `None`: the layer stays as it is.
        reason: Why, in a few words.
    """

    format: Format | None
    reason: str


def multiplications(layer: CompressedLayer, input_shape: tuple[int, ...]) -> int:
    """Multiply-adds of the dense form of a layer for inputs of this shape."""
    in_features, _ = layer.matrix_shape(input_shape)
    return math.prod(map(int, layer.compute_output_shape(input_shape))) * in_features


def alternative(
    layer: keras.layers.Layer, compressed: CompressedLayer, batch_size: int
) -> Alternative | None:
    """Compares a compressed layer with its original, and with the dense form of its format.

    Layers of the same shape, format and share of work are measured once in a process.

    Args:
        layer: The layer that was compressed.
        compressed: Its compressed form.
        batch_size: The first dimension of the inputs that it is to be fast for.

    Returns:
        What is faster, or `None` if nothing is.
    """
    arrays = compressed.packed_arrays()
    work = compressed.format.work(arrays)
    if work is None:
        return None
    dense_format = compressed.format.dense_alternative
    others = [layer]
    if dense_format is not None:
        calibration = compressed.format.calibration_of(arrays)
        others.append(type(compressed).from_layer(layer, dense_format, calibration))
    # Dimensions that the model leaves open, such as a sequence's length, are taken to be moderate.
    shape = (batch_size, *(size or _OPEN_DIMENSION for size in compressed._input_shape[1:]))
    key = (
        type(layer),
        compressed.format,
        compressed.matrix_shape(shape),
        round(work, 2),
        shape,
        compressed.compute_dtype,
    )
    if key not in _MEASURED:
        inputs = tf.cast(tf.random.stateless_normal(shape, seed=[0, 0]), compressed.compute_dtype)
        per_input = multiplications(compressed, shape) // max(1, math.prod(shape))
        _MEASURED[key] = tuple(layer_latencies_us([compressed, *others], inputs, per_input))
    sparse_us, *other_us = _MEASURED[key]
    best = int(np.argmin(other_us))
    fast_enough_us = other_us[best] / _LEAST_SPEED_UP
    if sparse_us <= fast_enough_us:
        return None
    zeros = float(np.mean(compressed.weight_matrix() == 0))
    # Time grows with the work: at this share of the work the layer is fast enough.
    pays_from = 1 - (1 - zeros) * fast_enough_us / sparse_us
    chosen = None if best == 0 else dense_format
    kept = "kept dense" if chosen is None else f"{chosen.label} instead"
    return Alternative(
        chosen,
        f"{kept}: {100 * zeros:.0f} % zeros; {compressed.format.name} pays from about "
        f"{100 * pays_from:.0f} % at batch {batch_size}",
    )
