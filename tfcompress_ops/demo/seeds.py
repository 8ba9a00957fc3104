"""What one-bit weights cost in accuracy, over several seeds: one seed is an anecdote."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras

from tfcompress_ops import compression
from tfcompress_ops.demo import classifier
from tfcompress_ops.demo import digits as digits_lib
from tfcompress_ops.demo.results import FLOAT32, SeedAccuracy
from tfcompress_ops.formats import Binary, Format, Int8
from tfcompress_ops.quantizers import training

# What weights of one bit are multiplied with, exactly and least: W1A32 and W1A1.
FORMATS: dict[str, Format] = {
    "1-bit weights, float inputs (W1A32)": Binary("float"),
    "1-bit weights and inputs (W1A1)": Binary("binary"),
}


def study(
    hidden: int,
    seeds: Sequence[int],
    *,
    epochs: int,
    on_step: Callable[[float], None] = lambda share: None,
) -> list[SeedAccuracy]:
    """Trains a classifier for each seed, and from it one for each of `FORMATS`.

    A seed decides which digits are held out, the initial weights and the order of training.

    Args:
        hidden: width of both hidden layers.
        seeds: the seeds, at least one.
        epochs: passes over the digits, of each classifier.
        on_step: called after each with the share that is done, 0 to 1.

    Returns:
        Accuracies on the held-out digits, the float classifier's first; those of one or two bits
        are of the compressed model, as it is served: other layers are int8.
    """
    found: dict[str, list[float]] = {label: [] for label in (FLOAT32, *FORMATS)}
    steps = len(seeds) * len(found)
    for seed in seeds:
        digits = digits_lib.load(seed)
        model = classifier.train(hidden, digits, epochs=epochs, seed=seed, on_step=lambda _: None)
        found[FLOAT32].append(accuracy(model, digits))
        on_step(sum(map(len, found.values())) / steps)
        for label, format_ in FORMATS.items():
            quantizers = training(format_)
            assert quantizers is not None  # one bit always has some
            trained = classifier.train_quantized(
                model, quantizers, digits, epochs=epochs, seed=seed
            )
            small = compression.compress(trained, Int8(), batch_size=None)
            found[label].append(accuracy(small, digits))
            on_step(sum(map(len, found.values())) / steps)
    return [SeedAccuracy(label, accuracies) for label, accuracies in found.items()]


def accuracy(model: keras.Model, digits: digits_lib.Digits) -> float:
    """Share of the held-out digits that a classifier reads correctly, 0 to 1."""
    read = model.predict(digits.test_images, verbose=0, batch_size=250).argmax(axis=1)
    return float((read == digits.test_labels).mean())
