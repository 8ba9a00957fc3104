"""The processes that tests run code in: tests/fresh_process.py."""

import subprocess

import pytest

WHAT = """
    import atexit, os, sys
    print(*(name in sys.modules for name in ("tensorflow", "keras", "tfcompress_ops")))
    print(os.getcwd(), sys.argv, os.environ.get("TFCOMPRESS_NAME"), __name__, repr(sys.path[0]))
    atexit.register(print, "left")
    sys.exit(CODE)
"""


@pytest.mark.parametrize("new", [False, True])
def test_is_as_an_interpreter_of_its_own(run_python, tmp_path, new):
    env = {"TFCOMPRESS_NAME": "value"}
    process = run_python(WHAT.replace("CODE", "3"), env, check=False, new=new)
    assert process.returncode == 3
    imported, told, left = process.stdout.splitlines()
    assert imported == f"{not new} {not new} False"
    assert told == f"{tmp_path} ['-c'] value __main__ ''"
    assert left == "left"
    assert process.stderr == ""
    again = run_python(WHAT.replace("CODE", "0"), new=new)
    assert " None __main__ " in again.stdout


def test_errors_and_signals(run_python):
    process = run_python("1 / 0", check=False)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert run_python("import os; os.kill(os.getpid(), 11)", check=False).returncode == -11
    with pytest.raises(pytest.fail.Exception, match="ZeroDivisionError"):
        run_python("1 / 0")


def test_a_process_that_hangs_is_ended(run_python):
    code = "import time; print('begun', flush=True); time.sleep(60)"
    for new in (False, True):
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            run_python(code, timeout=0.5, new=new)
        assert caught.value.timeout == 0.5
    assert run_python("print('next')").stdout == "next\n"


def test_no_thread_of_tensorflow_runs_before_the_code(run_python):
    """Of the threads that its import starts none is in a child."""
    assert run_python("import os; print(os.listdir('/proc/self/task'))").stdout.count("'") == 2
