"""`tfcompress bench layers | models | all | report`."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tfcompress_ops.bench import layers as layer_suite
from tfcompress_ops.bench import machine, model_suite, options, processes
from tfcompress_ops.bench import models as whole_models
from tfcompress_ops.bench.all_formats import ALL_FORMATS
from tfcompress_ops.bench.layers import LayerSettings
from tfcompress_ops.bench.model_suite import ModelSettings
from tfcompress_ops.bench.results import Results
from tfcompress_ops.bench.survey import Survey
from tfcompress_ops.cli import console

_Run = Callable[[int], Results]
_DocsFile = Annotated[
    Path | None,
    typer.Option(
        "--docs", help="Write the tables as Markdown, here; plots go into a folder beside it."
    ),
]


@console.command
def layers(
    kinds: Annotated[
        str | None,
        typer.Option("--layers", help=f"Out of {', '.join(layer_suite.KINDS)}, comma-separated."),
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(
            help=f"Formats out of {', '.join(ALL_FORMATS.variants)}, comma-separated. By default "
            f"{', '.join(layer_suite.DEFAULTS)}."
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Inputs x outputs (channels, units) of each layer; 256x256 by default."),
    ] = None,
    batch: options.Batches = None,
    threads: options.Threads = None,
    peers: Annotated[bool, typer.Option(help="Whether Keras' own int8 layers run too.")] = True,
    isa: options.Isa = None,
    json_file: options.JsonFile = None,
    html: options.HtmlFile = None,
    quick: options.Quick = False,
) -> None:
    """Compressed layers against the Keras layers that they replace."""
    options.run_again_with(isa)
    with options.explained():
        settings = LayerSettings(peers=peers)
        if quick:
            settings = settings.quick()
        if kinds is not None:
            settings = replace(settings, kinds=kinds.split(","))
        if variants is not None:
            settings = replace(settings, variants=variants.split(","))
    if shape is not None:
        settings = replace(settings, shapes=options.shapes(shape))
    if batch is not None:
        settings = replace(settings, batches=options.counts(batch))

    def run(count: int) -> Results:
        chosen = replace(settings, threads=count)
        with options.progress(layer_suite.count_steps(chosen)) as on_step:
            return layer_suite.run_layers(chosen, on_step)

    given: dict[str, str | bool | None] = {
        "--layers": kinds,
        "--variants": variants,
        "--shape": shape,
        "--batch": batch,
        "--no-peers": not peers,
        "--quick": quick,
    }
    _run_and_write(layer_suite.SUITE, run, given, threads, options.Output(json_file, html))


@console.command
def models(
    names: Annotated[
        str | None,
        typer.Option("--models", help=f"Out of {', '.join(whole_models.MODELS)}, comma-separated."),
    ] = None,
    forms: Annotated[
        str | None,
        typer.Option(help=f"Out of {', '.join(whole_models.FORMS)}, comma-separated."),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Height x width of images, equal; 224x224 by default.")
    ] = None,
    batch: options.Batches = None,
    depth: Annotated[int, typer.Option(min=1, help="Layers of the encoder.")] = 12,
    seconds: Annotated[float, typer.Option(min=0.01, help="Time for each form.")] = 3.0,
    auto: Annotated[
        bool, typer.Option("--auto", help="Search for a plan too; takes minutes.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Tell which ops the time goes to.")
    ] = False,
    threads: options.Threads = None,
    isa: options.Isa = None,
    json_file: options.JsonFile = None,
    html: options.HtmlFile = None,
    quick: options.Quick = False,
) -> None:
    """Whole models against tf.function and XLA."""
    options.run_again_with(isa)
    with options.explained():
        settings = ModelSettings(layers=depth, seconds=seconds, search=auto, profile=profile)
        if quick:
            settings = settings.quick()
        if names is not None:
            settings = replace(settings, models=names.split(","))
        if forms is not None:
            settings = replace(settings, forms=forms.split(","))
    if shape is not None:
        settings = replace(settings, size=_side(shape))
    if batch is not None:
        settings = replace(settings, batches=options.counts(batch))

    def run(count: int) -> Results:
        chosen = replace(settings, threads=count)
        with options.progress(len(list(chosen.points()))) as on_step:
            return model_suite.run_models(chosen, on_step)

    given: dict[str, str | bool | None] = {
        "--models": names,
        "--forms": forms,
        "--shape": shape,
        "--batch": batch,
        "--depth": str(depth),
        "--seconds": str(seconds),
        "--auto": auto,
        "--profile": profile,
        "--quick": quick,
    }
    _run_and_write(model_suite.SUITE, run, given, threads, options.Output(json_file, html))


@console.command
def everything(
    shape: options.Shapes = None,
    batch: options.Batches = None,
    threads: Annotated[
        str | None,
        typer.Option(
            help="Threads, comma-separated: the first number is that of every part, how the "
            "others do is measured beside it. By default all CPUs, then 1, 2, 4 ... of them."
        ),
    ] = None,
    isa: options.Isa = None,
    json_file: options.JsonFile = None,
    html: options.HtmlFile = None,
    docs: _DocsFile = None,
    quick: options.Quick = False,
) -> None:
    """Measure formats, engines, threads, zeros, ops, layers and models: some 15 minutes."""
    options.run_again_with(isa)
    output = options.Output(json_file, html, docs)
    output.check()
    counts = _all_threads() if threads is None else options.counts(threads)
    survey = Survey(counts, quick=quick)
    if quick:
        survey = replace(survey, shapes=((48, 32), (32, 48)), batches=(1, 2), more_batches=(4,))
    if shape is not None:
        survey = replace(survey, shapes=options.shapes(shape))
    if batch is not None:
        survey = replace(survey, batches=options.counts(batch))
    runs: list[Results] = []
    parts = list(survey.parts())
    for index, part in enumerate(parts, 1):
        console.err.print(f"{index} of {len(parts)}: {part.name}")
        start = time.monotonic()
        with options.explained(), options.progress(max(1, part.steps)) as on_step:
            runs += part.run(on_step)
        console.err.print(f"  took {time.monotonic() - start:.0f} s")
        # What was measured is not lost if a later part fails or is interrupted.
        replace(output, html=None, docs=None).write(runs, quietly=True)
    output.show(runs)
    output.write(runs)


@console.command
def report(
    results: Annotated[list[Path], typer.Argument(help="Results files that --json wrote.")],
    html: options.HtmlFile = None,
    docs: _DocsFile = None,
) -> None:
    """Show results that were measured before: tables here, or a page, or Markdown."""
    output = options.Output(html=html, docs=docs)
    output.check()
    runs = [run for path in results for run in options.read(path)]
    if html is None and docs is None:
        output.show(runs)
    output.write(runs)


def _run_and_write(
    command: str,
    run: _Run,
    given: Mapping[str, str | bool | None],
    threads: str | None,
    output: options.Output,
) -> None:
    """Runs a suite, for several numbers of threads in processes of their own; shows and writes."""
    output.check()
    counts = [machine.available_cpus()] if threads is None else options.counts(threads)
    with options.explained():
        if len(counts) == 1:
            runs: Sequence[Results] = [run(counts[0])]
        else:
            runs = processes.by_threads(command, given, counts)
    output.show(runs)
    output.write(runs)


def _all_threads() -> list[int]:
    """All CPUs, then every power of two below."""
    available = machine.available_cpus()
    return [available, *(2**e for e in range(available.bit_length()) if 2**e < available)]


def _side(text: str) -> int:
    """Reads the equal sides of images."""
    found = options.shapes(text)
    if len(found) != 1 or found[0][0] != found[0][1]:
        raise console.CommandError(f"--shape must be one square, such as 224x224; got {text!r}.")
    return found[0][0]
