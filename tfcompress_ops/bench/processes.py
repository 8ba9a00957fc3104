"""Benchmarks in processes of their own: TensorFlow's threads are fixed once it runs."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import tfcompress_ops
from tfcompress_ops.bench import results as results_file
from tfcompress_ops.bench.results import Results
from tfcompress_ops.cli import console


def by_threads(
    command: str, options: Mapping[str, str | bool | None], threads: Sequence[int]
) -> list[Results]:
    """Runs a command of `tfcompress bench` once for each number of threads.

    Args:
        command: Its name.
        options: Option to value; those that are None or False are left out.
        threads: Numbers of threads.

    Returns:
        What all of them measured, in order.

    Raises:
        CommandError: If one of them fails.
    """
    arguments = [command]
    for option, value in options.items():
        if value is True:
            arguments.append(option)
        elif isinstance(value, str):
            arguments += [option, value]
    return [run for count in threads for run in run_bench([*arguments, "--threads", str(count)])]


def run_bench(arguments: Sequence[str]) -> list[Results]:
    """Runs `tfcompress bench` in a new process, its progress bar on this one's stderr.

    Args:
        arguments: Its command and options, without `--json`.

    Returns:
        What it measured.

    Raises:
        CommandError: If it fails; it has said why.
    """
    root = str(Path(tfcompress_ops.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory(prefix="tfcompress-bench-") as folder:
        # In a folder of its own, where Python finds no other package by chance.
        file = Path(folder) / "results.json"
        command = [sys.executable, "-m", "tfcompress_ops.cli", "bench", *arguments]
        outcome = subprocess.run(
            [*command, "--json", str(file)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if outcome.returncode != 0:
            raise console.CommandError(
                f"`tfcompress bench {' '.join(arguments)}` failed with exit code "
                f"{outcome.returncode}."
            )
        return results_file.from_json(file.read_text(encoding="utf-8"))
