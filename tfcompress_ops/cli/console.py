"""Where the commands write, and how they fail: one line on stderr, and a documented exit code.

Exit codes: 0 for success, 1 for an error that the message explains, 2 for wrong usage.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec

import rich.box
import rich.console
import rich.markup
import rich.table
import typer

_P = ParamSpec("_P")

EXIT_ERROR = 1

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
        _quieten_libraries()
        try:
            function(*args, **kwargs)
        except (CommandError, ImportError) as error:
            if os.environ.get("TFCOMPRESS_TRACEBACK"):
                raise
            _show(error)
            raise typer.Exit(EXIT_ERROR) from error

    return run


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
    text = f"[bold red]Error:[/] {rich.markup.escape(message)}"
    err.print(f"{text} {rich.markup.escape(remedy)}".rstrip(), soft_wrap=True)


def _quieten_libraries() -> None:
    """Keeps what Keras and TensorFlow say about their own insides off the terminal."""
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="keras")
