"""`tfcompress bench`: one command for each registered suite."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast, get_args

import rich.progress
import typer

from tfcompress_ops.bench import break_even_page, machine
from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.chains import State
from tfcompress_ops.bench.peers import BASELINE
from tfcompress_ops.bench.results import Results
from tfcompress_ops.bench.runner import Mode, Settings, count_steps, run_suite
from tfcompress_ops.bench.sparsity import Sweep, curves, settings_for_sweep, sweep, to_json
from tfcompress_ops.bench.suites import Suite, suites
from tfcompress_ops.bench.tables import break_even_tables, tables
from tfcompress_ops.cli import console, files

_ISA_VARIABLE = "TFCOMPRESS_ISA"

app = typer.Typer(
    help="Time this package's ops against TensorFlow, Keras and other engines.",
    no_args_is_help=True,
)


@app.callback()
def _bench() -> None:
    """Time this package's ops against TensorFlow, Keras and other engines."""


def _add_command(suite: Suite) -> None:
    """Registers the command of one suite."""
    variants = f"Out of {', '.join(suite.variants)}, comma-separated."
    if suite.defaults:
        variants += f" By default {', '.join(suite.defaults)}."
    if suite.families:
        variants += f" With --break-even out of {', '.join(suite.families)}; by default all."
    single = " With --break-even {}." if suite.families else ""

    @app.command(suite.name, help=f"{suite.summary[:1].upper()}{suite.summary[1:]}")
    @console.command
    def bench(
        shape: Annotated[
            str | None, typer.Option(help="Layers to time, as KxN, comma-separated.")
        ] = None,
        batch: Annotated[str | None, typer.Option(help="Batch sizes, comma-separated.")] = None,
        variant: Annotated[
            str | None, typer.Option(suite.option, help=variants, show_default=False)
        ] = None,
        state: Annotated[
            str | None,
            typer.Option(
                help="hot (weights in cache), cold (from memory), or both, the default."
                + single.format("hot")
            ),
        ] = None,
        mode: Annotated[
            str | None,
            typer.Option(
                help="bursts of calls, alternating single calls, or both, the default."
                + single.format("bursts")
            ),
        ] = None,
        threads: Annotated[
            int | None, typer.Option(min=1, help="Threads of every engine; all CPUs by default.")
        ] = None,
        peers: Annotated[
            bool, typer.Option(help="Whether other engines run beside tf.matmul.")
        ] = True,
        isa: Annotated[
            str | None, typer.Option(help=f"Cap the instruction set, as {_ISA_VARIABLE} does.")
        ] = None,
        json_file: Annotated[
            Path | None, typer.Option("--json", help="Write everything, raw samples too, here.")
        ] = None,
        quick: Annotated[
            bool, typer.Option("--quick", help="Tiny layers, few calls: only to see it run.")
        ] = False,
        break_even: Annotated[
            bool,
            typer.Option(
                "--break-even",
                hidden=not suite.families,
                help="Measure by share of zeros instead: from which on pruned weights pay.",
            ),
        ] = False,
        page: Annotated[
            Path,
            typer.Option(hidden=not suite.families, help="Where --break-even draws its curves."),
        ] = Path("break-even.html"),
    ) -> None:
        if isa is not None and os.environ.get(_ISA_VARIABLE) != isa:
            _run_again(isa)
        _check_folder("--json", json_file)
        if break_even:
            _check_break_even(suite, page)
        settings = Settings(
            threads=threads or machine.available_cpus(),
            cache_bytes=machine.last_level_cache_bytes(),
        )
        if break_even:
            settings = settings_for_sweep(settings, quick)
        elif quick:
            settings = settings.quick()
        if state is not None:
            states = cast(Sequence[State], _both("--state", state, get_args(State)))
            settings = replace(settings, states=states)
        if mode is not None:
            modes = cast(Sequence[Mode], _both("--mode", mode, get_args(Mode)))
            settings = replace(settings, modes=modes)
        if shape is not None:
            settings = replace(settings, shapes=[_shape(text) for text in shape.split(",")])
        if batch is not None:
            settings = replace(settings, batches=[_count(text) for text in batch.split(",")])
        names = None if variant is None else variant.split(",")
        try:
            if break_even:
                cases = sweep(suite.chosen_families(names), quick)
                text = _draw(suite, cases, settings, peers, page)
            else:
                text = _compare(suite, suite.cases(names, peers), settings)
        except ValueError as error:
            raise console.CommandError(str(error)) from error
        if json_file is not None:
            json_file.write_text(text)
            console.out.print(f"Wrote {json_file}")


def _compare(suite: Suite, cases: Sequence[Case], settings: Settings) -> str:
    """Measures and prints the cases of a suite; returns the results as JSON."""
    results = _run(suite, cases, settings)
    for renderable in tables(results):
        console.out.print(renderable)
    return results.to_json()


def _draw(suite: Suite, cases: Sweep, settings: Settings, peers: bool, page: Path) -> str:
    """Measures, prints and draws speed by sparsity; returns the curves as JSON."""
    dense = [case for case in suite.cases([], peers) if case.name in _dense(suite)]
    results = _run(suite, [*cases.values(), *dense], settings)
    found = curves(results, cases)
    for renderable in break_even_tables(results, found):
        console.out.print(renderable)
    files.write_text(page, break_even_page.render(results, found))
    console.out.print(f"Open {page}")
    return to_json(results, found)


def _dense(suite: Suite) -> tuple[str, str]:
    """Names of the cases that curves are drawn against."""
    return BASELINE.name, suite.reference


def _run(suite: Suite, cases: Sequence[Case], settings: Settings) -> Results:
    """Runs a suite behind a progress bar."""
    columns = (
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("{task.description}"),
    )
    # Redrawn between steps only: a thread that draws would run in the middle of a burst.
    with rich.progress.Progress(
        *columns, console=console.err, transient=True, auto_refresh=False
    ) as progress:
        task = progress.add_task("", total=count_steps(settings))

        def on_step(description: str) -> None:
            progress.update(task, description=description)
            progress.refresh()
            progress.advance(task)

        try:
            return run_suite(suite, cases, settings, on_step)
        except (RuntimeError, ValueError) as error:
            raise console.CommandError(str(error)) from error


def _check_folder(option: str, path: Path | None) -> None:
    """Finds out before the measurement whether `path` can be written after it."""
    if path is not None and not path.parent.is_dir():
        raise console.CommandError(f"{option} must be in a folder that exists; got {path}.")


def _check_break_even(suite: Suite, page: Path) -> None:
    """Whether `--break-even` can be run, and its page be written."""
    if not suite.families:
        raise console.CommandError(
            f"--break-even needs weights with zeros, which bench {suite.name} has none of.",
            "See bench sparse.",
        )
    _check_folder("--page", page)
    if importlib.util.find_spec("jinja2") is None:
        raise console.CommandError(
            "--break-even draws a page with jinja2, which is not installed.",
            "Install it: pip install 'tfcompress_ops[demo]'",
        )


def _run_again(isa: str) -> None:
    """Runs the same command in a process whose kernels are capped from the start."""
    environment = {**os.environ, _ISA_VARIABLE: isa}
    command = [sys.executable, *sys.orig_argv[1:]]
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)


def _both(option: str, value: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """The choices that a value stands for: itself, or all of them for "both"."""
    if value == "both":
        return choices
    if value not in choices:
        raise console.CommandError(f"{option} must be {', '.join(choices)} or both; got {value!r}.")
    return (value,)


def _shape(text: str) -> tuple[int, int]:
    """Reads `KxN`."""
    parts = text.lower().split("x")
    if len(parts) != 2:
        raise console.CommandError(f"--shape must be KxN, such as 1024x1024; got {text!r}.")
    return _count(parts[0]), _count(parts[1])


def _count(text: str) -> int:
    """Reads a whole number, one or more."""
    if not text.strip().isdigit() or int(text) < 1:
        raise console.CommandError(f"Sizes must be whole numbers from 1; got {text!r}.")
    return int(text)


for _suite in suites():
    _add_command(_suite)
