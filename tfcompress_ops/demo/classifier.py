"""The classifier of the demonstration, and its training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfcompress_ops import callbacks, constraints, methods
from tfcompress_ops.demo import digits as digits_lib
from tfcompress_ops.layers import QuantDense
from tfcompress_ops.quantizers import Quantizer, SteSign

HEAD = "digit"  # the last layer

_BATCH_SIZE = 128
_DROPOUT = 0.3
_LEARNING_RATE = 1e-3
# Standard deviation of the float weights behind quantised ones, to begin with: 45 steps. Spread
# over -1 ... 1 they learn too slowly (W1A32 loses 2 points at 512 units), as they come too
# restlessly (10 points at 2048 units).
_LATENT_DEVIATION = 0.045


@keras.saving.register_keras_serializable(package="tfcompress")
class OnePassAdam(keras.optimizers.Adam):  # type: ignore[misc]
    """Keras' Adam, by the one op that TensorFlow has for it.

    Keras writes it as a dozen ops, each of which goes through all of a variable: of millions of
    weights that takes longer than the products of a batch. `amsgrad` is not part of that op.
    """

    def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> None:
        """Updates a variable and its two moments."""
        index = self._get_variable_index(variable)
        slots = (variable, self._momentums[index], self._velocities[index])
        var, m, v = (getattr(slot, "_value", slot).handle for slot in slots)
        step = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=var,
            m=m,
            v=v,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


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


def train_quantized(
    model: keras.Model,
    quantizers: tuple[Quantizer, Quantizer | None],
    digits: digits_lib.Digits,
    *,
    epochs: int,
    seed: int,
) -> keras.Model:
    """Trains a classifier whose hidden layers have quantised weights, and inputs if asked for.

    It begins with the weights of a float one, and normalises what goes into the second hidden layer
    and into `HEAD`. Where inputs are reduced to signs, the first layer stays float, as is usual:
    pixels are no signs.

    Args:
        model: what `train` returned; it is left as it is.
        quantizers: of the kernels and of the inputs.
        digits: the data; only the training part is used.
        epochs: passes over the data.
        seed: of the order of the batches, the shifts and the dropout.

    Returns:
        Another classifier. `tfc.compress` packs its `tfc.layers.QuantDense` as they were trained.
    """
    keras.utils.set_random_seed(seed)
    options = dict(zip(("kernel_quantizer", "input_quantizer"), quantizers, strict=True))
    takes_signs = isinstance(quantizers[1], SteSign)
    hidden = model.get_layer("strokes").units

    def quantized(name: str) -> keras.layers.Layer:
        clip = constraints.WeightClip()
        return QuantDense(hidden, kernel_constraint=clip, name=name, **options)

    first = keras.layers.Dense(hidden, name="strokes") if takes_signs else quantized("strokes")
    layers: list[keras.layers.Layer] = [first, keras.layers.BatchNormalization(name="norm_1")]
    if not takes_signs:  # of which a ReLU would leave one
        layers.append(keras.layers.Activation("relu", name="relu_1"))
    new = keras.Sequential(
        [
            keras.Input((digits_lib.PIXELS,), name="pixels"),
            *layers,
            keras.layers.Dropout(_DROPOUT, name="dropout_1"),
            quantized("shapes"),
            keras.layers.BatchNormalization(name="norm_2"),
            keras.layers.Activation("relu", name="relu_2"),
            keras.layers.Dropout(_DROPOUT, name="dropout_2"),
            keras.layers.Dense(digits_lib.CLASSES, name=HEAD),
        ],
        name=model.name,
    )
    for name in ("strokes", "shapes", HEAD):
        kernel, bias = model.get_layer(name).get_weights()
        if isinstance(new.get_layer(name), QuantDense):
            # Wide layers have small weights, whose signs every step would turn; what follows is
            # normalised.
            kernel = kernel * (_LATENT_DEVIATION / kernel.std())
        new.get_layer(name).set_weights([kernel, bias])
    _fit(new, digits, epochs, seed, lambda _: None)
    copied = keras.models.clone_model(new)
    copied.set_weights(new.get_weights())
    return copied


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
        optimizer=OnePassAdam(decay),
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
