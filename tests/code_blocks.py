"""The code blocks of a page of documentation, for tests that run them.

A page's blocks run in order and share their names, as a reader would type them. A comment before a
block, which readers of the rendered page do not see, says what is special:

    <!-- setup
    model = ...                what the page takes for granted: Python that is run, too
    -->
    <!-- not run: REASON -->   the next block is left out
"""

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BLOCK = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->$"
    r"|(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block, or a setup comment."""

    page: Path
    line: int  # of its first line of code, counted from 1
    language: str
    code: str
    reason: str | None  # why it is not run

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.name}:{self.line}"

    def run(self, names: dict[str, Any]) -> None:
        """Runs Python; a traceback shows the page's own lines."""
        # Empty lines before it give every line of a block its number in the page.
        exec(compile("\n" * (self.line - 1) + self.code, str(self.page), "exec"), names)


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        part = "code" if match["setup"] is None else "setup"
        line = text.count("\n", 0, match.start(part)) + 1
        language = match["language"] if part == "code" else "python"
        found.append(Block(page, line, language, textwrap.dedent(match[part]), match["reason"]))
    return found


def run_page(page: Path, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Runs a page's Python and returns the names that it leaves.

    Args:
        page: The page.
        given: Names that it takes for granted.
    """
    names: dict[str, Any] = {"__name__": "__main__", **(given or {})}
    for block in blocks(page):
        if block.language == "python" and block.reason is None:
            block.run(names)
    return names
