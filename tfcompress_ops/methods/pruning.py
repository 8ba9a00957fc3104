"""Setting the least of a model's weights to zero."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras.layers import Layer

from tfcompress_ops import layers as layers_lib
from tfcompress_ops.compression import check_model
from tfcompress_ops.patterns import check_pattern, keep_masks
from tfcompress_ops.rebuilding import rebuild
from tfcompress_ops.structure import layer_paths

_SCOPES = ("layer", "global")


def prune(
    model: keras.Model,
    sparsity: float | None = None,
    threshold: float | None = None,
    pattern: str | None = None,
    block: Sequence[int] = (1, 1),
    scope: str = "layer",
) -> keras.Model:
    """Makes a model in which the least of the weights are zero.

    The weight matrices of all layers that `tfc.compress` can compress are pruned; biases and other
    layers are copied. The original is left as it is, and a compiled model comes back compiled, with
    a new optimizer of the same configuration. The zeros take as much memory and time as other
    weights: train on with `tfc.callbacks.Pruning`, which holds them, then compress the model.

    Args:
        model: A built model.
        sparsity: Fraction of zeros, 0 <= sparsity < 1. Zeros that are there already count.
        threshold: Weights of a magnitude below it go, blocks by their root mean square; >= 0.
        pattern: `None`, where every weight stays or goes by itself; `"N:M"`, such as `"8:64"`,
            where of M consecutive inputs of an output the N largest weights stay; or `"balanced"`,
            where in a window of 64 inputs the 16 outputs of a panel keep equally many weights, 4,
            8, 12, ..., which fits the kernels best. See `tfcompress_ops.patterns`.
        block: Inputs and outputs of the blocks of weights that stay or go as a whole, by their root
            mean square.
        scope: `"layer"`: each matrix gets the sparsity. `"global"`: all of them together do, by one
            ranking of all their weights, and those with small weights lose more.

    Returns:
        A new model.

    Raises:
        TypeError: If `model` is not a Keras model, or an option has the wrong type.
        ValueError: If the model is not built, if no layer can be pruned, if a matrix
            is not finite, or if options are missing, out of range or exclude each other.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> pruned = tfc.prune(model, sparsity=0.75)
        >>> int(np.count_nonzero(pruned.layers[0].kernel))
        8
    """
    check_model(model)
    check_options(sparsity, threshold, pattern, block, scope)
    if not prunable_layers(model):
        reasons = (f"\n  {path}: {refusal(layer)}" for path, layer in layer_paths(model).items())
        raise ValueError(
            f"`model` must have a layer that can be pruned; received {model.name!r}, which has "
            f"none:{''.join(reasons)}"
        )
    pruned = rebuild(model, lambda layer: None)
    layers = prunable_layers(pruned)
    for group in [layers] if scope == "global" else [[layer] for layer in layers]:
        matrices = [matrix_of(layer) for layer in group]
        try:
            masks = keep_masks(
                matrices, sparsity=sparsity, threshold=threshold, pattern=pattern, block=block
            )
        except ValueError as error:
            names = ", ".join(repr(layer.name) for layer in group)
            raise ValueError(f"Weights of {names} cannot be pruned: {error}") from error
        for layer, matrix, mask in zip(group, matrices, masks, strict=True):
            _class(layer).assign_matrix(layer, np.where(mask, matrix, matrix.dtype.type(0)))
    return pruned


def refusal(layer: Layer) -> str | None:
    """Why a layer cannot be pruned, in a few words, or `None` if it can."""
    if isinstance(layer, layers_lib.CompressedLayer):
        return "its weights are packed already"
    reason = layers_lib.refusal(layer)
    if reason is None and float_kernel(layer) is None:
        return (
            "Keras has quantised it, or LoRA weights add to its kernel (prune it before), or it is "
            "a table by which nothing is multiplied"
        )
    return reason


def float_kernel(layer: Layer) -> Any:
    """The variable of a layer that `tfc.compress` can compress which holds its weight matrix.

    Returns:
        A floating-point `keras.Variable`, or `None` if there is none.
    """
    return _class(layer).float_kernel(layer)


def matrix_of(layer: Layer) -> npt.NDArray[Any]:
    """The weight matrix `[in_features, out_features]` of a layer that can be pruned."""
    return _class(layer).source_weights(layer).matrix


def prunable_layers(model: keras.Model) -> list[Layer]:
    """The layers of a Sequential or Functional model that can be pruned, each once."""
    return [layer for layer in dict.fromkeys(layer_paths(model).values()) if refusal(layer) is None]


def _class(layer: Layer) -> type[layers_lib.CompressedLayer]:
    cls = layers_lib.replacement(layer)
    assert cls is not None  # `refusal` said so.
    return cls


def check_options(
    sparsity: float | None,
    threshold: float | None,
    pattern: str | None,
    block: Sequence[int],
    scope: str,
) -> None:
    """Checks the options of `prune`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If options are missing, out of range or exclude each other.
    """
    check_pattern(sparsity=sparsity, threshold=threshold, pattern=pattern, block=block)
    if sparsity is None and threshold is None and pattern is None:
        raise ValueError(
            "`sparsity`, `threshold` or an N:M `pattern` must be given; received none of them."
        )
    if scope not in _SCOPES:
        raise ValueError(f"`scope` must be one of {_SCOPES}; received {scope!r}.")
    if scope == "global" and sparsity is None:
        raise ValueError(
            f"`sparsity` must be given with scope='global'; received threshold={threshold} and "
            f"pattern={pattern!r}, which treat every layer alike."
        )
