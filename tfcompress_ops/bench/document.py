"""The document of `--docs`: results in, Markdown and SVG files out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tfcompress_ops.bench.plots import draw
from tfcompress_ops.bench.report_page import facts, measured_at
from tfcompress_ops.bench.results import Results
from tfcompress_ops.bench.sections import Section, sections, typical
from tfcompress_ops.bench.tables import Grid, remarks
from tfcompress_ops.cli import files

_INTRODUCTION = """\
# Performance

Compressed layers against TensorFlow, Keras and other engines, on one machine on {date}. This page
is written by one command, which takes some 15 minutes on 2 cores:

<!-- not run: minutes; tests/test_bench_whole.py runs it in small -->
```sh
{command}
```

Layers of random weights run in long chains inside one graph, so that what a call costs hardly
counts; all cases run in turn, in changing order, in bursts. Times are medians over the bursts,
ratios are taken within each round. Cases in bold, and colours in plots, are this package's. With
`--html page.html` the same is drawn as a page, on which pointing at a dot tells its numbers; with
`--json` it can be compared with a later run: `tfcompress bench compare OLD.json NEW.json`.
"""


def write(path: Path, runs: Sequence[Results]) -> None:
    """Writes the document, and its plots into a folder beside it of the same name.

    Plots that are no longer part of it are removed.

    Args:
        path: Of the Markdown file; its folder must exist.
        runs: One at least.
    """
    found = sections(runs)
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    pictures = {
        f"{figure.name}.svg": draw(figure.picture, standalone=True)
        for section in found
        for figure in section.figures
    }
    for old in folder.glob("*.svg"):
        if old.name not in pictures:
            old.unlink()
    for name, text in pictures.items():
        files.write_text(folder / name, text)
    files.write_text(path, "\n".join(_lines(path, runs, found)) + "\n")


def _lines(path: Path, runs: Sequence[Results], found: Sequence[Section]) -> Iterator[str]:
    main = typical(runs)
    when = measured_at(main)
    yield _INTRODUCTION.format(
        date=f"{when.day} {when:%B %Y}", command=f"tfcompress bench all --docs {path}"
    )
    yield from _table(["", ""], [[name, value] for name, value in facts(main)], {0, 1})
    for section in found:
        yield f"## {section.title}\n"
        yield f"{section.text}\n"
        for figure in section.figures:
            yield f"![{figure.title}: {figure.picture.title}]({path.stem}/{figure.name}.svg)\n"
        for grid in section.grids:
            yield from _grid(grid)
        for grid in section.numbers:
            yield "<details>"
            yield f"<summary>{grid.title}</summary>\n"
            yield from _grid(grid, titled=False)
            yield "</details>\n"
    yield "## Notes\n"
    for run in runs:
        threads = f", threads: {run.threads}" if run.threads else ""
        yield f"- {run.suite}{threads}: {' '.join(remarks(run)) or 'nothing to remark.'}"


def _grid(grid: Grid, titled: bool = True) -> Iterator[str]:
    if titled:
        yield f"**{grid.title}**\n"
    rows = [
        [
            f"**{cell}**" if cell and index in grid.ours and column in _named(grid) else cell
            for column, cell in enumerate(row)
        ]
        for index, row in enumerate(grid.rows)
    ]
    yield from _table(grid.headings, rows, {0, *grid.left})


def _named(grid: Grid) -> set[int]:
    """The columns that name the case of a row."""
    return {index for index, heading in enumerate(grid.headings) if heading == "case"}


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> Iterator[str]:
    yield _row(headings)
    yield _row(["---" if column in left else "--:" for column in range(len(headings))])
    yield from (_row(row) for row in rows)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in cells) + " |"
