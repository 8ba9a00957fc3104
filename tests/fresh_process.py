"""Fresh Python processes, forked from one that has imported TensorFlow.

The import takes three seconds of a core, as much as most of what tests do in such a process; a fork
takes none. Nothing but the import has happened in the process that forks: no op has run, so that no
thread of TensorFlow's has been started, and this package is not imported. A child leaves as any
interpreter does, through its exit handlers.

As a program it is that process. It reads jobs, a line of JSON each: `code`, `environment`, `folder`
(the working directory) and the files `stdout` and `stderr`. It answers each with the child's number
as it starts, and with its exit code as it ends.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path


class Forker:
    """A process that has imported TensorFlow, and forks one child after the other.

    Args:
        environment: Its variables.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=dict(environment),
            cwd=tempfile.gettempdir(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # an interrupt of the tests ends it by the end of its input
        )

    def run(
        self, code: str, environment: Mapping[str, str], folder: Path, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Runs code in a child, which is killed after `timeout` seconds."""
        with tempfile.TemporaryDirectory() as files:
            out, err = Path(files, "stdout"), Path(files, "stderr")
            job = {"code": code, "environment": dict(environment), "folder": str(folder)}
            self._write({**job, "stdout": str(out), "stderr": str(err)})
            child = self._read()
            assert self._process.stdout is not None
            if not select.select([self._process.stdout], [], [], timeout)[0]:
                os.kill(child, 9)
                self._read()
                raise subprocess.TimeoutExpired(code, timeout, out.read_text(), err.read_text())
            return subprocess.CompletedProcess(code, self._read(), out.read_text(), err.read_text())

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _write(self, job: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()

    def _read(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The process that forks ended: {self._process.wait()}.")
        return int(line)


def _child() -> str:
    """Forks for each job; gives, in a child, the code that it should run."""
    for line in sys.stdin.buffer:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            return _become(job)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def _become(job: dict[str, str]) -> str:
    """Takes a job's files, folder and variables for this process's own."""
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, job["stdout"], os.O_WRONLY | os.O_CREAT),
        (2, job["stderr"], os.O_WRONLY | os.O_CREAT),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.argv = ["-c"]
    return job["code"]


if __name__ == "__main__":
    import gc

    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    gc.collect()
    gc.freeze()  # children share what is there
    sys.path[0] = ""  # as for `python -c`
    code = compile(_child(), "<string>", "exec")
    exec(code, {"__name__": "__main__"})
