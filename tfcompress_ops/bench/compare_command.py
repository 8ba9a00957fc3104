"""`tfcompress bench compare`: regressions between two results files, named."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tfcompress_ops.bench import options
from tfcompress_ops.bench.compare import Change, Comparison
from tfcompress_ops.bench.compare import compare as compare_runs
from tfcompress_ops.bench.tables import Grid, time_text
from tfcompress_ops.cli import console, files

EXIT_REGRESSION = 3

_TITLES = {
    "slower": "Slower",
    "faster": "Faster",
    "unclear": "Unclear: beyond the threshold, within the spread of the samples",
}
# Names of missing measurements that are printed; the JSON has all of them.
_LISTED = 5


@console.command
def compare(
    old: Annotated[Path, typer.Argument(help="Results that --json wrote, before a change.")],
    new: Annotated[Path, typer.Argument(help="The same after it.")],
    threshold: Annotated[
        str, typer.Option(help="Change of a time that counts, in per cent.")
    ] = "5%",
    relative: Annotated[
        bool,
        typer.Option(
            "--relative",
            help="Compare times as shares of the dense baseline's in the same run, for a machine "
            "that was not equally busy both times.",
        ),
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write the comparison here; - prints it, in place of the tables."
        ),
    ] = None,
) -> None:
    """Compare two results files: what became slower or faster, beyond the spread of the samples.

    Exit code 3 says that something became slower.
    """
    share = _threshold(threshold)
    if json_file is not None:
        options.check_folder("--json", json_file)
    before, after = options.read(old), options.read(new)
    with options.explained():
        found = compare_runs(before, after, share, relative)
    if json_file == options.STDOUT:
        console.print_json(found.to_dict())
    else:
        _show(found)
    if json_file not in (None, options.STDOUT):
        files.write_text(json_file, json.dumps(found.to_dict(), indent=1))
        console.out.print(f"Wrote {json_file}")
    if found.regressions:
        raise typer.Exit(EXIT_REGRESSION)


def _threshold(text: str) -> float:
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent < float("inf"):
        raise console.CommandError(
            f"--threshold must be a number of per cent from 0, such as 5%; got {text!r}."
        )
    return percent / 100


def _show(found: Comparison) -> None:
    for warning in found.warnings:
        console.err.print(f"[yellow]Warning:[/] {warning}")
    drift = found.drift
    if drift is not None and abs(drift - 1) > found.threshold and not found.relative:
        console.err.print(
            f"[yellow]Warning:[/] Other engines, whose code is not this package's, took "
            f"{_percent(drift)} time: the machine was not equally fast. See --relative."
        )
    for verdict, title in _TITLES.items():
        changes = [change for change in found.changes if change.verdict == verdict]
        if changes:
            # The largest change of each kind comes first.
            ordered = changes[::-1] if verdict == "faster" else changes
            console.out.print(_grid(title, ordered, found.relative).to_rich())
    for title, keys in (("only in the older file", found.gone), ("new", found.added)):
        if keys:
            names = "; ".join(map(str, keys[:_LISTED]))
            more = f"; and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
            console.out.print(f"{len(keys)} {title}: {names}{more}")
    console.out.print(
        f"{len(found.changes)} measurements in both: {len(found.regressions)} slower by more than "
        f"{100 * found.threshold:g} %, {len(found.of('faster'))} faster, "
        f"{len(found.of('unclear'))} unclear, {len(found.of('same'))} the same."
    )


def _grid(title: str, changes: Sequence[Change], relative: bool) -> Grid:
    unit = "of the baseline" if relative else "us"
    grid = Grid(
        title,
        [
            *("suite", "layer", "batch", "state", "mode", "threads", "case"),
            *(f"old, {unit}", "quartiles", f"new, {unit}", "quartiles", "time"),
        ],
        left={1, 3, 4, 6},
    )
    for change in changes:
        key = change.key
        times = [
            text
            for timing in (change.old, change.new)
            for text in (
                time_text(timing.median_us),
                f"{time_text(timing.q1_us)} - {time_text(timing.q3_us)}",
            )
        ]
        threads = "" if key.threads is None else str(key.threads)
        grid.add(
            *(key.suite, key.subject, str(key.batch), key.state, key.mode, threads, key.case),
            *times,
            _percent(change.ratio),
        )
    return grid


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"
