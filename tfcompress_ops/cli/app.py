"""The commands of `tfcompress`, each loaded when it is used: `tfcompress --help` is quick."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tfcompress_ops._version import __version__
from tfcompress_ops.cli import console, demo_command, info_command

# Commands whose modules import TensorFlow: where each lives, as the attribute `app`.
_LAZY = {
    "compress": "tfcompress_ops.cli.compress_command",
    "inspect": "tfcompress_ops.cli.inspect_command",
    "bench": "tfcompress_ops.bench.cli",
}


class _Group(TyperGroup):
    """Lists commands by what is registered here, and loads one where it is run or completed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name in _LAZY:
            module = console.explained(lambda: importlib.import_module(_LAZY[name]))
            command = typer.main.get_command(module.app)
            command.name = name
        return name, command, rest


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every command has --help, with examples, and --json, for programs. Exit codes: "
    "0 success, 1 an error that the message on stderr explains, 2 wrong usage, 130 interrupted.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.out.print(f"tfcompress {__version__}")
        raise typer.Exit


@app.callback()
def tfcompress(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version, which begins with that of its TensorFlow, and exit.",
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Log to stderr what is done, and what Keras and TensorFlow say. Before the "
            "command: tfcompress -v compress ...",
        ),
    ] = False,
) -> None:
    """Compressed Keras models that run faster inside TensorFlow.

    [bold]See what it does[/], on handwritten digits, in a minute or two:

        [cyan]tfcompress demo[/]

    [bold]Compress a model of your own[/], and look into the result:

        [cyan]tfcompress compress model.keras -o small.keras --format int8[/]

        [cyan]tfcompress inspect small.keras[/]

    [bold]Know your machine[/], and measure the kernels on it:

        [cyan]tfcompress info --peaks[/]

        [cyan]tfcompress bench int8[/]

    [bold]In Python[/] a compressed model is a Keras model like any other, once
    [cyan]import tfcompress_ops[/] has been run:

        [cyan]model = keras.saving.load_model("small.keras")[/]
    """
    console.set_verbose(verbose)


app.command("demo")(demo_command.demo)


@app.command("compress")
def _compress() -> None:
    """Compress a model file and report, layer by layer, what that did."""


@app.command("inspect")
def _inspect() -> None:
    """Show each layer of a model file: kind, shape, format, bytes, ranges of its scales."""


@app.command("bench")
def _bench() -> None:
    """Measure a format's kernels against TensorFlow and other engines."""


app.command("info")(info_command.info)
