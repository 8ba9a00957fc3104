"""What pruning costs in accuracy: patterns and sparsities on two tasks, each trained on alike.

    python benchmarks/pruning_accuracy.py                        minutes
    python benchmarks/pruning_accuracy.py --seeds 3 --json out.json

A dense model is trained, pruned to each sparsity by each pattern, and trained on under its zeros;
the dense model trains on over the same batches. The wide layers are pruned, the head is not. Seeds
differ in the split of the data, the weights and the order of the batches.
"""

import dataclasses
import json
import platform
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import typer
from rich.console import Console
from rich.table import Table

import tfcompress_ops as tfc
from tfcompress_ops.demo import classifier, digits

Rows = tuple[npt.NDArray[Any], npt.NDArray[Any]]  # Inputs and labels.

WIDTH = 1024
BATCH_SIZE = 128
LEARNING_RATE = 1e-3

CONTEXT = 32  # Characters that the next one is told from.
EMBEDDING = 32  # CONTEXT * EMBEDDING inputs of the first wide layer.
FIRST, LAST = 32, 126  # Printable ASCII; a class for line ends, and one for all else.
CHARACTERS = LAST - FIRST + 3
TRAIN_WINDOWS, TUNE_WINDOWS, TEST_WINDOWS = 192_000, 96_000, 50_000
TEST_FILES = 10  # Every tenth file is held out.

PATTERNS: dict[str, Callable[[float], dict[str, Any]]] = {
    "unstructured": lambda sparsity: {"sparsity": sparsity},
    "balanced": lambda sparsity: {"sparsity": sparsity, "pattern": "balanced"},
    "N:64": lambda sparsity: {"pattern": f"{round((1 - sparsity) * 64)}:64"},
}
SPARSITIES = (0.75, 0.875, 0.9375)


@dataclasses.dataclass(frozen=True)
class Task:
    """A model and the data that it learns, all of it determined by a seed."""

    name: str
    build: Callable[[], keras.Model]
    load: Callable[[int], tuple[Rows, Rows, Rows]]  # To train on, to train on further, to test on.


@dataclasses.dataclass(frozen=True)
class Result:
    """Accuracies of one model, 0 to 1, before and after it was trained on."""

    task: str
    seed: int
    pattern: str
    sparsity: float
    pruned: float
    tuned: float


def load_digits(seed: int) -> tuple[Rows, Rows, Rows]:
    """Handwritten digits: 4,000 to learn from, moved by up to two pixels, and 1,000 to test on."""
    data = digits.load(seed)
    train, tune = digits.shifted(data, 16, seed), digits.shifted(data, 8, seed + 1000)
    return train, tune, (data.test_images, data.test_labels)


def build_text() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((CONTEXT,), dtype="int32"),
            keras.layers.Embedding(CHARACTERS, EMBEDDING),
            keras.layers.Flatten(),
            keras.layers.Dense(WIDTH, activation="relu"),
            keras.layers.Dense(WIDTH, activation="relu"),
            keras.layers.Dense(CHARACTERS),
        ]
    )


def load_text(seed: int) -> tuple[Rows, Rows, Rows]:
    """Python's own library: which character follows 32 others, in files that were held out."""
    rng = np.random.default_rng(seed)
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    files = [files[index] for index in rng.permutation(len(files))]

    def windows(paths: list[Path], count: int) -> Rows:
        text = np.frombuffer(b"".join(path.read_bytes() for path in paths), np.uint8)
        codes = np.where((text >= FIRST) & (text <= LAST), text - FIRST, CHARACTERS - 1)
        codes = np.where(text == ord("\n"), CHARACTERS - 2, codes).astype(np.int32)
        starts = rng.integers(0, len(codes) - CONTEXT, count)
        chosen = np.lib.stride_tricks.sliding_window_view(codes, CONTEXT + 1)[starts]
        return chosen[:, :-1], chosen[:, -1]

    learned, held_out = files[len(files) // TEST_FILES :], files[: len(files) // TEST_FILES]
    return (
        windows(learned, TRAIN_WINDOWS),
        windows(learned, TUNE_WINDOWS),
        windows(held_out, TEST_WINDOWS),
    )


TASKS = (
    Task("digits", lambda: classifier.build(WIDTH), load_digits),
    Task("next character", build_text, load_text),
)


def train(model: keras.Model, rows: Rows, learning_rate: float, callbacks: list[Any]) -> None:
    """One pass over the rows."""
    decay = keras.optimizers.schedules.CosineDecay(learning_rate, -(-len(rows[1]) // BATCH_SIZE))
    compile_model(model, keras.optimizers.Adam(decay))
    model.fit(*rows, batch_size=BATCH_SIZE, shuffle=False, verbose=0, callbacks=callbacks)


def compile_model(model: keras.Model, optimizer: Any) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)


def accuracy(model: keras.Model, rows: Rows) -> float:
    return float(model.evaluate(*rows, batch_size=1000, verbose=0, return_dict=True)["accuracy"])


def pruned_models(dense: keras.Model) -> Iterator[tuple[str, float, keras.Model]]:
    """Pattern, sparsity and model; the dense model first."""
    dense_copy = keras.models.clone_model(dense)
    dense_copy.set_weights(dense.get_weights())
    yield "dense", 0.0, dense_copy
    for sparsity in SPARSITIES:
        for pattern, options in PATTERNS.items():
            pruned = tfc.prune(dense, **options(sparsity))
            pruned.layers[-1].kernel.assign(dense.layers[-1].kernel)
            yield pattern, sparsity, pruned


def run_task(task: Task, seed: int) -> Iterator[Result]:
    """Trains the dense model, then prunes it and trains on in every way."""
    keras.utils.set_random_seed(seed)
    train_rows, tune_rows, test_rows = task.load(seed)
    dense = task.build()
    train(dense, train_rows, LEARNING_RATE, [])
    for pattern, sparsity, model in pruned_models(dense):
        compile_model(model, "sgd")
        before = accuracy(model, test_rows)
        holding = [] if pattern == "dense" else [tfc.callbacks.Pruning()]
        train(model, tune_rows, LEARNING_RATE, holding)
        yield Result(task.name, seed, pattern, sparsity, before, accuracy(model, test_rows))


def make_table(results: list[Result]) -> Table:
    """Accuracies in percent, means over the seeds, and how far below the dense model they are."""
    table = Table("sparsity", "pattern", title="Accuracy in percent after training on")
    for task in TASKS:
        table.add_column(task.name, justify="right")
        table.add_column("to dense", justify="right")
    for sparsity, pattern in dict.fromkeys((one.sparsity, one.pattern) for one in results):
        cells = [f"{100 * sparsity:g} %", pattern]
        for task in TASKS:
            found = {
                (one.seed, one.pattern): 100 * one.tuned
                for one in results
                if one.task == task.name and one.sparsity in (0.0, sparsity)
            }
            seeds = sorted({seed for seed, _ in found})
            cells.append(spread([found[seed, pattern] for seed in seeds], ".2f"))
            below = [found[seed, pattern] - found[seed, "dense"] for seed in seeds]
            cells.append("" if pattern == "dense" else spread(below, "+.2f"))
        table.add_row(*cells, end_section=pattern in ("dense", list(PATTERNS)[-1]))
    return table


def spread(values: list[float], form: str) -> str:
    """The mean and, of several values, the standard deviation."""
    mean = f"{statistics.mean(values):{form}}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def main(
    seeds: Annotated[int, typer.Option(min=1, help="How often everything is repeated.")] = 1,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Where all results are written.")
    ] = None,
) -> None:
    """Prunes two models to several sparsities by several patterns and compares accuracies."""
    # A pipe or file has no width of its own: wide enough for the table.
    console = Console(width=None if sys.stdout.isatty() else 120)
    versions = {
        "Python": platform.python_version(),
        "TensorFlow": tf.__version__,
        "Keras": keras.__version__,
        "NumPy": np.__version__,
    }
    start = time.perf_counter()
    results = []
    for task in TASKS:
        for seed in range(seeds):
            for result in run_task(task, seed):
                results.append(result)
                console.print(
                    f"{time.perf_counter() - start:5.0f} s  {task.name}, seed {seed}: "
                    f"{100 * result.sparsity:g} % {result.pattern}: "
                    f"{100 * result.pruned:.2f} % as pruned, {100 * result.tuned:.2f} % trained on",
                    soft_wrap=True,
                )
    console.print(make_table(results))
    console.print(", ".join(f"{name} {version}" for name, version in versions.items()))
    if json_path is not None:
        rows = [dataclasses.asdict(result) for result in results]
        json_path.write_text(json.dumps({"versions": versions, "results": rows}, indent=2))


if __name__ == "__main__":
    typer.run(main)
