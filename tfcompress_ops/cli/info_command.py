"""`tfcompress info`: what is installed, and what the kernels make of this machine."""

from __future__ import annotations

from typing import Annotated, Any

import rich.table
import typer

from tfcompress_ops.cli import console, environment


@console.command
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    peaks: Annotated[
        bool, typer.Option("--peaks", help="Also measure this machine's peaks (a few seconds).")
    ] = False,
) -> None:
    """Show versions, the instruction-set tier in force, threads, caches and formats.

    The first place to look where something is slow or does not load: it explains a broken
    installation too, and then exits with 1. TFCOMPRESS_ISA=avx2 and alike in the environment caps
    the tier.
    """
    found = environment.collect()
    if peaks:
        found["peaks"] = environment.peaks(environment.available_cpus())
    if as_json:
        console.print_json(found)
    else:
        _print(found)
    if found["problem"] is not None:
        raise console.CommandError(found["problem"])


def _print(found: dict[str, Any]) -> None:
    grid = rich.table.Table.grid(padding=(0, 3))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in {**_software(found), **_hardware(found)}.items():
        grid.add_row(name, value)
    console.out.print(grid)
    for name, variants in found["kernels"].items():
        _print_variants(f"Kernels of {name}", variants)
    if found["formats"]:
        table = console.table("Format", "Variants", title="Formats")
        table.columns[1].justify = "left"
        for name, labels in found["formats"].items():
            table.add_row(name, ", ".join(labels))
        console.out.print(table)
    if "peaks" in found:
        table = console.table("Peak", "Measured", title="What this machine can do at best")
        for name, value in found["peaks"].items():
            table.add_row(name.replace("_", " "), f"{value:,.1f}")
        console.out.print(table)


def _software(found: dict[str, Any]) -> dict[str, str]:
    versions, build, threads = found["versions"], found["build"], found["threads"]
    tensorflow, keras = (versions[name] or "not installed" for name in ("tensorflow", "keras"))
    intra_op, inter_op = (threads[key] or "?" for key in ("intra_op", "inter_op"))
    version = build["version"] or versions["tfcompress_ops"]
    return {
        "tfcompress_ops": f"{version}, {build['type']} build by {build['compiler']}",
        "TensorFlow": f"{tensorflow}; this build is for {_minor(build['tensorflow'])}",
        "Keras": keras,
        "Python": f"{versions['python']}, NumPy {versions['numpy']}",
        "Op library": build["op_library"] or "not built",
        "CUDA": build["cuda"] or "not in this build",
        "Threads": f"{intra_op} within an op, {inter_op} between ops; "
        f"{threads['available_cpus']} CPUs available",
    }


def _minor(version: str | None) -> str:
    """Major and minor of a version: 2.21 of 2.21.0."""
    return "none" if version is None else ".".join(version.split(".")[:2])


def _hardware(found: dict[str, Any]) -> dict[str, str]:
    cpu, isa = found["cpu"], found["isa"]
    if cpu is None:
        return {}
    caches = {"L1d": "l1d_bytes", "L2": "l2_bytes", "L3": "l3_bytes"}
    return {
        "CPU": f"{cpu['model_name']}, {cpu['num_cpus']} logical",
        "Caches": ", ".join(
            f"{name} {environment.binary_size(cpu[key])}" for name, key in caches.items()
        ),
        "Features": " ".join(cpu["features"]),
        "Tier": f"[bold]{isa['in_force']}[/], of {', '.join(isa['available'])}",
        "TFCOMPRESS_ISA": isa["TFCOMPRESS_ISA"] or "not set",
    }


def _print_variants(title: str, variants: list[dict[str, Any]]) -> None:
    """One row a tier; the columns are whatever the kernels tell about themselves."""
    if not variants:
        return
    columns = list(variants[0])
    table = console.table(*columns, title=title)
    for column in table.columns:
        column.justify = "left"
    for variant in variants:
        table.add_row(*(_cell(variant.get(column, "")) for column in columns))
    console.out.print(table)


def _cell(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
