"""The demonstration from the first digit to the last file."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from tfcompress_ops.cli import files
from tfcompress_ops.demo import classifier, measure, methods, page
from tfcompress_ops.demo import digits as digits_lib
from tfcompress_ops.demo import results as results_lib
from tfcompress_ops.demo import seeds as seeds_lib
from tfcompress_ops.demo.contestants import Contestant, enter
from tfcompress_ops.demo.method_results import MethodResults

# What keeps the whole demonstration within a minute or two on two slow cores.
_SECONDS_PER_BATCH_SIZE = 5.0

FLOAT_MODEL, COMPRESSED_MODEL = "float32.keras", "compressed.keras"
SAVED_MODEL, RESULTS, PAGE = "saved_model", "results.json", "report.html"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line decides.

    Attributes:
        out: directory that the files are written to.
        seed: of the split, the initial weights, the order of the batches.
        quick: a small classifier and few measurements, for a first look or a test.
        method_seeds: how many seeds, from `seed` on, the five methods are run with; 0: not at all.
    """

    out: Path
    seed: int = 0
    quick: bool = False
    method_seeds: int = 0

    @property
    def hidden(self) -> int:
        """Width of both hidden layers: enough that multiplying takes longer than calling."""
        return 256 if self.quick else 2048

    @property
    def epochs(self) -> int:
        """Passes over the training digits."""
        return 5 if self.quick else 8

    @property
    def pruned_epochs(self) -> int:
        """Passes over the digits after weights were removed."""
        return 1 if self.quick else 2

    @property
    def quantized_epochs(self) -> int:
        """Passes over the digits with weights of one or two bits, which want longer."""
        return 1 if self.quick else 8

    @property
    def seeds(self) -> list[int]:
        """Seeds of the classifiers of one bit that are trained again and again."""
        return [self.seed + offset for offset in range(2 if self.quick else 3)]

    @property
    def seeds_hidden(self) -> int:
        """Width of their hidden layers: narrower, since there are nine of them."""
        return 128 if self.quick else 512

    @property
    def seeds_epochs(self) -> int:
        """Passes over the digits of each of them."""
        return 3 if self.quick else 8

    @property
    def rounds(self) -> int:
        """Bursts of each contestant at each batch size."""
        return 3 if self.quick else 15

    @property
    def command(self) -> str:
        """The command that does the same again."""
        quick = " --quick" if self.quick else ""
        methods = f" --all --seeds {self.method_seeds}" if self.method_seeds else ""
        return f"tfcompress demo --out {self.out} --seed {self.seed}{quick}{methods}"


class Progress(Protocol):
    """Where the demonstration tells how far it is."""

    def stage(self, title: str) -> contextlib.AbstractContextManager[Callable[[float], None]]:
        """Opens a stage; what it gives is called with the share that is done, 0 to 1."""


def run(settings: Settings, environment: dict[str, Any], progress: Progress) -> results_lib.Results:
    """Runs the demonstration and writes its files.

    Args:
        settings: what to do.
        environment: versions and machine, for the results.
        progress: where to tell how far it is.

    Returns:
        What the page shows.
    """
    started = time.perf_counter()
    digits = digits_lib.load(settings.seed)
    model, training = _train(settings, digits, progress)
    with progress.stage("Compressing") as done:
        contestants = enter(
            model,
            digits,
            epochs=settings.pruned_epochs,
            quantized_epochs=settings.quantized_epochs,
            seed=settings.seed,
            with_xla=not settings.quick,
            on_step=done,
        )
    rows, read = _measure(settings, contestants, digits, progress)
    with progress.stage("More seeds") as done:
        seeds = results_lib.Seeds(
            settings.seeds_hidden,
            settings.seeds,
            seeds_lib.study(
                settings.seeds_hidden,
                settings.seeds,
                epochs=settings.seeds_epochs,
                on_step=done,
            ),
        )
    headline = results_lib.headline(rows)
    chosen = next(one for one in contestants if one.label == headline.label)
    write_models(settings.out, model, chosen.model)
    of_methods = _methods(settings, progress) if settings.method_seeds else None
    results = results_lib.Results(
        environment=environment,
        command=settings.command,
        finished=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        seconds=time.perf_counter() - started,
        batch_sizes=list(measure.BURSTS),
        training=training,
        variants=rows,
        headline=headline,
        seeds=seeds,
        examples=measure.examples(
            digits.test_labels, read[results_lib.FLOAT32], read[headline.label]
        ),
        weights=measure.weight_plot(model, chosen.model),
        files={
            FLOAT_MODEL: "the classifier before",
            COMPRESSED_MODEL: f"the classifier after: {headline.label}",
            f"{SAVED_MODEL}/": "the same for tf.saved_model.load, once tfcompress_ops is imported",
            RESULTS: "every number on this page",
        },
        methods=of_methods,
    )
    files.write_text(settings.out / RESULTS, json.dumps(results.to_json(), indent=1) + "\n")
    files.write_text(settings.out / PAGE, page.render(results, digits.test_images))
    return results


def _train(
    settings: Settings, digits: digits_lib.Digits, progress: Progress
) -> tuple[keras.Model, results_lib.Training]:
    started = time.perf_counter()
    with progress.stage("Training") as done:
        model = classifier.train(
            settings.hidden, digits, epochs=settings.epochs, seed=settings.seed, on_step=done
        )
    return model, results_lib.Training(
        layers=[digits_lib.PIXELS, settings.hidden, settings.hidden, digits_lib.CLASSES],
        parameters=model.count_params(),
        epochs=settings.epochs,
        seconds=time.perf_counter() - started,
        train_digits=len(digits.train_labels),
        test_digits=len(digits.test_labels),
    )


def _methods(settings: Settings, progress: Progress) -> MethodResults:
    seeds = range(settings.seed, settings.seed + settings.method_seeds)
    with progress.stage("Five methods") as done:
        return methods.run(seeds, methods.QUICK if settings.quick else methods.FULL, done)


def _measure(
    settings: Settings,
    contestants: list[Contestant],
    digits: digits_lib.Digits,
    progress: Progress,
) -> tuple[list[results_lib.VariantResult], dict[str, NDArray[np.float32]]]:
    """Measures everything; also gives the probabilities by label."""
    with progress.stage("Reading digits") as done:
        read = {}
        for one in contestants:
            read[one.label] = measure.probabilities(one, digits.test_images)
            done(len(read) / len(contestants))
    with progress.stage("Measuring") as done:
        latency = measure.latencies(
            contestants,
            digits.test_images,
            rounds=settings.rounds,
            seconds=_SECONDS_PER_BATCH_SIZE,
            on_burst=done,
        )
    plain = read[results_lib.FLOAT32].argmax(axis=1)
    rows = []
    for one, size in zip(contestants, _file_bytes(contestants), strict=True):
        digit = read[one.label].argmax(axis=1)
        correct = int((digit == digits.test_labels).sum())
        rows.append(
            results_lib.VariantResult(
                label=one.label,
                compressed=one.format is not None,
                format=None if one.format is None else repr(one.format),
                calibrated=one.format is not None and one.format.needs_calibration,
                accuracy=correct / len(digit),
                correct=correct,
                changed=int((digit != plain).sum()),
                file_bytes=size,
                latency={batch: times[one.label] for batch, times in latency.items()},
            )
        )
    return rows, read


def _file_bytes(contestants: list[Contestant]) -> Iterator[int]:
    with tempfile.TemporaryDirectory() as directory:
        for one in contestants:
            yield measure.file_bytes(one.model, Path(directory))


def write_models(out: Path, model: keras.Model, compressed: keras.Model) -> None:
    """Writes both models, and the second as a SavedModel too, over what was there before."""
    out.mkdir(parents=True, exist_ok=True)
    for name, saved in ((FLOAT_MODEL, model), (COMPRESSED_MODEL, compressed)):
        with files.replacing(out / name) as temporary:
            saved.save(temporary)
    with files.replacing(out / SAVED_MODEL) as temporary:
        compressed.export(temporary, verbose=False)
