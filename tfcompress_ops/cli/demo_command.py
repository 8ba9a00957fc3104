"""`tfcompress demo`: trains, compresses, measures, and shows a table and a page."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import rich.progress
import typer

from tfcompress_ops.cli import console, environment, files
from tfcompress_ops.cli.console import CommandError

if TYPE_CHECKING:
    from tfcompress_ops.demo.method_results import MethodResults
    from tfcompress_ops.demo.results import Results

_STDOUT = Path("-")
_REQUIRED = ("jinja2", "mlxtend")


@console.command
def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the models, the numbers and the page go.")
    ] = Path("tfcompress-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A small classifier, rough timings; seconds in all.")
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write the results here too; - prints them, in place of the table.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the training and the test digits.")] = 0,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Show pruning, distillation, neurons, fusion and all in one too; minutes."
        ),
    ] = False,
    seeds: Annotated[
        int, typer.Option(min=1, help="How many seeds --all takes means and spreads over.")
    ] = 1,
) -> None:
    """Train a classifier of handwritten digits, compress it, and measure what that buys.

    The digits come with a package: nothing is downloaded. The page DIR/report.html shows accuracy,
    file size and speed of each format; beside it lie the models, ready for [cyan]tfcompress
    inspect[/].
    """
    missing = [name for name in _REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(
            f"The demo needs {' and '.join(missing)}, which is not installed.",
            "Install its extra: pip install 'tfcompress_ops[demo]'",
        )
    if out.exists() and not out.is_dir():
        raise CommandError(f"--out {out} is not a directory.")
    if seeds > 1 and not everything:
        raise CommandError(f"--seeds {seeds} goes with --all.")
    if json_file is not None and not json_file.parent.is_dir():  # that of "-" is "."
        raise CommandError(f"The directory of --json {json_file} does not exist.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise CommandError(
            f"--out {out} cannot be written to: {error.strerror}.", "Choose another directory."
        ) from error
    found = environment.collect()
    if found["problem"] is not None:
        raise CommandError(found["problem"])

    import tensorflow as tf

    from tfcompress_ops.demo import run

    # The kernels are for the CPU: float32 on a GPU would be no comparison.
    tf.config.set_visible_devices([], "GPU")
    results = run.run(
        run.Settings(out, seed, quick, seeds if everything else 0), found, _Progress()
    )
    if json_file == _STDOUT:
        console.print_json(results.to_json())
        return
    if json_file is not None:
        files.write_text(json_file, json.dumps(results.to_json(), indent=1) + "\n")
    _print(results, out / run.PAGE)


class _Progress:
    """Stages as progress bars on stderr."""

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Callable[[float], None]]:
        """Shows one bar while it is open."""
        with rich.progress.Progress(
            rich.progress.TextColumn("{task.description:<14}"),
            rich.progress.BarColumn(bar_width=40),
            rich.progress.TaskProgressColumn(),
            rich.progress.TimeElapsedColumn(),
            console=console.err,
        ) as progress:
            task = progress.add_task(title, total=1.0)
            yield lambda share: progress.update(task, completed=share)


def _print(results: Results, page: Path) -> None:
    from tfcompress_ops.demo.page import microseconds, percentage, points, ratio, size, speed_words
    from tfcompress_ops.demo.results import FLOAT32, KERAS_INT8

    batches = results.batch_sizes
    columns = [
        (f"Batch {batch}\n[dim]in graph[/]", "Faster\n[dim]than int8[/]") for batch in batches
    ]
    table = console.table("Variant", "Accuracy", "File", *itertools.chain.from_iterable(columns))
    for variant in results.variants:
        cells = []
        for time in (variant.latency[str(batch)] for batch in batches):
            cells.append(
                f"{microseconds(time.median_us)}\n[dim]{microseconds(time.in_graph_us)}[/]"
            )
            cells.append(f"{ratio(time.speedup)}\n[dim]{ratio(time.speedup_over_keras_int8)}[/]")
        style = "bold" if variant.label == results.headline.label else ""
        table.add_row(
            variant.label,
            percentage(variant.accuracy),
            size(variant.file_bytes),
            *cells,
            style=style,
        )
    console.out.print(table)
    headline = results.headline
    console.out.print(
        f"[bold]{headline.label}[/]: {ratio(headline.smaller)} smaller, "
        f"{speed_words(headline.faster)} (mean of the batch sizes), accuracy "
        f"{points(headline.accuracy_change)} percentage points; {results.seconds:.0f} s in all."
    )
    console.out.print(
        "Times are medians of one tf.function call, below them the model without the call around "
        f"it; ratios compare calls with {FLOAT32}, below it with {KERAS_INT8}.",
        style="dim",
    )
    if results.methods is not None:
        _print_methods(results.methods)
    seeds = console.table("Accuracy", *(f"Seed {seed}" for seed in results.seeds.seeds), "Mean")
    for row in results.seeds.rows:
        seeds.add_row(row.label, *map(percentage, row.accuracies), percentage(row.mean))
    console.out.print(seeds)
    console.out.print(
        f"Of {results.seeds.hidden}-wide classifiers, each trained for its weights.", style="dim"
    )
    console.out.print(f"Open [bold]{page}[/]; beside it: {', '.join(results.files)}.")


def _print_methods(found: MethodResults) -> None:
    from tfcompress_ops.demo import page
    from tfcompress_ops.demo.method_results import ALONE, PIPELINE

    for group in (PIPELINE, ALONE):
        columns = [(f"Batch {batch}\n[dim]in graph[/]", "Faster") for batch in found.batch_sizes]
        table = console.table(
            group, "Accuracy", "Points", "File", "Smaller", *itertools.chain.from_iterable(columns)
        )
        for row in found.group(group):
            cells = []
            for batch in map(str, found.batch_sizes):
                in_graph = page.microseconds(row.in_graph_us[batch].mean)
                cells.append(f"{page.microseconds(row.call_us[batch].mean)}\n[dim]{in_graph}[/]")
                cells.append(page.spread(row.faster[batch], page.ratio))
            table.add_row(
                row.label,
                page.spread(row.accuracy, page.percentage),
                page.spread(row.points, page.points),
                page.size(row.file_bytes.mean),
                page.spread(row.smaller, page.ratio),
                *cells,
            )
        console.out.print(table)
    for sentence in page.method_sentences(found):
        console.out.print(sentence)
