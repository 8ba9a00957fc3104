"""Every command and code block of README.md and docs/*.md is run here, or says why it is not.

The blocks of a page share one folder and one namespace, in order, like a notebook; what comments
before them say, code_blocks.py tells.
"""

import contextlib
import io
import re
import shlex
from dataclasses import replace
from pathlib import Path

import keras
import pytest
from code_blocks import blocks
from typer.testing import CliRunner

import tfcompress_ops as tfc
from tfcompress_ops import _loader
from tfcompress_ops.cli import app as app_module

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Commands that other runs cover, and which.
COVERED = {
    "pip install '.[cpu,demo]' && tfcompress demo": "tests/test_demo.py: in small",
    "pip install '.[cpu,test]' && pytest -n 2": ".ci/run: the whole command",
    "tfcompress demo": "tests/test_demo.py: in small",
}
# What a command gets here so that it takes seconds: its own sizes measure for minutes.
SMALLER = {"tfcompress bench": "--quick --no-peers --shape 32x32 --batch 1 --state hot"}
# Examples name these paths.
LIBRARY = re.compile(r"/path/to/[\w/]*libtfcompress_ops\.so")

pytestmark = [
    pytest.mark.usefixtures("quick_timing"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
]


def commands(code: str) -> list[str]:
    """The commands of a shell block, without comments, lines joined at a backslash."""
    lines = code.replace("\\\n", " ").splitlines()
    stripped = (re.sub(r"\s+#.*$", "", line).strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def run_command(command: str, place: str) -> None:
    """Runs `tfcompress ...` in this process; anything else must be covered elsewhere."""
    if command in COVERED:
        return
    assert command.startswith("tfcompress "), f"{place}: no test runs {command!r}"
    more = next((text for start, text in SMALLER.items() if command.startswith(start)), "")
    result = CliRunner().invoke(app_module.app, shlex.split(f"{command} {more}")[1:])
    assert result.exit_code == 0, f"{place}: {command}\n{result.output}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the model that commands name."""
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    layers = [keras.Input((256,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(64)]
    model = keras.Sequential(layers)
    for name in ("MODEL.keras", "model.keras"):
        model.save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path, folder: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.reason is not None:
            continue
        if block.language == "python":
            code = LIBRARY.sub(str(_loader.LIBRARY), block.code)
            with contextlib.redirect_stdout(io.StringIO()):
                replace(block, code=code).run(names)
        elif block.language == "sh":
            for command in commands(block.code):
                (folder / "OUT.keras").unlink(missing_ok=True) if "-o OUT" in command else None
                run_command(command, block.place)
        else:
            pytest.fail(f"{block.place}: a block of {block.language or 'no language'} is not run")


def test_commands_that_are_covered_elsewhere_are_still_there() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for command, where in COVERED.items():
        assert command in text, command
        assert (ROOT / where.split(":")[0]).is_file(), where


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_exist(page: Path) -> None:
    """`tfc.compress` and alike, in code and in prose."""
    for name in sorted(set(re.findall(r"\btfc((?:\.[A-Za-z_]\w*)+)", page.read_text()))):
        value: object = tfc
        for part in name.split(".")[1:]:
            assert hasattr(value, part), f"{page.name}: tfc{name}"
            value = getattr(value, part)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_inline_commands_exist(page: Path) -> None:
    """`tfcompress bench int8 --json` in a sentence: the command and its options are there."""
    for span in re.findall(r"`(tfcompress [a-z][^`]*)`", page.read_text()):
        words = span.replace("\n", " ").split()[1:]
        command = [word for word in words[:2] if re.fullmatch(r"[a-z]+\d*", word)]
        shown = CliRunner().invoke(
            app_module.app, [*command, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}
        )
        assert shown.exit_code == 0, f"{page.name}: {span}"
        for option in (word for word in words if word.startswith("--")):
            assert option in shown.output, f"{page.name}: {span} has no {option}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
