"""Plots, pages and documents of results: that all is there, where it belongs, and reads as SVG."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tfcompress_ops.bench import document, report_page, results
from tfcompress_ops.bench.cases import CaseFacts
from tfcompress_ops.bench.cli import app
from tfcompress_ops.bench.plots import (
    Guide,
    Mark,
    Plot,
    Rows,
    Scale,
    Series,
    draw,
    logarithmic,
    spread,
)
from tfcompress_ops.bench.results import Measurement, Results
from tfcompress_ops.bench.sections import sections
from tfcompress_ops.bench.tables import (
    Grid,
    common_batches,
    overhead_grids,
    overheads,
    summary_grids,
)
from tfcompress_ops.bench.timing import Timing

CASES = {
    "ours <1>": CaseFacts("int8"),
    "dense": CaseFacts(),
    "ours <1>, kernel": CaseFacts("int8", "kernel", "ours <1>"),
    "ours <1>, eager": CaseFacts("int8", "eager", "ours <1>"),
}
PEAKS = {"float32_gflops": 100.0, "int8_gops": 400.0, "dram_read_gbs": 20.0}


def measured(case: str, us: float, k: int = 64, n: int = 32, batch: int = 1) -> Measurement:
    return Measurement(
        subject=f"{k} x {n}",
        case=case,
        arithmetic="int8",
        batch=batch,
        state="hot",
        mode="bursts",
        layer=Timing.from_samples([us] * 3),
        layers=10,
        distinct=2,
        weight_bytes=k * n,
        call_overhead_us=6.0,
        operations=2 * k * n * batch,
        activation_bytes=4 * batch * (k + n),
    )


def run(suite: str, measurements: list[Measurement], **changes: object) -> Results:
    values: dict[str, object] = {
        "cases": {name: facts for name, facts in CASES.items() if not facts.of},
        "peaks": PEAKS,
        "machine": {
            "processor": "one & only",
            "cpus": 2,
            "other_load": 0.25,
            "measured_at": "2025-03-09T10:20",
        },
        "versions": {"python": "3.11"},
        "settings": {"threads": 2},
    }
    return Results(suite, "dense", "reference", measurements, **{**values, **changes})  # type: ignore[arg-type]


def grid(factor: float = 1.0) -> list[Measurement]:
    sizes = ((64, 32), (128, 32), (256, 32))
    return [
        measured(case, factor * us * k * batch, k, 32, batch)
        for k, _ in sizes
        for batch in (1, 8)
        for case, us in (("ours <1>", 0.1), ("dense", 0.4))
    ]


@pytest.fixture
def runs() -> list[Results]:
    """A results file that has something for every section."""
    views = [
        measured("ours <1>", 3.0),
        measured("ours <1>, kernel", 1.6),
        measured("ours <1>, eager", 12.0),
    ]
    swept = {
        f"s {zeros}": CaseFacts("sparse", family="float32", sparsity=zeros)
        for zeros in (0.0, 0.5, 0.9)
    }
    sweep = [measured("dense", 4.0), *(measured(name, 2.0) for name in swept)]
    whole = [replace(m, subject="Dense, 64", error=1e-3) for m in grid() if m.subject == "64 x 32"]
    return [
        run("formats", grid()),
        run("formats", grid(2.0), settings={"threads": 1}),
        run("overhead", views, cases=CASES),
        run("sparse", sweep, cases={"dense": CaseFacts(), **swept}),
        run("layers", whole),
        run("models", [replace(m, subject="net") for m in whole]),
    ]


TITLES = [
    "Formats: speed-ups",
    "Against the machine's limits",
    "How the cost grows with the batch and with the layer",
    "How threads help",
    "From how many zeros on pruned weights pay",
    "What an op adds to its kernel",
    "Layers",
    "Models",
]


# Axes and places


def test_logarithmic_axes_hold_their_values() -> None:
    axis = logarithmic("us", [3.0, 47.0], "number")
    assert (axis.low, axis.high) == (2.0, 50.0)
    assert [text for _, text in axis.ticks] == ["2", "5", "10", "20", "50"]
    assert axis.share(10.0) == pytest.approx(0.5)
    wide = logarithmic("GOP/s", [0.02, 5000.0], "times")
    assert [text for _, text in wide.ticks] == [
        f"{text}\N{MULTIPLICATION SIGN}"
        for text in ("0.01", "0.1", "1", "10", "100", "1,000", "10,000")
    ]


def test_a_single_value_has_an_axis() -> None:
    axis = logarithmic("us", [5.0], "number")
    assert axis.low <= 5.0 < axis.high


def test_names_do_not_overlap() -> None:
    places = spread([50.0, 52.0, 51.0, 99.0], 10.0, 0.0, 100.0)
    assert sorted(places) == [places[0], places[2], places[1], places[3]]
    gaps = [b - a for a, b in zip(sorted(places), sorted(places)[1:], strict=False)]
    assert min(gaps) >= 10
    assert min(places) >= 0
    assert max(places) <= 100
    assert spread([5.0, 80.0], 10.0, 0.0, 100.0) == [5.0, 80.0]
    assert spread([], 10.0, 0.0, 100.0) == []


# Pictures


def plot(**changes: object) -> Plot:
    x = Scale("batch", [(1, "1"), (100, "100")], 1, 100)
    y = Scale("us", [(1, "1"), (10, "10")], 1, 10)
    marks = [Mark(1, 1, "a < b"), Mark(10, 10, "c", hollow=True)]
    values: dict[str, object] = {"title": "t & u", "x": x, "y": y, "series": [Series("<s>", marks)]}
    return Plot(**{**values, **changes})  # type: ignore[arg-type]


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def all_of(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return list(root.iter(f"{{http://www.w3.org/2000/svg}}{name}"))


def test_points_stand_where_their_values_are() -> None:
    root = parsed(draw(plot()))
    assert root.get("aria-label") == "t & u"
    low, middle = [c for c in all_of(root, "circle") if list(c)]
    left, top, bottom = 82, 18, 430 - 52
    width = 716 - 82 - 190
    assert (float(low.get("cx", 0)), float(low.get("cy", 0))) == (left, bottom)
    assert (float(middle.get("cx", 0)), float(middle.get("cy", 0))) == (left + width / 2, top)
    assert [title.text for title in all_of(root, "title")] == ["a < b", "c"]
    assert "hollow" in (middle.get("class") or "")
    texts = {text.text for text in all_of(root, "text")}
    assert {"<s>", "batch", "us", "1", "100", "10"} <= texts


def test_guides_are_drawn_and_named() -> None:
    guides = [Guide([(1, 10), (100, 10)], "peak"), Guide([(1, 1), (10, 10)])]
    root = parsed(draw(plot(guides=guides)))
    paths = [path.get("d") for path in all_of(root, "path") if path.get("class") == "guide"]
    assert paths == ["M82 18L526 18", "M82 378L304 18"]
    assert "peak" in {text.text for text in all_of(root, "text")}


def test_a_file_brings_its_colours() -> None:
    inside, alone = draw(plot()), draw(plot(), standalone=True)
    assert "<style>" not in inside
    assert "prefers-color-scheme: dark" in alone
    for name in set(re.findall(r"var\((--\w+)\)", alone)):
        assert f"{name}:" in alone
    parsed(alone)


def test_rows_hold_a_dot_for_each_mark() -> None:
    x = Scale("times", [(1, "1"), (10, "10")], 1, 10)
    series = [Series("a", [Mark(1, 0), Mark(10, 1)], 0), Series("b", [Mark(10, 0)], -1)]
    root = parsed(draw(Rows("t", x, ["first", "second"], series, one=1.0)))
    dots = [(c.get("cx"), c.get("cy")) for c in all_of(root, "circle") if list(c)]
    assert len(dots) == 3
    assert dots[1][0] == dots[2][0]
    assert dots[0][1] == dots[2][1] != dots[1][1]
    rows = [text.text for text in all_of(root, "text") if text.get("class") == "row"]
    assert rows == ["first", "second"]


# Tables


def test_overhead_is_what_an_op_adds_to_the_kernel_less_its_call(runs: list[Results]) -> None:
    (found,) = overheads(runs[2])
    # A call of the kernel takes 6 us for its 10 layers.
    assert found.kernel_us == pytest.approx(1.6 - 0.6)
    assert found.graph_overhead_us == pytest.approx(3.0 - 1.0)
    assert found.eager_overhead_us == pytest.approx(12.0 - 1.0)
    (table,) = overhead_grids(runs[2])
    assert table.rows == [
        ["64 x 32", "1", "ours <1>", "hot", "bursts", "1.00", "3.00", "2.00", "12.0", "11.0"]
    ]
    assert not overheads(runs[0])


def test_columns_without_cells_are_left_out() -> None:
    table = Grid("t", ["a", "b", "c"], left={2})
    table.add("1", "", "x", ours=True)
    table.begin_section()
    table.add("2", "", "y")
    kept = table.without_empty_columns()
    assert kept.headings == ["a", "c"]
    assert kept.rows == [["1", "x"], ["2", "y"]]
    assert (kept.left, kept.sections, kept.ours) == ({1}, {1}, {0})


# Pages and documents


def test_every_section_is_found(runs: list[Results]) -> None:
    found = sections(runs)
    assert [section.title for section in found] == TITLES
    names = [figure.name for section in found for figure in section.figures]
    assert len(set(names)) == len(names)
    assert names == [
        "formats-over-dense",
        "roofline",
        "formats-batch",
        "formats-size-1",
        "formats-size-8",
        "formats-threads-1",
        "formats-threads-8",
        "zeros-1",
        "overhead",
        *("layers-1", "layers-8", "models-1", "models-8"),
    ]


def test_threads_are_compared_at_equal_points(runs: list[Results]) -> None:
    threads = next(s for s in sections(runs) if s.title == "How threads help")
    picture = threads.figures[0].picture
    assert isinstance(picture, Plot)
    gains = {series.name: [(m.x, m.y) for m in series.marks] for series in picture.series}
    assert gains == {name: [(1, 1), (2, pytest.approx(2))] for name in ("ours <1>", "dense")}


@pytest.mark.parametrize("index", range(6))
def test_each_run_alone_makes_a_page(runs: list[Results], index: int) -> None:
    html = report_page.render([runs[index]])
    assert "<svg" in html
    assert "one &amp; only" in html


def test_page_is_complete_and_loads_nothing(runs: list[Results]) -> None:
    html = report_page.render(runs)
    assert "<script" not in html
    assert not re.search(r"""(src=|url\(|@import|href="(?!#))""", html)
    for title in TITLES:
        assert title.replace("'", "&#39;") in html
    pictures = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(pictures) == 13
    for picture in pictures:
        parsed(picture)
    assert "ours <1>" not in html
    assert html.count("ours &lt;1&gt;") > 50
    for text in (
        "9 March 2025, 10:20",
        "25 % of the CPUs",
        "python 3.11",
        "int8 gops 400",
        "All the numbers",
    ):
        assert text in html
    tags = re.findall(r"<(/?)(table|tr|figure|section|details|div|svg|g)\b[^>]*?(/?)>", html)
    for name in {name for _, name, _ in tags}:
        opened = sum(1 for end, tag, closed in tags if tag == name and not end and not closed)
        assert opened == sum(1 for end, tag, _ in tags if tag == name and end), name


def test_document_shows_each_picture_once(runs: list[Results], tmp_path: Path) -> None:
    path = tmp_path / "speed.md"
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "old.svg").write_text("left from another run")
    document.write(path, runs)
    text = path.read_text()
    shown = re.findall(r"!\[[^\]]+\]\((speed/[\w-]+\.svg)\)", text)
    assert len(shown) == 13
    assert {f"speed/{file.name}" for file in (tmp_path / "speed").iterdir()} == set(shown)
    for name in shown:
        parsed((tmp_path / name).read_text())
    for title in TITLES:
        assert f"## {title}\n" in text
    # Every table has as many cells in each row.
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert "**ours <1>**" in text
    assert "on 9 March 2025" in text


# The command


def test_command_shows_what_was_measured_before(runs: list[Results], tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(results.to_json(runs[:2]))
    two.write_text(results.to_json(runs[2:]))
    page, docs = tmp_path / "page.html", tmp_path / "docs.md"
    arguments = ["report", str(one), str(two), "--html", str(page), "--docs", str(docs)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "What an op adds to its kernel" in page.read_text()
    assert "## Models" in docs.read_text()
    outcome = CliRunner().invoke(app, ["report", str(one)])
    assert outcome.exit_code == 0, outcome.output
    assert "formats: hot, bursts" in outcome.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "no.json"], "no.json cannot be read"),
        (["all", "--html", "no/folder/page.html"], "--html must be in a folder that exists"),
        (["all", "--docs", "no/folder/page.md"], "--docs must be in a folder that exists"),
        (["all", "--threads", "0"], "whole numbers from 1"),
        (["all", "--shape", "5"], "--shape must be KxN"),
        (["layers", "--layers", "Dense,Lambda"], "`--layers` must be one of Dense"),
        (["layers", "--variants", "int4"], "`--variants` must be one of int8-dynamic"),
        (["layers", "--batch", "1.5"], "whole numbers from 1"),
        (["models", "--models", "GPT"], "`--models` must be one of ResNet50"),
        (["models", "--forms", "int4"], "`--forms` must be one of int8"),
        (["models", "--shape", "32x16"], "--shape must be one square"),
        (["int8", "--html", "no/folder/page.html"], "--html must be in a folder that exists"),
        (["sparse", "--break-even", "--kernel"], "--kernel does not go with --break-even"),
        (["sparse", "--break-even", "--threads", "1,2"], "takes one number of threads"),
    ],
)
def test_command_explains_wrong_values(arguments: list[str], message: str) -> None:
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 1, outcome.output
    assert message in " ".join(outcome.output.split())


def test_the_document_of_this_repository_is_complete() -> None:
    path = Path(__file__).parents[1] / "docs" / "performance.md"
    if not path.exists():
        pytest.skip("docs/ is not part of a source distribution")
    shown = re.findall(r"!\[[^\]]+\]\((performance/[\w-]+\.svg)\)", path.read_text())
    assert {f"performance/{file.name}" for file in path.with_suffix("").iterdir()} == set(shown)
    assert {"performance/roofline.svg", "performance/overhead.svg"} <= set(shown)


def test_means_are_taken_at_batches_that_all_layers_were_measured_at() -> None:
    more = [measured(case, 1.0, 64, 32, 64) for case in ("ours <1>", "dense")]
    measurements = [*more, *grid()]
    found = run("formats", measurements)
    assert common_batches(found, "hot") == [1, 8]
    assert common_batches(found, "cold") == []
    (table,) = summary_grids(found)
    assert table.headings == ["case", "mode", "batch 1", "batch 8"]
    assert table.rows == [["ours <1>", "bursts", "4.00x (4.00)", "4.00x (4.00)"]]
