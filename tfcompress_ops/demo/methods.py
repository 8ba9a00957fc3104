"""The article's five methods on the demonstration's digits: one after the other, and each alone.

A large float classifier is the teacher, and what everything is compared with. The pipeline makes a
small one of it: distil, remove neurons, prune with a schedule, multiply in int8. Beside it each
method works on the teacher by itself, or shows what it is for with small classifiers.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfcompress_ops import callbacks, compression, methods, schedules
from tfcompress_ops.bench.timing import interleave
from tfcompress_ops.demo import digits as digits_lib
from tfcompress_ops.demo import measure
from tfcompress_ops.demo.classifier import HEAD
from tfcompress_ops.demo.contestants import Contestant
from tfcompress_ops.demo.method_results import (
    ALONE,
    BATCH_SIZES,
    PIPELINE,
    Labels,
    Measured,
    MethodResults,
    summarise,
)
from tfcompress_ops.formats import Binary, Format, Int8, Sparse

_BATCH_SIZE = 128
_DIGITS_AT_ONCE = 100_000  # shifted, 300 MB
_MEMBERS = 5
_SOUP = 3
_REPETITIONS = 3
_BURST = 5
_SECONDS = 20.0
# Chosen on digits that were held out of the training digits, as are the numbers of passes. At 1e-3
# small networks learn too little in so few passes, and pruned ones recover less.
_STUDENT_RATE = 3e-3
_MEMBER_RATE = 3e-3
_PRUNING_RATE = 2e-3
_TEMPERATURE = 8.0
_PRUNING_TEMPERATURE = 4.0
_TUNING_RATE = 3e-4
# One of so many training digits is one by which the best of several networks is chosen.
_CHOSEN_BY = 10
# A student of few digits learns from one of so many.
_FEW = 10
_SPARSITY = 0.875
_REMOVED = 0.5
_SPARSE = Sparse(sparsity=_SPARSITY, pattern="balanced", values="int8")
# Changes of the zeros on the way to the last sparsity.
_PRUNING_STEPS = 12

OnStep = Callable[[float], None]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large networks are and how long they are trained, in passes over the digits.

    Attributes:
        teacher: width of both hidden layers of the float classifier.
        student: the same of the one that the pipeline distils, and then halves.
        small: the same of students that are compared with and without a teacher.
        member: the same of each member of the ensemble.
        passes: for a network that is trained from nothing.
        small_passes: the same for small students, which want longer.
        tuned_passes: while weights become zero, after neurons were removed, and for soups.
        rounded_passes: with the rounding of int8.
        signs_passes: with weights of one bit.
        rounds: bursts of each model at each batch size.
    """

    teacher: int
    student: int
    small: int
    member: int
    passes: int
    small_passes: int
    tuned_passes: int
    rounded_passes: int
    signs_passes: int
    rounds: int


FULL = Sizes(2560, 1024, 128, 256, 24, 48, 8, 2, 8, 15)
QUICK = Sizes(256, 128, 32, 64, 5, 5, 2, 1, 1, 3)


@dataclasses.dataclass(frozen=True)
class _Trainer:
    """Trains classifiers on one split of the digits."""

    digits: digits_lib.Digits
    seed: int

    def fit(
        self,
        model: keras.Model,
        passes: int,
        learning_rate: float = 1e-3,
        callback: keras.callbacks.Callback | None = None,
        order: int = 0,
    ) -> None:
        """Trains on labels, and a `tfc.Distiller` on its teacher, too.

        Args:
            model: what is trained, in place.
            passes: over the digits, shifted anew in each.
            learning_rate: of Adam, to begin with; it falls along a cosine.
            callback: one more.
            order: of the shifts and the batches; each number gives another.
        """
        decay = keras.optimizers.schedules.CosineDecay(learning_rate, self.steps(passes))
        model.compile(
            optimizer=keras.optimizers.Adam(decay),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        at_once = max(1, _DIGITS_AT_ONCE // len(self.digits.train_labels))
        for start in range(0, passes, at_once):
            images, labels = digits_lib.shifted(
                self.digits, min(at_once, passes - start), (self.seed, order, start)
            )
            model.fit(
                images,
                labels,
                batch_size=_BATCH_SIZE,
                shuffle=False,
                verbose=0,
                callbacks=[] if callback is None else [callback],
            )

    def steps(self, passes: int) -> int:
        """Batches of so many passes."""
        return math.ceil(passes * len(self.digits.train_labels) / _BATCH_SIZE)

    def pruning(self, passes: int) -> callbacks.Pruning:
        """Prunes all but `HEAD` in the first half of so many passes, by Zhu and Gupta's cubic."""
        end = self.steps(passes) // 2
        rising = schedules.Polynomial(
            0.0, _SPARSITY, begin_step=0, end_step=end, frequency=max(1, end // _PRUNING_STEPS)
        )
        return callbacks.Pruning({HEAD: None, "*": rising}, pattern=_SPARSE.pattern)


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A model to measure, under the names of its row."""

    group: str
    label: str
    model: keras.Model


def build(hidden: int) -> keras.Model:
    """Returns an untrained 784 - hidden - hidden - 10 classifier, whose outputs are logits.

    Without dropout: in as few passes as these, over digits that are shifted anew each time, it
    costs a point.
    """
    return keras.Sequential(
        [
            keras.Input((digits_lib.PIXELS,), name="pixels"),
            keras.layers.Dense(hidden, activation="relu", name="strokes"),
            keras.layers.Dense(hidden, activation="relu", name="shapes"),
            keras.layers.Dense(digits_lib.CLASSES, name=HEAD),
        ],
        name="digits",
    )


def run(seeds: Sequence[int], sizes: Sizes, on_step: OnStep) -> MethodResults:
    """Trains and measures everything once for each seed.

    Args:
        seeds: of the split of the digits, the initial weights and the order of the batches.
        sizes: of networks and of their training.
        on_step: called with the share that is done, 0 to 1.

    Returns:
        Mean and spread over the seeds.
    """
    found = []
    for index, seed in enumerate(seeds):

        def within(share: float, index: int = index) -> None:
            on_step((index + share) / len(seeds))

        found.append(_run_once(seed, sizes, within))
    return summarise(
        found,
        seeds=list(seeds),
        layers=[digits_lib.PIXELS, sizes.teacher, sizes.teacher, digits_lib.CLASSES],
        members=_MEMBERS,
    )


def _run_once(seed: int, sizes: Sizes, on_step: OnStep) -> list[Measured]:
    trainer = _Trainer(digits_lib.load(seed), seed)
    keras.utils.set_random_seed(seed)
    teacher = build(sizes.teacher)
    trainer.fit(teacher, sizes.passes)
    entries = [_Entry(PIPELINE, Labels.TEACHER, teacher)]
    makers = (_pipeline, _pruned, _quantized, _distilled, _smaller, _fused)
    for index, make in enumerate(makers, start=1):
        on_step(index / (len(makers) + 2))
        entries.extend(make(teacher, trainer, sizes))
    on_step((len(makers) + 1) / (len(makers) + 2))
    measured = _measure(entries, trainer.digits, sizes.rounds)
    on_step(1.0)
    return measured


def _pipeline(teacher: keras.Model, trainer: _Trainer, sizes: Sizes) -> Iterator[_Entry]:
    """The steps of the combined pipeline; the teacher goes on teaching through all of them."""

    def taught(student: keras.Model) -> keras.Model:
        return methods.Distiller(student, teacher, temperature=_TEMPERATURE)

    passes = sizes.passes // 2
    student = build(sizes.student)
    trainer.fit(taught(student), sizes.passes, _STUDENT_RATE)
    yield _Entry(PIPELINE, Labels.DISTILLED, student)

    smaller = methods.remove_neurons(student, fraction=_REMOVED)
    trainer.fit(taught(smaller), passes, _STUDENT_RATE, order=1)
    yield _Entry(PIPELINE, Labels.REMOVED, smaller)

    pruned = _copy(smaller)
    trainer.fit(taught(pruned), passes, _STUDENT_RATE, trainer.pruning(passes), order=2)
    yield _Entry(PIPELINE, Labels.PRUNED, pruned)
    yield _Entry(PIPELINE, Labels.INT8, _compress(pruned, _SPARSE))


def _distilled(teacher: keras.Model, trainer: _Trainer, sizes: Sizes) -> Iterator[_Entry]:
    """Distillation alone: a small student with a teacher and without, from the same weights.

    Once with all the digits that the teacher has learnt from, and once with a tenth of them, where
    there is more to learn from the teacher.
    """
    count = len(trainer.digits.train_labels)
    tenth = digits_lib.held_out(trainer.digits, count - count // _FEW)
    few = dataclasses.replace(trainer, digits=tenth)
    for some, passes, without, with_teacher in (
        (trainer, sizes.small_passes, Labels.STUDENT_ALONE, Labels.STUDENT),
        (few, sizes.passes * _FEW, Labels.FEW_ALONE, Labels.FEW),
    ):
        alone = build(sizes.small)
        student = _copy(alone)
        some.fit(alone, passes, _STUDENT_RATE)
        yield _Entry(ALONE, without, alone)
        taught = methods.Distiller(student, teacher, temperature=_TEMPERATURE)
        some.fit(taught, passes, _STUDENT_RATE)
        yield _Entry(ALONE, with_teacher, student)


def _pruned(teacher: keras.Model, trainer: _Trainer, sizes: Sizes) -> Iterator[_Entry]:
    """Weight pruning alone: the zeros left out, in float32 and in int8.

    What it was before teaches it. A network that is trained on as long, with the same teacher and
    no zeros, tells what of the difference is the training's.
    """
    passes = sizes.tuned_passes
    dense, pruned = _copy(teacher), _copy(teacher)
    for network, callback in ((dense, None), (pruned, trainer.pruning(passes))):
        taught = methods.Distiller(network, teacher, temperature=_PRUNING_TEMPERATURE)
        trainer.fit(taught, passes, _PRUNING_RATE, callback, order=1)
    yield _Entry(ALONE, Labels.TRAINED_ON, dense)
    in_float = dataclasses.replace(_SPARSE, values="float32")
    yield _Entry(ALONE, Labels.SPARSE_FLOAT, _compress(pruned, in_float))
    yield _Entry(ALONE, Labels.SPARSE_INT8, _compress(pruned, _SPARSE))


def _quantized(teacher: keras.Model, trainer: _Trainer, sizes: Sizes) -> Iterator[_Entry]:
    """Quantisation and binarisation alone: as it is, and after fine-tuning with the rounding."""
    yield _Entry(ALONE, Labels.ROUNDED, _compress(teacher, Int8()))
    for label, format_, passes in (
        (Labels.TUNED_INT8, Int8(), sizes.rounded_passes),
        (Labels.TUNED_SIGNS, Binary("int8"), sizes.signs_passes),
    ):
        aware = methods.quantize_aware(teacher, {HEAD: Int8(), "*": format_})
        trainer.fit(aware, passes, _TUNING_RATE, order=2)
        yield _Entry(ALONE, label, compression.compress(aware, batch_size=None))


def _smaller(teacher: keras.Model, trainer: _Trainer, sizes: Sizes) -> Iterator[_Entry]:
    """Neuron pruning alone."""
    smaller = methods.remove_neurons(teacher, fraction=_REMOVED)
    trainer.fit(smaller, sizes.tuned_passes, order=3)
    yield _Entry(ALONE, Labels.HALF_REMOVED, smaller)


def _fused(teacher: keras.Model, trainer: _Trainer, sizes: Sizes) -> Iterator[_Entry]:
    """Fusion alone: an ensemble with its best member, and a soup with what it is made of.

    The best is what reads most of some training digits that none of them has learnt from.
    """
    del teacher
    chosen_by = digits_lib.held_out(trainer.digits, len(trainer.digits.train_labels) // _CHOSEN_BY)
    trainer = dataclasses.replace(trainer, digits=chosen_by)

    def best(networks: list[keras.Model]) -> keras.Model:
        return max(networks, key=lambda network: accuracy(network, chosen_by))

    members = []
    for index in range(_MEMBERS):
        keras.utils.set_random_seed(trainer.seed + 1000 * index)
        members.append(build(sizes.member))
        trainer.fit(members[-1], sizes.passes, _MEMBER_RATE, order=index)
    yield _Entry(ALONE, Labels.BEST_MEMBER, best(members))
    yield _Entry(ALONE, Labels.ENSEMBLE, methods.ensemble(members, batch_size=1))
    tuned = [_copy(members[0]) for _ in range(_SOUP)]
    for index, one in enumerate(tuned):
        trainer.fit(one, sizes.tuned_passes, order=10 + index)
    yield _Entry(ALONE, Labels.BEST_TUNED, best(tuned))
    yield _Entry(ALONE, Labels.SOUP, methods.average_weights(tuned))


def _copy(model: keras.Model) -> keras.Model:
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    return copied


def _compress(model: keras.Model, format: Format) -> keras.Model:
    head = format.dense_alternative if format.pruning is not None else format
    chosen = {HEAD: head, "*": format}
    return compression.compress(model, chosen, batch_size=None)


def accuracy(model: keras.Model, digits: digits_lib.Digits) -> float:
    """Returns the share of the test digits that a model reads correctly."""
    read = measure.probabilities(Contestant("", model), digits.test_images).argmax(axis=1)
    return float((read == digits.test_labels).mean())


def _measure(entries: list[_Entry], digits: digits_lib.Digits, rounds: int) -> list[Measured]:
    """Accuracy, bytes and times of all, the times against each other."""
    calls: dict[str, dict[str, float]] = {entry.label: {} for entry in entries}
    in_graph: dict[str, dict[str, float]] = {entry.label: {} for entry in entries}
    for batch in BATCH_SIZES:
        pixels = tf.constant(digits.test_images[:batch])
        cases = {
            (entry.label, repetitions): _call(entry, repetitions, pixels)
            for entry in entries
            for repetitions in (1, _REPETITIONS)
        }
        names = {f"{label} x {repetitions}": (label, repetitions) for label, repetitions in cases}
        timings = interleave(
            {name: cases[case] for name, case in names.items()},
            rounds=rounds,
            burst=_BURST,
            budget_seconds=_SECONDS,
        )
        medians = {case: timings[name].median_us for name, case in names.items()}
        for entry in entries:
            call, chain = (medians[entry.label, times] for times in (1, _REPETITIONS))
            calls[entry.label][str(batch)] = call
            inside = max(0.0, (chain - call) / (_REPETITIONS - 1))
            in_graph[entry.label][str(batch)] = min(call, inside)
    with tempfile.TemporaryDirectory() as directory:
        return [
            Measured(
                group=entry.group,
                label=entry.label,
                accuracy=accuracy(entry.model, digits),
                file_bytes=measure.file_bytes(_plain(entry.model), Path(directory)),
                call_us=calls[entry.label],
                in_graph_us=in_graph[entry.label],
            )
            for entry in entries
        ]


def _plain(model: keras.Model) -> keras.Model:
    """The model without an optimizer, which a saved file would hold, too."""
    model.optimizer = None
    model.compiled = False
    return model


def _call(entry: _Entry, repetitions: int, pixels: tf.Tensor) -> Callable[[], NDArray[Any]]:
    concrete = Contestant(entry.label, entry.model).function(repetitions)
    concrete = concrete.get_concrete_function(pixels)
    return lambda: np.asarray(concrete(pixels))
