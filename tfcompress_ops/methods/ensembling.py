"""One model out of several, by their outputs."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfcompress_ops.compression import check_models
from tfcompress_ops.latency import layer_latencies_us
from tfcompress_ops.methods.outputs import alike, check_one_output, output_activation
from tfcompress_ops.methods.widening import widened
from tfcompress_ops.rebuilding import rebuild
from tfcompress_ops.structure import input_of, is_graph


def ensemble(
    models: Sequence[keras.Model],
    combine: str = "mean",
    weights: Sequence[float] | None = None,
    batch_size: int | None = None,
) -> keras.Model:
    """Makes one model of several, which gives their mean or the result of their vote.

    With weights `w_m` that are scaled to a sum of 1 (equal ones by default) and members' outputs
    `y_m` of shape (batch, ..., classes):

        mean:  y = sum_m w_m * y_m                  logits, or probabilities, as members give them
        vote:  y_c = sum_m w_m * [argmax(y_m) = c]  the share of votes that class c gets

    Of equal outputs of a member, and of classes with equal shares, argmax takes the first. Sigmoid
    outputs, and a single one, are labels of two classes each: a member votes for 1 where its
    probability is above 0.5, its logit above 0.

    The mean of probabilities is the usual choice. The mean of logits is another: the probabilities'
    normalised geometric mean. The model takes one call where members would take several, and is
    saved and exported as a whole, without a need for this package unless a member has one. It may
    be compressed: layer `"hidden"` of the first member is `"member_0/hidden"`.

    With a `batch_size`, members of equal architecture that are stacks of Dense layers (and
    BatchNormalization, activations, Dropout) become one network that is as many times wider, where
    that is faster: both are timed on this machine. Of the wide one, the first Dense layer has the
    kernels side by side; behind it `EinsumDense` layers multiply `[batch, member, units]` by a
    kernel for each member. Compress members before, or leave `batch_size` out.

    Args:
        models: Built Sequential or Functional models with equal inputs, and one output of equal
            shape and kind; compressed ones are welcome. They are copied, and left as they are.
        combine: `"mean"` or `"vote"`.
        weights: A number for each model, at least 0 and not all 0.
        batch_size: Rows of a call that the model is to be fast for, >= 1, or `None`: members stay
            apart.

    Returns:
        A new Functional model, not compiled, of the first model's inputs.

    Raises:
        TypeError: If one is not a Keras model.
        ValueError: If there is none, one is not built or is subclassed, inputs or outputs differ,
            or `combine`, `weights` or `batch_size` are not among what is described.

    Example:
        >>> models = [keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]) for _ in "ab"]
        >>> both = tfc.ensemble(models)
        >>> x = np.ones((2, 8), "f")
        >>> bool(np.allclose(both(x), (models[0](x) + models[1](x)) / 2, atol=1e-6))
        True

    References:
        Hansen & Salamon, "Neural network ensembles", 1990, section III (votes).
        Breiman, "Bagging predictors", 1996, section 4.2 (both).
    """
    models = check_models(models)
    if combine not in _COMBINATIONS:
        raise ValueError(f'`combine` must be "mean" or "vote"; received {combine!r}.')
    _check(models)
    if batch_size is not None and (
        isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1
    ):
        raise ValueError(f"`batch_size` must be a positive integer or None; received {batch_size}.")
    shares = _shares(models, weights)
    said = _COMBINATIONS[combine](models[0])
    inputs = keras.tree.map_structure(_input_like, input_of(models[0]))
    outputs = [said(_member(model, index)(inputs)) for index, model in enumerate(models)]
    apart = keras.Model(inputs, _weighted(outputs, shares), name="ensemble")
    if batch_size is None:
        return apart
    inputs = keras.tree.map_structure(_input_like, input_of(models[0]))
    together = widened(models, inputs)
    if together is None:
        return apart
    wide = keras.Model(inputs, _weighted_stack(said(together), shares), name="ensemble")
    return faster(apart, wide, batch_size)


def faster(first: keras.Model, second: keras.Model, batch_size: int) -> keras.Model:
    """The faster of two models that take the same rows of features, timed inside a graph."""
    features = input_of(first).shape[-1]
    rows = np.random.default_rng(0).normal(size=(batch_size, features))
    x = tf.constant(rows, input_of(first).dtype)
    times = layer_latencies_us([first, second], x, features)
    return first if times[0] <= times[1] else second


def _weighted(outputs: list[Any], shares: list[float]) -> Any:
    return functools.reduce(
        ops.add, [ops.multiply(y, share) for y, share in zip(outputs, shares, strict=True)]
    )


def _weighted_stack(stacked: Any, shares: list[float]) -> Any:
    """The same of one tensor `[batch, member, classes]`."""
    if len(set(shares)) == 1:
        return ops.mean(stacked, axis=1)
    return _weighted([stacked[:, index] for index in range(len(shares))], shares)


def _as_they_are(model: keras.Model) -> Callable[[Any], Any]:
    del model
    return lambda outputs: outputs


def _as_votes(model: keras.Model) -> Callable[[Any], Any]:
    """What makes a member's outputs, classes on the last axis, its votes."""
    classes, activation = model.outputs[0].shape[-1], output_activation(model)
    if activation is keras.activations.sigmoid or (classes == 1 and activation is not None):
        threshold = 0.5 if activation is keras.activations.sigmoid else 0.0
        return lambda y: ops.cast(ops.greater(y, threshold), y.dtype)
    if classes is None or classes == 1:
        raise ValueError(
            "`models` must tell by their last activation (linear or sigmoid) what a single output "
            f"is where they vote; received {model.name!r}, whose outputs are "
            f"{tuple(model.outputs[0].shape)}."
        )
    return lambda y: ops.one_hot(ops.argmax(y, axis=-1), classes, dtype=y.dtype)


_COMBINATIONS: dict[str, Callable[[keras.Model], Callable[[Any], Any]]] = {
    "mean": _as_they_are,
    "vote": _as_votes,
}


def _member(model: keras.Model, index: int) -> keras.Model:
    """A copy of a model that is not compiled, with a name of its own."""
    member = keras.Model(input_of(model), model.outputs[0], name=f"member_{index}")
    return rebuild(member, lambda layer: None)


def _input_like(tensor: Any) -> Any:
    name = tensor._keras_history.operation.name
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)


def _shares(models: list[keras.Model], weights: Sequence[float] | None) -> list[float]:
    values = np.asarray([1.0] * len(models) if weights is None else list(weights), "float64")
    if values.shape != (len(models),):
        raise ValueError(
            f"`weights` must hold a number for each model; received {weights} for {len(models)} "
            "models."
        )
    if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        raise ValueError(f"`weights` must be at least 0 and not all 0; received {weights}.")
    return [float(share) for share in values / values.sum()]


def _check(models: list[keras.Model]) -> None:
    for model in models:
        if not is_graph(model):
            raise ValueError(
                f"`models` must be Sequential or Functional; received {model.name!r} "
                f"({type(model).__name__}). Wrap it: keras.Model(inputs, model(inputs))."
            )
        check_one_output(model, "models")
    first = models[0]
    for model in models[1:]:
        if not _same_inputs(model, first):
            raise _unlike(
                "inputs", first, model, _shapes(input_of(first)), _shapes(input_of(model))
            )
        if not alike(model.outputs[0], first.outputs[0]):
            raise _unlike(
                "outputs", first, model, _shapes(first.outputs[0]), _shapes(model.outputs[0])
            )
        kinds = [getattr(output_activation(one), "__name__", None) for one in (first, model)]
        if None not in kinds and kinds[0] != kinds[1]:
            raise _unlike("output activations", first, model, *kinds)


def _same_inputs(first: keras.Model, second: keras.Model) -> bool:
    def kinds(model: keras.Model) -> Any:
        return keras.tree.map_structure(
            lambda tensor: (str(tuple(tensor.shape[1:])), tensor.dtype), input_of(model)
        )

    return bool(kinds(first) == kinds(second))


def _shapes(tensors: Any) -> str:
    described = [f"{tuple(one.shape)} {one.dtype}" for one in keras.tree.flatten(tensors)]
    return ", ".join(described)


def _unlike(what: str, first: keras.Model, other: keras.Model, *values: Any) -> ValueError:
    return ValueError(
        f"`models` must have equal {what}; received {first.name!r} with {values[0]} and "
        f"{other.name!r} with {values[1]}."
    )
