"""The commands of `tfcompress`, each loaded when it is used: `tfcompress --help` is quick."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from tfcompress_ops._version import __version__
from tfcompress_ops.cli import console, demo_command, info_command

# The arguments of these commands are parsed by the app that is loaded for them.
_FORWARDED = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 an error that the message explains, 2 wrong usage.",
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
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
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

    In Python a compressed model is a Keras model like any other, once
    [cyan]import tfcompress_ops[/] has been run.
    """


app.command("demo")(demo_command.demo)


@app.command("compress", add_help_option=False, context_settings=_FORWARDED)
def _compress(context: typer.Context) -> None:
    """Compress a model file and report, layer by layer, what that did."""
    _forward("tfcompress_ops.cli.compress_command", context)


@app.command("inspect", add_help_option=False, context_settings=_FORWARDED)
def _inspect(context: typer.Context) -> None:
    """Show each layer of a model file: kind, shape, format, bytes, ranges of its scales."""
    _forward("tfcompress_ops.cli.inspect_command", context)


@app.command("bench", add_help_option=False, context_settings=_FORWARDED)
def _bench(context: typer.Context) -> None:
    """Measure a format's kernels against TensorFlow and other engines."""
    _forward("tfcompress_ops.bench.cli", context)


app.command("info")(info_command.info)


@console.command
def _forward(module: str, context: typer.Context) -> None:
    """Loads a module and lets its `app` take over."""
    command = typer.main.get_command(importlib.import_module(module).app)
    name = context.command_path
    result = command.main(args=context.args, prog_name=name, standalone_mode=False)
    raise typer.Exit(result if isinstance(result, int) else 0)
