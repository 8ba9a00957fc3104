"""The command line: `tfcompress demo | info | compress | inspect | bench`."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

_INTERRUPTED = 130


def main() -> None:
    """Runs the command line; the entry point of `tfcompress`."""
    # TensorFlow reads it once, as it is loaded: 2 leaves warnings out and errors in.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    from tfcompress_ops.cli.app import app

    with _interrupts_noticed():
        app(prog_name="tfcompress")


@contextlib.contextmanager
def _interrupts_noticed() -> Iterator[None]:
    """Exits with 130 after an interrupt, whatever became of its exception.

    Python drops exceptions that are raised in callbacks and finalizers, and libraries below turn
    them into errors of their own.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, as in a shell's background jobs
        yield
        return
    interrupted = False

    def interrupt(number: int, frame: Any) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except BaseException:
        if not interrupted:
            raise
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        sys.exit(_INTERRUPTED)
