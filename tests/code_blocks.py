"""The code blocks of a page of documentation, for tests that run them.

A page's blocks run in order and share their names, as a reader would type them:

    names = run_page(path)             # all ```python blocks; a failing line is named with its page
    run_page(path, {"model": model})   # names that the page takes for given
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str = "python") -> list[tuple[int, str]]:
    """The line that each block begins on, counted from 1, and its text."""
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start(2)) + 1, match[2])
        for match in _BLOCK.finditer(text)
        if match[1] == language
    ]


def run_page(page: Path, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Runs a page's blocks and returns what they leave; a traceback shows the page's own lines."""
    names: dict[str, Any] = {"__name__": page.stem, **(given or {})}
    found = blocks(page)
    if not found:
        raise ValueError(f"`page` must have ```python blocks; received {page}, which has none.")
    for line, text in found:
        # Empty lines before it give every line of a block its number in the page.
        exec(compile("\n" * (line - 1) + text, str(page), "exec"), names)
    return names
