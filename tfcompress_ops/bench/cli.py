"""`tfcompress bench`: one command for each registered suite."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast, get_args

import rich.progress
import typer

from tfcompress_ops.bench import machine
from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.chains import State
from tfcompress_ops.bench.results import Results
from tfcompress_ops.bench.runner import Mode, Settings, count_steps, run_suite
from tfcompress_ops.bench.suites import Suite, suites
from tfcompress_ops.bench.tables import tables
from tfcompress_ops.cli import console

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
    variants = ", ".join(suite.variants)

    @app.command(suite.name, help=f"{suite.summary[:1].upper()}{suite.summary[1:]}")
    @console.command
    def bench(
        shape: Annotated[
            str | None, typer.Option(help="Layers to time, as KxN, comma-separated.")
        ] = None,
        batch: Annotated[str | None, typer.Option(help="Batch sizes, comma-separated.")] = None,
        variant: Annotated[
            str | None, typer.Option(suite.option, help=f"Out of {variants}, comma-separated.")
        ] = None,
        state: Annotated[
            str, typer.Option(help="hot (weights in cache), cold (from memory), or both.")
        ] = "both",
        mode: Annotated[
            str, typer.Option(help="bursts of calls, alternating single calls, or both.")
        ] = "both",
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
    ) -> None:
        if isa is not None and os.environ.get(_ISA_VARIABLE) != isa:
            _run_again(isa)
        if json_file is not None and not json_file.parent.is_dir():
            raise console.CommandError(f"--json must be in a folder that exists; got {json_file}.")
        settings = Settings(
            states=cast(Sequence[State], _both("--state", state, get_args(State))),
            modes=cast(Sequence[Mode], _both("--mode", mode, get_args(Mode))),
            threads=threads or machine.available_cpus(),
            cache_bytes=machine.last_level_cache_bytes(),
        )
        settings = settings.quick() if quick else settings
        if shape is not None:
            settings = replace(settings, shapes=[_shape(text) for text in shape.split(",")])
        if batch is not None:
            settings = replace(settings, batches=[_count(text) for text in batch.split(",")])
        try:
            cases = suite.cases(None if variant is None else variant.split(","), peers)
        except ValueError as error:
            raise console.CommandError(str(error)) from error
        results = _run(suite, cases, settings)
        for renderable in tables(results):
            console.out.print(renderable)
        if json_file is not None:
            json_file.write_text(results.to_json())
            console.out.print(f"Wrote {json_file}")


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
