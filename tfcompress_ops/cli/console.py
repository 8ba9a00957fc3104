"""Where the commands write, and how they fail: one line on stderr, and a documented exit code.

Exit codes: 0 for success, 1 for an error that the message explains, 2 for wrong usage, 130 where
the user interrupts. The output of a command goes to stdout; errors, progress and the log, that is,
what `logging` is told by this package ("tfcompress_ops"), by Keras and by TensorFlow, to stderr.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import rich.box
import rich.console
import rich.logging
import rich.markup
import rich.table
import typer

_P = ParamSpec("_P")
_T = TypeVar("_T")

EXIT_ERROR = 1
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# A pipe or file has no width of its own: wide enough for the widest table.
_FILE_WIDTH = 140

out = rich.console.Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_WIDTH)
err = rich.console.Console(highlight=False, stderr=True)


class CommandError(Exception):
    """An error to report in a line, with what to do about it.

    Args:
        message: what is wrong, naming the file, layer or option.
        remedy: what to do, as a sentence or a command; may be empty.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy


def command(function: Callable[_P, None]) -> Callable[_P, None]:
    """Decorator of every command: errors become a line and exit code 1, and libraries keep quiet.

    `TFCOMPRESS_TRACEBACK=1` in the environment shows the traceback instead.
    """

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        explained(lambda: function(*args, **kwargs))

    return run


def explained(action: Callable[[], _T]) -> _T:
    """Calls `action`; an error that it explains becomes a line on stderr and exit code 1."""
    try:
        import_tensorflow()
        _check_tier()
        return action()
    except (CommandError, ImportError) as error:
        if os.environ.get("TFCOMPRESS_TRACEBACK"):
            raise
        _show(error)
        raise typer.Exit(EXIT_ERROR) from error


def _check_tier() -> None:
    """Says what is wrong with TFCOMPRESS_ISA before an op does, in the middle of something."""
    with contextlib.suppress(ImportError):  # The loader explains that.
        from tfcompress_ops import _kernels

        try:
            _kernels.cpu_info()
        except (RuntimeError, ValueError) as error:
            raise CommandError(str(error)) from error


@functools.cache
def import_tensorflow() -> None:
    """Imports TensorFlow without what it says while its own log is not set up yet.

    Where it cannot be imported, nothing happens here: the loader explains that.
    """
    with contextlib.suppress(ImportError), _without_start_messages():
        import keras  # noqa: F401
        import tensorflow  # noqa: F401
    set_verbose(_verbose)


def print_json(value: Any) -> None:
    """Writes JSON to stdout, indented, in colour on a terminal."""
    out.print_json(json.dumps(value))


def table(*columns: str, title: str | None = None) -> rich.table.Table:
    """Returns a table in the house style: the first column to the left, the others to the right."""
    result = rich.table.Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for index, column in enumerate(columns):
        result.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return result


def _show(error: Exception) -> None:
    if isinstance(error, CommandError):
        message, remedy = error.message, error.remedy
    else:
        message, remedy = str(error), ""
    message = _COLOUR.sub("", message)  # Keras paints some of its errors
    text = f"[bold red]Error:[/] {rich.markup.escape(message)}"
    err.print(f"{text} {rich.markup.escape(remedy)}".rstrip(), soft_wrap=True)


_verbose = False


def set_verbose(verbose: bool) -> None:
    """Lets this package, Keras and TensorFlow log to stderr, or only errors of the latter two."""
    global _verbose
    _verbose = verbose
    own = logging.getLogger("tfcompress_ops")
    own.handlers = [rich.logging.RichHandler(console=err, show_path=False)] if verbose else []
    own.propagate = not verbose
    own.setLevel(logging.INFO if verbose else logging.WARNING)
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.ERROR)
    if not verbose:
        warnings.filterwarnings("ignore", module="keras")


# What TensorFlow's C++ writes as it is loaded, at level INFO whatever TF_CPP_MIN_LOG_LEVEL says.
_START_MESSAGES = (
    "WARNING: All log messages before absl::InitializeLog() is called",
    "I0000 ",
    "To enable the following instructions: ",
)


@contextlib.contextmanager
def _without_start_messages() -> Iterator[None]:
    """Holds back what is written to file descriptor 2, and passes on what is no start message."""
    if _verbose:
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines(keepends=True):
                if not line.startswith(_START_MESSAGES):
                    sys.stderr.write(line)
