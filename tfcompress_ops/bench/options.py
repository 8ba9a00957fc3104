"""What the commands of `tfcompress bench` have in common: options, progress, files written."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import rich.console
import rich.progress
import typer

from tfcompress_ops import kernels
from tfcompress_ops.bench import document, report_page
from tfcompress_ops.bench import results as results_file
from tfcompress_ops.bench.results import Results
from tfcompress_ops.bench.tables import tables
from tfcompress_ops.cli import console, files

ISA_VARIABLE = "TFCOMPRESS_ISA"
STDOUT = Path("-")
# oneDNN multiplies for TensorFlow: on a machine of that instruction set it has no more either.
ONEDNN_VARIABLE = "ONEDNN_MAX_CPU_ISA"
_ONEDNN_NAMES = {
    "portable": "SSE41",
    "avx2": "AVX2",
    "avx512": "AVX512_CORE",
    "avx512vnni": "AVX512_CORE_VNNI",
    "avx512vbmi": "AVX512_CORE_VNNI",
    "avx512bf16": "AVX512_CORE_BF16",
}

Shapes = Annotated[
    str | None, typer.Option("--shape", help="Layers to time, as KxN, comma-separated.")
]
Batches = Annotated[str | None, typer.Option("--batch", help="Batch sizes, comma-separated.")]
Threads = Annotated[
    str | None,
    typer.Option(
        "--threads",
        help="Threads of every engine; all CPUs by default. Several, comma-separated, are "
        "measured in one process each.",
    ),
]
Isa = Annotated[
    str | None,
    typer.Option(
        "--isa",
        help=f"Cap the instruction set, as {ISA_VARIABLE} does, and TensorFlow's with it, as "
        f"{ONEDNN_VARIABLE} does.",
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="Write everything, raw samples too, here; - prints it, and the tables to stderr.",
    ),
]
HtmlFile = Annotated[
    Path | None, typer.Option("--html", help="Draw tables and plots on a page, here.")
]
Quick = Annotated[bool, typer.Option("--quick", help="Tiny layers, few calls: only to see it run.")]


@dataclass(frozen=True)
class Output:
    """The files that a command writes.

    Attributes:
        json_file: For everything that was measured, "-" for stdout, or None.
        html: For the page, or None.
        docs: For the document in Markdown, with its plots in a folder beside it, or None.
    """

    json_file: Path | None = None
    html: Path | None = None
    docs: Path | None = None

    @property
    def console(self) -> rich.console.Console:
        """Where what people read goes."""
        return console.err if self.json_file == STDOUT else console.out

    def check(self) -> None:
        """Finds out before the measurement whether all can be written after it.

        Raises:
            CommandError: If a folder is missing, or what draws pages.
        """
        for option, path in self._given():
            check_folder(option, path)
        if self.html is not None:
            check_jinja("--html")
        if self.docs is not None:
            check_jinja("--docs")

    def write(self, runs: Sequence[Results], quietly: bool = False) -> None:
        """Writes the files and, unless `quietly`, says so, or prints what was measured."""
        if self.json_file is not None:
            self.write_json(results_file.to_json(runs), quietly)
        if self.html is not None:
            files.write_text(self.html, report_page.render(runs))
        if self.docs is not None:
            document.write(self.docs, runs)
        for _, path in [] if quietly else self._given():
            self.console.print(f"Wrote {path}")

    def write_json(self, text: str, quietly: bool = False) -> None:
        """Writes to the file of `--json`, or, unless `quietly`, to stdout."""
        if self.json_file != STDOUT:
            assert self.json_file is not None  # The caller asked.
            files.write_text(self.json_file, text)
        elif not quietly:
            typer.echo(text)

    def show(self, runs: Sequence[Results]) -> None:
        """Prints the tables of runs."""
        for run in runs:
            for renderable in tables(run):
                self.console.print(renderable)

    def _given(self) -> list[tuple[str, Path]]:
        options = (("--json", self.json_file), ("--html", self.html), ("--docs", self.docs))
        return [(option, path) for option, path in options if path not in (None, STDOUT)]


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar of `total` steps on stderr; gives the function to call before each.

    It is redrawn between steps only: a thread that draws would run in the middle of a burst.
    """
    columns = (
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("{task.description}"),
    )
    with rich.progress.Progress(
        *columns, console=console.err, transient=True, auto_refresh=False
    ) as bar:
        task = bar.add_task("", total=total)

        def on_step(description: str) -> None:
            bar.update(task, description=description)
            bar.refresh()
            bar.advance(task)

        yield on_step


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns errors of values and of a running TensorFlow into errors of the command."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise console.CommandError(str(error)) from error


def run_again_with(isa: str | None) -> None:
    """Runs the same command in a process that is capped from the start, if need be.

    What the user set for oneDNN stays.
    """
    if isa is None:
        return
    known = [variant["tier"] for variant in kernels.int8_variants()]
    if isa not in known:
        raise console.CommandError(f"--isa must be one of {', '.join(known)}; got {isa!r}.")
    environment = {**os.environ, ISA_VARIABLE: isa}
    if isa in _ONEDNN_NAMES:
        environment.setdefault(ONEDNN_VARIABLE, _ONEDNN_NAMES[isa])
    if environment == dict(os.environ):
        return
    command = [sys.executable, *sys.orig_argv[1:]]
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)


def check_folder(option: str, path: Path) -> None:
    """Whether a file can be written to `path`.

    Raises:
        CommandError: If its folder does not exist.
    """
    if not path.parent.is_dir():
        raise console.CommandError(f"{option} must be in a folder that exists; got {path}.")


def check_jinja(option: str) -> None:
    """Whether pages can be drawn.

    Raises:
        CommandError: If what draws them is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise console.CommandError(
            f"{option} draws a page with jinja2, which is not installed.",
            "Install it: pip install 'tfcompress_ops[demo]'",
        ) from error


def read(path: Path) -> list[Results]:
    """Reads a results file.

    Raises:
        CommandError: If it cannot be read, is no results file, or holds no run.
    """
    try:
        runs = results_file.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise console.CommandError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise console.CommandError(f"{path}: {error}") from error
    if not runs:
        raise console.CommandError(f"{path} holds no run.")
    return runs


def names(value: str | None) -> list[str] | None:
    """Reads names, comma-separated."""
    return None if value is None else value.split(",")


def shapes(value: str) -> list[tuple[int, int]]:
    """Reads `KxN`, comma-separated.

    Raises:
        CommandError: If it is something else.
    """
    found = []
    for text in value.split(","):
        parts = text.lower().split("x")
        if len(parts) != 2:
            raise console.CommandError(f"--shape must be KxN, such as 1024x1024; got {text!r}.")
        found.append((count(parts[0]), count(parts[1])))
    return found


def counts(value: str) -> list[int]:
    """Reads whole numbers, comma-separated; see `count`."""
    return [count(text) for text in value.split(",")]


def count(text: str) -> int:
    """Reads a whole number, one or more.

    Raises:
        CommandError: If it is something else.
    """
    if not text.strip().isdigit() or int(text) < 1:
        raise console.CommandError(f"Sizes must be whole numbers from 1; got {text!r}.")
    return int(text)


def choices(option: str, value: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The choices that a value stands for: itself, or all of them for "both".

    Raises:
        CommandError: If there is no such choice.
    """
    if value == "both":
        return known
    if value not in known:
        raise console.CommandError(f"{option} must be {', '.join(known)} or both; got {value!r}.")
    return (value,)
