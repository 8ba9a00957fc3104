"""A short run of tests/fuzz; `python -m tests.fuzz --cases 100000` is the long one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tfcompress_ops

CASES = 1000


@pytest.mark.parametrize("format_", ["int8", "sparse", "binary", "patches", "float_ops"])
def test_ops_give_an_error_or_the_right_answer(tmp_path, format_):
    places = (Path(__file__).parent, Path(tfcompress_ops.__file__).parent.parent)
    command = ("-m", "fuzz", "--format", format_, "--cases", str(CASES), "--seed", "20251")
    process = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    found = re.search(r"(\d+) right answers, (\d+) errors, 0 failures", process.stdout)
    assert found is not None, process.stdout
    answers, errors = map(int, found.groups())
    assert answers + errors == CASES
    # Neither kind of case has died out.
    assert min(answers, errors) > CASES // 10


@pytest.mark.soak
def test_crashes_and_hangs_are_reported(tmp_path):
    """The tool itself: a case that kills its process, or never ends, is named."""
    (tmp_path / "fuzz").symlink_to(Path(__file__).parent / "fuzz")
    (tmp_path / "broken.py").write_text(
        "import os, time\n"
        "from fuzz import int8, runner\n"
        "make = int8.make\n"
        "def bad(rng):\n"
        "    case = make(rng)\n"
        "    if bad.number == 3: os.abort()\n"
        "    if bad.number == 5: time.sleep(600)\n"
        "    bad.number += 1\n"
        "    return case\n"
        "bad.number = int(os.environ.get('FIRST', '0'))\n"
        "int8.make = bad\n"
    )
    code = """
import fuzz.runner as runner, subprocess, sys, os
popen = subprocess.Popen
def start(command, **kwargs):
    os.environ["FIRST"] = command[5]
    return popen([command[0], "-c", "import broken, fuzz.runner as r, sys; r._main(sys.argv[1:])",
                  *command[3:]], **kwargs)
subprocess.Popen = start
result = runner.run("int8", 8, timeout=4)
print([failure.case for failure in result.failures], result.cases)
print(*result.failures)
"""
    places = (tmp_path, Path(tfcompress_ops.__file__).parent.parent)
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("[3, 5] 8\n"), process.stdout
    assert "the process ended with -6" in process.stdout
    assert "hang" in process.stdout
    assert "python -m tests.fuzz --format int8 --seed 1 --case 5" in process.stdout
