"""One model out of several of the same architecture, by the mean of their weights."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfcompress_ops.compression import check_models
from tfcompress_ops.layers.layer import CompressedLayer
from tfcompress_ops.rebuilding import rebuild
from tfcompress_ops.structure import layer_paths


def average_weights(
    models: Sequence[keras.Model], score: Callable[[keras.Model], float] | None = None
) -> keras.Model:
    """Averages the weights of models that were fine-tuned from the same start.

    Uniform soup: `w = mean(w_1, ..., w_n)`. Greedy soup, with `score`: models are sorted by it;
    from the best on, one is taken into the mean if that makes the mean's score no worse. As large
    and fast as one model, where an ensemble is as large as all. Models that were trained from
    different initial weights have no useful mean.

    Floating-point variables are averaged, statistics of batch normalisation among them; others are
    those of the first, or the best, model.

    Args:
        models: Built Sequential or Functional models of equal architecture; left as they are.
        score: Gives how good a model is on held-out data, the higher the better.

    Returns:
        A new model, compiled if the first, or the best, is.

    Raises:
        TypeError: If one is not a Keras model.
        ValueError: If there is none, if one is subclassed, not built or compressed, or if their
            variables differ in number, shape or dtype.

    Example:
        >>> models = [keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]) for _ in "ab"]
        >>> mean = tfc.average_weights(models)
        >>> kernels = [model.layers[0].kernel.numpy() for model in models]
        >>> bool(np.allclose(mean.layers[0].kernel, (kernels[0] + kernels[1]) / 2))
        True

    References:
        Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves
        accuracy without increasing inference time", 2022, section 2 and recipe 1.
    """
    models = check_models(models)
    _check(models)
    if score is None:
        return _mean(models)
    scores = [score(model) for model in models]
    ranked = sorted(range(len(models)), key=lambda index: scores[index], reverse=True)
    taken, best = [models[ranked[0]]], scores[ranked[0]]
    for model in (models[index] for index in ranked[1:]):
        candidate = score(_mean([*taken, model]))
        if candidate >= best:
            taken.append(model)
            best = candidate
    return _mean(taken)


def _mean(models: Sequence[keras.Model]) -> keras.Model:
    mean = rebuild(models[0], lambda layer: None)
    for target, *sources in zip(mean.weights, *(model.weights for model in models), strict=True):
        if keras.backend.is_float_dtype(target.dtype):
            arrays = [keras.ops.convert_to_tensor(one).numpy().astype("float64") for one in sources]
            target.assign(np.mean(arrays, axis=0))
    return mean


def _check(models: Sequence[keras.Model]) -> None:
    for model in models:
        if any(isinstance(layer, CompressedLayer) for layer in layer_paths(model).values()):
            raise ValueError(
                f"`models` must not be compressed; received {model.name!r}, which has packed "
                "weights. Average the models that it was made from, then compress."
            )

    def kinds(model: keras.Model) -> list[tuple[tuple[int, ...], str]]:
        return [(tuple(variable.shape), variable.dtype) for variable in model.weights]

    for model in models[1:]:
        if kinds(model) != kinds(models[0]):
            raise ValueError(
                f"`models` must have the same architecture; received {models[0].name!r} and "
                f"{model.name!r}, whose weights differ in number, shape or dtype."
            )
