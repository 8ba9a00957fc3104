"""The models that are compared: plain Keras, Keras' own int8, and every variant of every format."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfcompress_ops import compression, formats
from tfcompress_ops.demo import classifier
from tfcompress_ops.demo import digits as digits_lib
from tfcompress_ops.demo.digits import PIXELS
from tfcompress_ops.demo.results import FLOAT32, FLOAT32_XLA, KERAS_INT8
from tfcompress_ops.formats import Format, Int8
from tfcompress_ops.quantizers import training

_CALIBRATION_DIGITS = 500


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
    digits: digits_lib.Digits,
    *,
    epochs: int,
    quantized_epochs: int,
    seed: int,
    with_xla: bool,
    on_step: Callable[[float], None],
) -> list[Contestant]:
    """Makes the contestants, plain Keras first.

    A format that removes weights gets a classifier that was trained on without them; classifiers
    that were pruned alike are trained once. A format of one or two bits gets one that was trained
    with such weights, whose other layers become int8.

    Args:
        model: the trained classifier.
        digits: what it was trained on; formats that need to see inputs see some of it.
        epochs: passes over the digits with which a pruned classifier is trained on.
        quantized_epochs: the same for one of one or two bits.
        seed: of that training.
        with_xla: whether the model compiled by XLA is among them, which takes seconds to compile.
        on_step: called after each with the share that is done, 0 to 1.
    """
    contestants = [Contestant(FLOAT32, model)]
    if with_xla:
        contestants.append(Contestant(FLOAT32_XLA, model, jit_compile=True))
    contestants.append(Contestant(KERAS_INT8, _keras_int8(model)))
    calibration_data = digits.train_images[:_CALIBRATION_DIGITS]
    pruned: dict[str, keras.Model] = {}
    pairs = variants()
    for step, (label, variant) in enumerate(pairs, start=1):
        source = model
        chosen: dict[str, Format | None] = {"*": variant}
        if variant.pruning is not None:
            key = repr(variant.pruning)
            if key not in pruned:
                pruned[key] = classifier.fine_tune(
                    model, variant.pruning, digits, epochs=epochs, seed=seed
                )
            source = pruned[key]
            chosen = {classifier.HEAD: variant.dense_alternative, "*": variant}
        quantizers = training(variant)
        if quantizers is not None:
            source = classifier.train_quantized(
                model, quantizers, digits, epochs=quantized_epochs, seed=seed
            )
            chosen = {"*": Int8()}
        compressed = compression.compress(source, chosen, calibration_data, batch_size=None)
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
