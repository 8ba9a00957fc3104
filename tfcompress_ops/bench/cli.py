"""`tfcompress bench`: a command for each registered suite, and those for layers, models and all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from tfcompress_ops.bench import (
    break_even_page,
    compare_command,
    machine,
    options,
    processes,
    whole_commands,
)
from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.chains import State
from tfcompress_ops.bench.peers import BASELINE
from tfcompress_ops.bench.results import Results
from tfcompress_ops.bench.runner import Mode, Settings, count_steps, run_suite
from tfcompress_ops.bench.sparsity import (
    Sweep,
    curves,
    settings_for_sweep,
    sweep,
    to_json,
    with_families,
)
from tfcompress_ops.bench.suites import Suite, suites
from tfcompress_ops.bench.tables import break_even_tables
from tfcompress_ops.cli import console, files

app = typer.Typer(
    help="Time this package's ops against TensorFlow, Keras and other engines.",
    no_args_is_help=True,
    add_completion=False,  # it is the whole command that has it
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 an error that the message explains, 2 wrong usage, "
    "3 compare found a regression.",
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
        shape: options.Shapes = None,
        batch: options.Batches = None,
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
        threads: options.Threads = None,
        peers: Annotated[
            bool, typer.Option(help="Whether other engines run beside tf.matmul.")
        ] = True,
        kernel: Annotated[
            bool,
            typer.Option(
                "--kernel",
                help="Time the kernels without TensorFlow beside the ops, and ops called eagerly: "
                "what an op adds to its kernel.",
            ),
        ] = False,
        seconds: Annotated[
            float | None,
            typer.Option(min=0.001, help="Limit for the bursts of one layer, batch and state."),
        ] = None,
        isa: options.Isa = None,
        json_file: options.JsonFile = None,
        html: options.HtmlFile = None,
        quick: options.Quick = False,
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
        options.run_again_with(isa)
        output = options.Output(json_file, html)
        output.check()
        if break_even:
            _check_break_even(suite, page, kernel)
        counts = [machine.available_cpus()] if threads is None else options.counts(threads)
        if len(counts) > 1:
            if break_even:
                raise console.CommandError("--break-even takes one number of threads.")
            given: Mapping[str, str | bool | None] = {
                "--shape": shape,
                "--batch": batch,
                suite.option: variant,
                "--state": state,
                "--mode": mode,
                "--no-peers": not peers,
                "--kernel": kernel,
                "--seconds": None if seconds is None else str(seconds),
                "--quick": quick,
            }
            runs = processes.by_threads(suite.name, given, counts)
            output.show(runs)
            output.write(runs)
            return
        settings = Settings(threads=counts[0], cache_bytes=machine.last_level_cache_bytes())
        if break_even:
            settings = settings_for_sweep(settings, quick)
        elif quick:
            settings = settings.quick()
        if state is not None:
            states = cast(Sequence[State], options.choices("--state", state, get_args(State)))
            settings = replace(settings, states=states)
        if mode is not None:
            modes = cast(Sequence[Mode], options.choices("--mode", mode, get_args(Mode)))
            settings = replace(settings, modes=modes)
        if shape is not None:
            settings = replace(settings, shapes=options.shapes(shape))
        if batch is not None:
            settings = replace(settings, batches=options.counts(batch))
        if seconds is not None:
            settings = replace(settings, budget_seconds=seconds)
        with options.explained():
            if break_even:
                cases = sweep(suite.chosen_families(options.names(variant)), quick)
                run = _draw(suite, cases, settings, peers, page, output)
                replace(output, json_file=None).write([run])
            else:
                chosen = suite.cases(options.names(variant), peers, kernel)
                runs = [_run(suite, chosen, settings)]
                output.show(runs)
                output.write(runs)


def _draw(
    suite: Suite,
    cases: Sweep,
    settings: Settings,
    peers: bool,
    page: Path,
    output: options.Output,
) -> Results:
    """Measures, prints, draws and writes speed by sparsity."""
    dense = [case for case in suite.cases([], peers) if case.name in _dense(suite)]
    results = with_families(_run(suite, [*cases.values(), *dense], settings), cases)
    found = curves(results)
    for renderable in break_even_tables(results, found):
        output.console.print(renderable)
    files.write_text(page, break_even_page.render(results, found))
    if output.json_file is not None:
        output.write_json(to_json(results, found))
        if output.json_file != options.STDOUT:
            output.console.print(f"Wrote {output.json_file}")
    output.console.print(f"Open {page}")
    return results


def _dense(suite: Suite) -> tuple[str, str]:
    """Names of the cases that curves are drawn against."""
    return BASELINE.name, suite.reference


def _run(suite: Suite, cases: Sequence[Case], settings: Settings) -> Results:
    """Runs a suite behind a progress bar."""
    with options.progress(count_steps(settings)) as on_step:
        return run_suite(suite, cases, settings, on_step)


def _check_break_even(suite: Suite, page: Path, kernel: bool) -> None:
    """Whether `--break-even` can be run, and its page be written."""
    if not suite.families:
        raise console.CommandError(
            f"--break-even needs weights with zeros, which bench {suite.name} has none of.",
            "See bench sparse.",
        )
    if kernel:
        raise console.CommandError("--kernel does not go with --break-even.", "Leave one out.")
    options.check_folder("--page", page)
    options.check_jinja("--break-even")


for _suite in suites():
    _add_command(_suite)
app.command("layers")(whole_commands.layers)
app.command("models")(whole_commands.models)
app.command("all")(whole_commands.everything)
app.command("report")(whole_commands.report)
app.command("compare")(compare_command.compare)
