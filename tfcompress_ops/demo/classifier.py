"""The classifier of the demonstration, and its training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from tfcompress_ops.demo import digits as digits_lib

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
            keras.layers.Dense(digits_lib.CLASSES, name="digit"),
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
    images, labels = digits_lib.shifted(digits, epochs, seed)
    steps = math.ceil(len(labels) / _BATCH_SIZE)
    decay = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)
    trained.compile(
        optimizer=keras.optimizers.Adam(decay),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    trained.fit(
        images,
        labels,
        batch_size=_BATCH_SIZE,
        shuffle=False,
        verbose=0,
        callbacks=[_OnStep(on_step, steps)],
    )
    classifier = build(hidden)
    classifier.set_weights(trained.get_weights())
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
