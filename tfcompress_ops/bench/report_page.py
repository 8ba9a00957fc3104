"""The page of `--html`: results in, one self-contained HTML file out."""

import datetime
from collections.abc import Sequence

from tfcompress_ops.bench.plots import draw
from tfcompress_ops.bench.results import Results
from tfcompress_ops.bench.sections import sections, typical
from tfcompress_ops.bench.tables import common_batches, notes, overheads
from tfcompress_ops.demo.page import fill, ratio


def render(runs: Sequence[Results]) -> str:
    """Renders the page.

    Args:
        runs: One at least.

    Returns:
        HTML that refers to nothing outside itself.
    """
    main = typical(runs)
    when = measured_at(main)
    return fill(
        "results.html.j2",
        "tfcompress_ops.bench",
        date=f"{when.day} {when:%B %Y, %H:%M}",
        processor=main.machine.get("processor"),
        threads=main.threads,
        tiles=tiles(runs),
        sections=sections(runs),
        draw=draw,
        facts=facts(main),
        notes=[(run.suite, run.threads, notes(run)) for run in runs],
    )


def tiles(runs: Sequence[Results]) -> list[tuple[str, str, str]]:
    """The figures at the top: what each is, the figure, and of what.

    Args:
        runs: One at least.

    Returns:
        Up to three of them.
    """
    main = typical(runs)
    found = []
    state, mode = main.measurements[0].state, main.measurements[0].mode
    ours = [name for name, facts in main.cases.items() if facts.group and facts.view == "op"]
    batches = common_batches(main, state)
    for batch in dict.fromkeys((batches[0], batches[-1])):
        means = {
            name: mean[0]
            for name in ours
            if (mean := main.mean_speed_up(name, main.baseline, batch, state, mode)) is not None
        }
        if means:
            best = max(means, key=lambda name: means[name])
            found.append(
                (
                    f"{best}, batch {batch}",
                    ratio(means[best]),
                    f"as fast as {main.baseline}, mean over all layers",
                )
            )
    least = [o for run in runs for o in overheads(run)]
    if least:
        graph = sorted(o.graph_overhead_us for o in least)
        op = least[0].op
        found.append(
            (
                "An op adds to its kernel",
                f"{max(0.0, graph[len(graph) // 2]):.1f} us",
                f"in a graph, {op.subject}, batch {op.batch}",
            )
        )
    return found


def measured_at(run: Results) -> datetime.datetime:
    """When a run ended; now, where it does not say so."""
    text = run.machine.get("measured_at")
    return datetime.datetime.now() if text is None else datetime.datetime.fromisoformat(text)


def facts(run: Results) -> list[tuple[str, str]]:
    """The machine and the versions of a run, by name."""
    kernels = run.machine.get("kernels", {})
    load = run.machine.get("other_load")
    found = [
        ("Machine", f"{run.machine.get('processor')}, {run.machine.get('cpus')} CPUs"),
        ("Kernels", f"{kernels.get('tier')}, {run.threads} threads"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
        (
            "Measured limits",
            ", ".join(f"{name.replace('_', ' ')} {value:,.0f}" for name, value in run.peaks.items())
            or "-",
        ),
    ]
    if load is not None:
        found.append(("Other load", f"{100 * load:.0f} % of the CPUs"))
    return found
