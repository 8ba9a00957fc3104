"""The classifier of the demonstration, and its training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from tfcompress_ops import callbacks, methods
from tfcompress_ops.demo import digits as digits_lib

HEAD = "digit"  # the last layer

_BATCH_SIZE = 128
_DROPOUT = 0.3
_LEARNING_RATE = 1e-3


def build(hidden: int) -> keras.Model:
    """Returns an untrained 784 - hidden - hidden - 10 classifier, whose outputs are logits."""
    return keras.Sequential(
        [
            keras.Input((digits_lib.PIXELS,), name="pixels"),
            keras.layers.Dense(hidden, activation="relu", name="strokes"),
            keras.layers.Dropout(_DROPOUT, name="dropout_1"),
            keras.layers.Dense(hidden, activation="relu", name="shapes"),
            keras.layers.Dropout(_DROPOUT, name="dropout_2"),
            keras.layers.Dense(digits_lib.CLASSES, name=HEAD),
        ],
        name="digits",
    )


def train(
    hidden: int,
    digits: digits_lib.Digits,
    *,
    epochs: int,
    seed: int,
    on_step: Callable[[float], None],
) -> keras.Model:
    """Trains a classifier.

    Args:
        hidden: width of both hidden layers.
        digits: the data; only the training part is used.
        epochs: passes over the data.
        seed: of the initial weights, the order of the batches, the shifts and the dropout.
        on_step: called after each batch with the share that is done, 0 to 1.

    Returns:
        The classifier, not compiled, so that a saved file holds the weights and no more.
    """
    keras.utils.set_random_seed(seed)
    trained = build(hidden)
    _fit(trained, digits, epochs, seed, on_step)
    return _plain(trained)


def fine_tune(
    model: keras.Model,
    pruning: dict[str, Any],
    digits: digits_lib.Digits,
    *,
    epochs: int,
    seed: int,
) -> keras.Model:
    """Prunes a classifier's hidden layers and trains on under the zeros.

    Args:
        model: what `train` returned; it is left as it is.
        pruning: arguments of `tfc.prune`.
        digits: the data; only the training part is used.
        epochs: passes over the data.
        seed: of the order of the batches, the shifts and the dropout.

    Returns:
        Another classifier, not compiled. The layer `HEAD` has no zeros: it is small, and every
        weight of it counts.
    """
    keras.utils.set_random_seed(seed)
    pruned = methods.prune(model, **pruning)
    pruned.get_layer(HEAD).set_weights(model.get_layer(HEAD).get_weights())
    _fit(pruned, digits, epochs, seed, lambda _: None, callbacks.Pruning())
    return _plain(pruned)


def _fit(
    model: keras.Model,
    digits: digits_lib.Digits,
    epochs: int,
    seed: int,
    on_step: Callable[[float], None],
    *more: keras.callbacks.Callback,
) -> None:
    images, labels = digits_lib.shifted(digits, epochs, seed)
    steps = math.ceil(len(labels) / _BATCH_SIZE)
    decay = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)
    model.compile(
        optimizer=keras.optimizers.Adam(decay),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    model.fit(
        images,
        labels,
        batch_size=_BATCH_SIZE,
        shuffle=False,
        verbose=0,
        callbacks=[_OnStep(on_step, steps), *more],
    )


def _plain(model: keras.Model) -> keras.Model:
    """A copy that is not compiled, so that a saved file holds the weights and no more."""
    classifier = build(model.layers[0].units)
    classifier.set_weights(model.get_weights())
    return classifier


class _OnStep(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self, on_step: Callable[[float], None], steps: int) -> None:
        super().__init__()
        self._on_step = on_step
        self._steps = steps
        self._done = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._done += 1
        self._on_step(self._done / self._steps)
