"""What every test can use: a seed, small models, and fresh processes."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Compiling an op for a new shape can take longer than hypothesis' deadline of 200 ms.
hypothesis.settings.register_profile("tfcompress", deadline=None, max_examples=50)
hypothesis.settings.load_profile("tfcompress")

RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Runs code in a fresh Python process, outside the source tree.

    `run_python(code, env=None, path=(), check=True, timeout=300)`: `env` adds to the environment (a
    value of None removes one), `path` goes before the package on sys.path, `check` fails the test
    where the process fails, `timeout` is in seconds. The result has `stdout` and `stderr`.
    """
    import tfcompress_ops

    package_parent = Path(tfcompress_ops.__file__).parent.parent

    def run(
        code: str,
        env: Mapping[str, str | None] | None = None,
        path: tuple[Path, ...] = (),
        check: bool = True,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **(env or {})}
        variables["PYTHONPATH"] = os.pathsep.join(map(str, (*path, package_parent)))
        process = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={name: value for name, value in variables.items() if value is not None},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and process.returncode != 0:
            pytest.fail(f"The process failed ({process.returncode}):\n{process.stderr}")
        return process

    return run
