"""Files that appear whole or not at all: written beside their place, then moved into it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write a file or directory to, and moves it to `path` at the end.

    Where the block raises, `path` is left as it was and the temporary file is removed.

    Args:
        path: the final place; its directory must exist.

    Yields:
        A path of the same name in a new directory beside `path`.
    """
    # Named before it is made, so that an interrupt at any moment leaves nothing behind.
    directory = path.parent / f".tfcompress-{secrets.token_hex(8)}"
    try:
        directory.mkdir(mode=0o700)
        temporary = directory / path.name
        yield temporary
        if not path.is_dir() and not temporary.is_dir():
            os.replace(temporary, path)
            return
        # A directory cannot be replaced in one step: the old one steps aside first.
        aside = directory / "old"
        if path.exists():
            os.replace(path, aside)
        try:
            os.replace(temporary, path)
        except BaseException:
            if aside.exists() and not path.exists():
                os.replace(aside, path)
            raise
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    """Removes a directory, even if it is interrupted once."""
    try:
        shutil.rmtree(directory, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file, UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
