"""Setting the least of a model's weights to zero."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import keras
import numpy as np
import numpy.typing as npt
from keras.layers import Layer

from tfcompress_ops import layers as layers_lib
from tfcompress_ops.compression import check_model, matching
from tfcompress_ops.layers.quantized import Quantized
from tfcompress_ops.patterns import check_pattern, keep_masks
from tfcompress_ops.rebuilding import rebuild
from tfcompress_ops.structure import layer_paths

_SCOPES = ("layer", "global")
_T = TypeVar("_T")
PerLayer = Mapping[str, _T | None]  # globs over layer paths; the first that matches wins


def prune(
    model: keras.Model,
    sparsity: float | PerLayer[float] | None = None,
    threshold: float | PerLayer[float] | None = None,
    pattern: str | PerLayer[str] | None = None,
    block: Sequence[int] = (1, 1),
    scope: str = "layer",
) -> keras.Model:
    """Makes a model in which the least of the weights are zero.

    The weight matrices of all layers that `tfc.compress` can compress are pruned; biases and other
    layers are copied. The original is left as it is, and a compiled model comes back compiled, with
    a new optimizer of the same configuration. The zeros take as much memory and time as other
    weights: train on with `tfc.callbacks.Pruning`, which holds them, then compress the model.

        w_new = w * [|w| >= threshold], or of n weights the sparsity * n smallest |w| become 0

    Of layers that are trained quantised, such as `tfc.layers.QuantDense`, the float weights behind
    the quantised ones are pruned, if their quantiser leaves a zero zero: signs have none.

    `sparsity`, `threshold` and `pattern` are each for all layers, or a mapping from glob patterns
    over layer paths (see `tfc.compress`) to a value, or to `None`: the first pattern that matches a
    layer wins. A layer for which none of the three is given keeps its weights.

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
            ranking of all their weights, and those with small weights lose more. With a mapping,
            those that have a sparsity, which must be the same.

    Returns:
        A new model.

    Raises:
        TypeError: If `model` is not a Keras model, or an option has the wrong type.
        ValueError: If the model is not built, if no layer can be pruned, if a matrix
            is not finite, if a glob matches no layer, or if options are missing, out of range or
            exclude each other.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.add(keras.layers.Dense(2, name="head"))
        >>> pruned = tfc.prune(model, sparsity={"head": None, "*": 0.75})
        >>> [int(np.count_nonzero(layer.kernel)) for layer in pruned.layers]
        [8, 8]

    References:
        Han et al., "Learning both weights and connections for efficient neural networks", 2015,
        section 3.
    """
    check_model(model)
    given: dict[str, Any] = {"sparsity": sparsity, "threshold": threshold, "pattern": pattern}
    if not any(isinstance(value, Mapping) for value in given.values()):
        check_options(**given, block=block, scope=scope)
    if not prunable_layers(model):
        reasons = (f"\n  {path}: {refusal(layer)}" for path, layer in layer_paths(model).items())
        raise ValueError(
            f"`model` must have a layer that can be pruned; received {model.name!r}, which has "
            f"none:{''.join(reasons)}"
        )
    pruned = rebuild(model, lambda layer: None)
    wanted = {name: _by_layer(name, value, pruned) for name, value in given.items()}
    for options, group in _groups(wanted, scope):
        check_options(**options, block=block, scope=scope)
        matrices = [matrix_of(layer) for layer in group]
        try:
            masks = keep_masks(matrices, **options, block=block)
        except ValueError as error:
            names = ", ".join(repr(layer.name) for layer in group)
            raise ValueError(f"Weights of {names} cannot be pruned: {error}") from error
        for layer, matrix, mask in zip(group, matrices, masks, strict=True):
            _assign(layer, np.where(mask, matrix, matrix.dtype.type(0)))
    return pruned


def _by_layer(name: str, value: Any, model: keras.Model) -> dict[Layer, Any]:
    """What an option is for each layer that can be pruned; without those for which it is `None`."""
    if not isinstance(value, Mapping):
        return {} if value is None else dict.fromkeys(prunable_layers(model), value)
    paths = layer_paths(model)
    chosen: dict[Layer, Any] = {}
    for glob, one in value.items():
        for path in matching(glob, paths, name):
            chosen.setdefault(paths[path], one)
    found = {
        layer: chosen[layer] for layer in prunable_layers(model) if chosen.get(layer) is not None
    }
    if not found:
        raise ValueError(
            f"`{name}` must reach a layer that can be pruned; received {dict(value)}, which "
            f"reaches none of {model.name!r}."
        )
    return found


def _groups(
    wanted: Mapping[str, Mapping[Layer, Any]], scope: str
) -> list[tuple[dict[str, Any], list[Layer]]]:
    """Layers that are ranked together, and the options that they have in common."""
    layers = dict.fromkeys(layer for values in wanted.values() for layer in values)
    options = [{name: values.get(layer) for name, values in wanted.items()} for layer in layers]
    if scope != "global":
        return [(of_one, [layer]) for of_one, layer in zip(options, layers, strict=True)]
    for of_one in options[1:]:
        if of_one != options[0]:
            raise ValueError(
                "`sparsity`, `threshold` and `pattern` must be the same for all layers that are "
                f"pruned with scope='global'; received {options[0]} and {of_one}. Give the others "
                "None, or use scope='layer'."
            )
    return [(options[0], list(layers))]


def refusal(layer: Layer) -> str | None:
    """Why a layer cannot be pruned, in a few words, or `None` if it can."""
    if isinstance(layer, layers_lib.CompressedLayer):
        return "its weights are packed already"
    reason = layers_lib.refusal(layer)
    if reason is None and float_kernel(layer) is None:
        if isinstance(layer, Quantized):
            return f"{type(layer.kernel_quantizer).__name__} makes a weight of zero something else"
        return (
            "Keras has quantised it, or LoRA weights add to its kernel (prune it before), or it is "
            "a table by which nothing is multiplied"
        )
    return reason


def float_kernel(layer: Layer) -> Any:
    """The variable of a layer that `tfc.compress` can compress which holds its weight matrix.

    Returns:
        A floating-point `keras.Variable`, or `None` if there is none, or none that can be pruned.
    """
    if isinstance(layer, Quantized):
        return layer.prunable_kernel
    return _class(layer).float_kernel(layer)


def matrix_of(layer: Layer) -> npt.NDArray[Any]:
    """The weight matrix `[in_features, out_features]` of a layer that can be pruned."""
    if isinstance(layer, Quantized):
        matrix: npt.NDArray[Any] = layer.prunable_kernel.numpy()
        return matrix.reshape(-1, matrix.shape[-1])
    return _class(layer).source_weights(layer).matrix


def prunable_layers(model: keras.Model) -> list[Layer]:
    """The layers of a Sequential or Functional model that can be pruned, each once."""
    return [layer for layer in dict.fromkeys(layer_paths(model).values()) if refusal(layer) is None]


def _assign(layer: Layer, matrix: npt.NDArray[Any]) -> None:
    if isinstance(layer, Quantized):
        kernel = layer.prunable_kernel
        kernel.assign(np.reshape(matrix, kernel.shape))
    else:
        _class(layer).assign_matrix(layer, matrix)


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
