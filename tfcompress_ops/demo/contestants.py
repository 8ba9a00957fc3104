"""The models that are compared: plain Keras, Keras' own int8, and every variant of every format."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfcompress_ops import compression, formats
from tfcompress_ops.demo.digits import PIXELS
from tfcompress_ops.demo.results import FLOAT32, FLOAT32_XLA, KERAS_INT8
from tfcompress_ops.formats import Format


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A model under a label.

    Attributes:
        label: what the table calls it.
        model: takes float32 `[batch, 784]`, gives logits.
        format: what it is compressed to, None for the baselines.
        jit_compile: whether XLA compiles it.
    """

    label: str
    model: keras.Model
    format: Format | None = None
    jit_compile: bool = False

    def function(self, repetitions: int = 1) -> Any:
        """Returns a `tf.function` that runs the model `repetitions` times, one after the other.

        Each run's input depends on the output before it, so that none can be left out or overlap.
        """

        def run(pixels: tf.Tensor) -> tf.Tensor:
            logits = self.model(pixels, training=False)
            for _ in range(repetitions - 1):
                logits = self.model(pixels + 1e-30 * logits[:, :1], training=False)
            return logits

        # XLA compiles each batch size by itself in any case; others are traced once for all.
        pixels = None if self.jit_compile else [tf.TensorSpec([None, PIXELS], tf.float32)]
        return tf.function(run, pixels, autograph=False, jit_compile=self.jit_compile)


def enter(
    model: keras.Model,
    calibration_data: NDArray[np.float32],
    *,
    with_xla: bool,
    on_step: Callable[[float], None],
) -> list[Contestant]:
    """Makes the contestants, plain Keras first.

    Args:
        model: the trained classifier.
        calibration_data: inputs for the formats that need to see some.
        with_xla: whether the model compiled by XLA is among them, which takes seconds to compile.
        on_step: called after each with the share that is done, 0 to 1.
    """
    contestants = [Contestant(FLOAT32, model)]
    if with_xla:
        contestants.append(Contestant(FLOAT32_XLA, model, jit_compile=True))
    contestants.append(Contestant(KERAS_INT8, _keras_int8(model)))
    pairs = variants()
    for step, (label, variant) in enumerate(pairs, start=1):
        compressed = compression.compress(model, variant, calibration_data)
        contestants.append(Contestant(label, compressed, variant))
        on_step(step / len(pairs))
    return contestants


def variants() -> list[tuple[str, Format]]:
    """Returns what every registered format wants to show, with its label."""
    return [pair for name in formats.names() for pair in type(formats.get(name)).variants()]


def _keras_int8(model: keras.Model) -> keras.Model:
    quantized = keras.models.clone_model(model)
    quantized.set_weights(model.get_weights())
    with warnings.catch_warnings():
        # Keras warns about each layer that has nothing to quantise, such as Dropout.
        warnings.simplefilter("ignore")
        quantized.quantize("int8")
    return quantized
