"""A hook of MkDocs: pages made from files at the root of the repository, and from the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")

# Public names by the package that they come from; those of any other module are about whole models.
FAMILIES = {
    "models": (
        "Models",
        "What makes one Keras model of another, and tells about it. `import tfcompress_ops as tfc` "
        "throughout.",
    ),
    "formats": (
        "Formats",
        "A format says how one weight matrix `[K, N]` is stored, and which op multiplies by it. "
        "It is a value: pass it to `tfc.compress`, or to a layer as `format=`.",
    ),
    "methods": (
        "Methods",
        "A method changes a float model's weights or structure, and knows no format.",
    ),
}


def on_config(config: Any) -> Any:
    """Fills in the navigation: every page of docs/, and every page of the reference."""
    found = {
        "Guides": sorted(path.name for path in (ROOT / "docs").glob("*.md")),
        "Reference": [name for name, _ in _reference()],
    }
    for section in config["nav"]:
        for title in found.keys() & section.keys():
            section[title] = found[title]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of the root, and those made from the code."""
    from mkdocs.structure.files import File

    texts = {page: (ROOT / source).read_text() for source, page in PAGES.items()}
    for name, text in {**texts, **dict(_reference())}.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Leads links between files of the repository to pages; what is no page loses its link."""
    depth = page.file.src_uri.count("/")

    def lead(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        name = re.sub(r"^(\.\./|docs/)*", "", target)
        for found in (PAGES.get(name), name, target):
            if found is not None and files.get_file_from_path(found) is not None:
                return f"[{text}]({'../' * depth}{found}{anchor})"
        return text

    return LINK.sub(lead, markdown)


def _reference() -> Iterator[tuple[str, str]]:
    """The pages of the API, name and Markdown: every public name is on one of them."""
    import tfcompress_ops as tfc

    found: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for name, home in tfc._HOMES.items():
        module, _, attribute = home.partition(":")
        if attribute:
            found[module if module in FAMILIES else "models"].append(name)
    for family, (title, summary) in FAMILIES.items():
        yield f"reference/{family}.md", _page(title, summary, found[family])
    modules = [name for name, home in tfc._HOMES.items() if ":" not in home and name != "formats"]
    for name in modules:
        module = getattr(tfc, name)
        summary = inspect.getdoc(module) or ""
        if name == "kernels":
            yield f"reference/{name}.md", _kernels(summary, module)
            continue
        names = [f"{name}.{each}" for each in getattr(module, "__all__", _defined(module))]
        yield f"reference/{name}.md", _page(name.capitalize(), summary, names)
    yield "reference/command_line.md", _command_line()


def _defined(module: Any) -> list[str]:
    """Public classes and functions that a module defines, in its order."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        if inspect.isclass(value) or inspect.isfunction(value)
    ]


def _page(title: str, summary: str, names: list[str]) -> str:
    entries = "\n\n".join(f"::: tfcompress_ops.{name}" for name in names)
    return f"# {title}\n\n{summary}\n\n{entries}\n"


def _kernels(summary: str, module: Any) -> str:
    """Compiled functions, whose signatures are in their docstrings."""
    parts = [f"# Kernels\n\n{summary}\n"]
    for name in module.__all__:
        signature, _, text = (inspect.getdoc(getattr(module, name)) or "").partition("\n")
        parts.append(f"## {name}\n\n```python\n{signature}\n```\n\n{text.strip()}\n")
    return "\n".join(parts)


def _command_line() -> str:
    """The help of every command, as its parser knows it."""
    from tfcompress_ops.cli.app import app

    group: Any = typer.main.get_command(app)
    context = group.make_context("tfcompress", [], resilient_parsing=True)
    return "\n".join(["# Command line", "", *_command(group, "tfcompress", context)])


def _command(command: Any, path: str, context: Any) -> Iterator[str]:
    if " " in path:
        yield f"## {path}\n"
    yield re.sub(r"\[/?[a-z ]*\]", "", inspect.cleandoc(command.help or "")) + "\n"
    yield from _options(command.params)
    if command.epilog:
        yield command.epilog + "\n"
    for name in getattr(command, "commands", {}):
        child = command.resolve_command(context, [name])[1]
        child_context = child.make_context(name, [], parent=context, resilient_parsing=True)
        yield from _command(child, f"{path} {name}", child_context)


def _options(parameters: list[Any]) -> Iterator[str]:
    shown = [each for each in parameters if not getattr(each, "hidden", False)]
    if shown:
        yield "| | |\n|---|---|"
    for each in shown:
        names = " ".join(f"`{name}`" for name in (*each.opts, *each.secondary_opts))
        text = " ".join((getattr(each, "help", None) or "").split()).replace("|", "\\|")
        yield f"| {names} | {text} |"
    yield ""
