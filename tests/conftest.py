"""What every test can use, fresh processes; and which tests run.

`pytest` alone runs the core, some minutes. Where paths are named everything in them runs, tests
marked `slow` too (builds of the C++ sources, sanitizers, emulations, whole models, every tier):
`pytest tests` is the whole suite but for soak tests, which only `pytest -m soak` runs.
"""

import gc
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from fresh_process import Forker

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Compiling an op for a new shape can take longer than hypothesis' deadline of 200 ms.
hypothesis.settings.register_profile("tfcompress", deadline=None, max_examples=50)
hypothesis.settings.load_profile("tfcompress")

_CORE = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Decides by the command line; a worker of pytest-xdist is told by the process that has it."""
    here = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    config.stash[_CORE] = here if worker is None else worker["core"]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["core"] = node.config.stash[_CORE]


def pytest_report_header(config: pytest.Config) -> str:
    return "core tests: `pytest tests` runs all" if config.stash[_CORE] else "all tests named"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out soak tests, and slow ones of the core, unless -m asks for tests by their marks."""
    if config.option.markexpr:
        return
    left_out = ("slow", "soak") if config.stash[_CORE] else ("soak",)
    kept, rest = [], []
    for item in items:
        (rest if any(map(item.get_closest_marker, left_out)) else kept).append(item)
    config.hook.pytest_deselected(items=rest)
    items[:] = kept


def pytest_collection_finish() -> None:
    """What the imports left stays: Python's collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names objects that print their address by class: workers must name a test alike."""
    return type(val).__name__ if " object at 0x" in repr(val) else None


@pytest.fixture
def quick_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies of reports are measured, but roughly: for tests that look at all but their size."""
    from tfcompress_ops import latency

    for name, value in (("_BURST_SECONDS", 1e-4), ("_ROUNDS", 2), ("_LONGEST_CHAIN", 6)):
        monkeypatch.setattr(latency, name, value)


RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def forker() -> Iterator[Callable[[], Forker]]:
    """The process that `run_python` forks, started when the first test wants it."""
    started: list[Forker] = []

    def get() -> Forker:
        if not started:
            started.append(Forker(_environment({}, ())))
        return started[0]

    yield get
    for process in started:
        process.close()


@pytest.fixture
def run_python(tmp_path: Path, forker: Callable[[], Forker]) -> RunPython:
    """Runs code in a fresh Python process, outside the source tree.

    `run_python(code, env=None, path=(), check=True, timeout=300, new=False)`: `env` adds to the
    environment (a value of None removes one), `path` goes before the package on sys.path, `check`
    fails the test where the process fails, `timeout` is in seconds. The result has `stdout` and
    `stderr`.

    The process has imported TensorFlow and Keras before the code begins, and nothing else, unless
    `env` or `path` say what only an import of them would see, or `new` asks for an interpreter that
    has imported nothing: `fresh_process.py`.
    """

    def run(
        code: str,
        env: Mapping[str, str | None] | None = None,
        path: tuple[Path, ...] = (),
        check: bool = True,
        timeout: float = 300,
        new: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        code, environment = textwrap.dedent(code), _environment(env or {}, path)
        if new or path or any(not name.startswith("TFCOMPRESS_") for name in env or ()):
            process = subprocess.run(
                [sys.executable, "-c", code],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        else:
            process = forker().run(code, environment, tmp_path, timeout)
        if check and process.returncode != 0:
            pytest.fail(f"The process failed ({process.returncode}):\n{process.stderr}")
        return process

    return run


def _environment(env: Mapping[str, str | None], path: tuple[Path, ...]) -> dict[str, str]:
    """The variables of a process: this one's, with those of `env` and the package's path."""
    import tfcompress_ops

    package_parent = Path(tfcompress_ops.__file__).parent.parent
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **env}
    variables["PYTHONPATH"] = os.pathsep.join(map(str, (*path, package_parent)))
    return {name: value for name, value in variables.items() if value is not None}
