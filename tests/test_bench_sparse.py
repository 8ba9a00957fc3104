"""The sparse suite: its cases, its figures, and speed by share of zeros."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from tfcompress_ops.bench import break_even_page, machine, results
from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.chains import Workload, graph_kept, random_problem
from tfcompress_ops.bench.cli import app
from tfcompress_ops.bench.format_case import FormatCase
from tfcompress_ops.bench.peers import BASELINE
from tfcompress_ops.bench.results import Measurement, Results
from tfcompress_ops.bench.sparse import SPARSE
from tfcompress_ops.bench.sparsity import (
    Curve,
    break_even,
    curves,
    sweep,
    to_json,
    with_families,
)
from tfcompress_ops.bench.suites import suites
from tfcompress_ops.bench.timing import Timing

PRUNED = {
    case.name: case for case in SPARSE.cases(list(SPARSE.variants)) if case.density(64, 64) < 1
}
SPARSITIES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def threads() -> list[str]:
    current = tf.config.threading.get_intra_op_parallelism_threads() or machine.available_cpus()
    return ["--threads", str(current)]


# The suite


def test_suite_is_known() -> None:
    assert SPARSE in suites()
    assert list(SPARSE.variants) == [
        "float32-80",
        "float32-90",
        "float32-95",
        "float32-4:64",
        "float32-balanced-90",
        "bfloat16-90",
        "int8-90",
        "int8-16:64",
        "int8-8:64",
        "int8-4:64",
        "int8-balanced-90",
    ]
    names = [case.name for case in SPARSE.cases(list(SPARSE.variants))]
    assert len(set(names)) == len(names)
    assert {BASELINE.name, SPARSE.reference, "litert int8"} <= set(names)


def test_some_variants_run_by_default() -> None:
    ours = [SPARSE.variants[name] for name in SPARSE.defaults]
    assert SPARSE.cases(peers=False) == [*ours, BASELINE]
    assert SPARSE.cases(["float32-80"], peers=False) == [SPARSE.variants["float32-80"], BASELINE]
    with pytest.raises(ValueError, match=r"`--weights` must be one of float32-80.*received 80"):
        SPARSE.cases(["80"])


def test_all_pruned_cases_are_tested() -> None:
    assert len(PRUNED) == len(SPARSE.variants) + 3


@pytest.mark.parametrize("name", PRUNED)
def test_pruned_weights_are_not_the_dense_ones(name: str) -> None:
    # Otherwise the tolerance that every case is held to would hold for anything.
    case = PRUNED[name]
    if (command := case.missing()) is not None:
        pytest.skip(f"{name} is not installed: {command}")
    problem = random_problem(Workload(128, 64, 3), distinct=2)
    with graph_kept():
        output = case.build(problem).output()
    layer = problem.weights[1]
    for kernel, right in ((case.weights(layer.kernel), True), (layer.kernel, False)):
        expected = problem.inputs[1].astype(np.float64) @ kernel + layer.bias
        error = np.abs(output - expected).max() / np.abs(expected).max()
        assert (error <= case.tolerance) == right


@pytest.mark.parametrize("name", PRUNED)
def test_density_is_the_share_of_weights_left(name: str) -> None:
    case = PRUNED[name]
    kernel = np.random.default_rng(1).standard_normal((256, 128), dtype=np.float32)
    left = np.count_nonzero(case.weights(kernel)) / kernel.size
    assert 0.04 < left < 0.26
    assert case.density(256, 128) == pytest.approx(left, rel=0.01)


def test_dense_cases_multiply_every_weight() -> None:
    kernel = np.zeros((4, 4), np.float32)
    for suite in suites():
        for case in suite.cases():
            if case.name not in PRUNED:
                assert case.density(64, 32) == 1
                np.testing.assert_array_equal(case.weights(kernel), kernel)


def test_a_sample_is_packed_once_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    case = FormatCase(SPARSE.variants["float32-90"].format, "op", "float32", 0.0)  # type: ignore[attr-defined]
    packed: list[tuple[int, ...]] = []
    pack = type(case.format).pack

    def counted(self: object, kernel: np.ndarray, calibration: object = None) -> object:
        packed.append(kernel.shape)
        return pack(self, kernel, calibration)  # type: ignore[arg-type]

    monkeypatch.setattr(type(case.format), "pack", counted)
    sizes = [case.weight_bytes(64, 32), case.weight_bytes(64, 32), case.weight_bytes(32, 64)]
    assert case.density(64, 32) == pytest.approx(0.1, abs=0.01)
    assert packed == [(64, 32), (32, 64)]
    assert sizes[0] == sizes[1]
    assert 0.1 * 64 * 32 * 5 < sizes[0] < 4 * 64 * 32


# Figures


def measurement(case: str, microseconds: float, density: float = 1.0) -> Measurement:
    return Measurement(
        subject="1000 x 500",
        case=case,
        arithmetic="float32",
        batch=1,
        state="hot",
        mode="bursts",
        layer=Timing.from_samples([microseconds] * 3),
        layers=10,
        distinct=2,
        weight_bytes=1,
        call_overhead_us=0.1,
        operations=2 * 1000 * 500,
        density=density,
    )


def make_results(*measurements: Measurement) -> Results:
    return Results(
        suite="sparse",
        baseline="dense",
        reference="int8",
        measurements=list(measurements),
        peaks={"float32_gflops": 500.0},
    )


def test_zeros_are_no_work() -> None:
    found = make_results(measurement("dense", 4.0), measurement("pruned", 2.0, density=0.1))
    dense, pruned = found.measurements
    assert (dense.gops, pruned.gops) == pytest.approx((250, 500))
    assert found.share_of_peak(dense) == pytest.approx(0.5)
    assert found.share_of_peak(pruned) == pytest.approx(0.1)


def test_density_is_written_and_may_be_absent() -> None:
    found = make_results(measurement("pruned", 2.0, density=0.1))
    text = results.to_json([found])
    assert results.from_json(text) == [found]
    document = json.loads(text)
    del document["runs"][0]["measurements"][0]["density"]
    assert results.from_json(json.dumps(document))[0].measurements[0].density == 1


# Break-even


def test_break_even_interpolates_the_time() -> None:
    # Times of the dense one's: 1.5 and 0.5, equal half way.
    assert break_even([0.0, 0.5], [1 / 1.5, 2.0]) == pytest.approx(0.25)
    assert break_even([0.0, 0.5, 0.9], [0.5, 1.0, 4.0]) == 0.5


def test_break_even_is_the_last_crossing() -> None:
    assert break_even([0.0, 0.2, 0.4, 0.6], [0.5, 2.0, 0.8, 4.0]) == pytest.approx(0.45)
    assert break_even([0.0, 0.5, 0.9], [0.5, 2.0, 0.9]) is None


def test_break_even_at_the_ends() -> None:
    assert break_even([0.1, 0.5], [1.0, 3.0]) == 0.1
    assert break_even([0.1, 0.5], [0.2, 0.9]) is None
    assert break_even([0.3], [2.0]) == 0.3


@pytest.mark.parametrize("numbers", [([], []), ([0.5], [1.0, 2.0])])
def test_break_even_needs_as_many_speed_ups(numbers: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="equally many numbers"):
        break_even(*numbers)


class Named(Case):
    """A case that is never built."""

    weight_bytes = build = None  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def drawn() -> tuple[Results, list[Curve]]:
    """A layer that takes 2 us and 20 us times the share of weights left: 10 us at 60 %."""
    cases = sweep({"float32-balanced": lambda sparsity: Named(f"pruned {sparsity}")})
    found = make_results(
        measurement("dense", 10.0),
        measurement("int8", 1.0),
        measurement("other", 1.0),
        *(measurement(case.name, 2 + 20 * (1 - zeros)) for (_, zeros), case in cases.items()),
    )
    found = with_families(found, cases)
    return found, curves(found)


def test_curves_are_drawn_against_both_dense_cases(drawn: tuple[Results, list[Curve]]) -> None:
    against_dense, against_int8 = drawn[1]
    assert (against_dense.over, against_int8.over) == ("dense", "int8")
    assert against_dense.sparsities == SPARSITIES
    assert against_dense.speed_ups[:2] == pytest.approx((10 / 22, 10 / 17))
    assert against_dense.break_even == pytest.approx(0.6)
    assert against_dense.break_even_text == "60 %"
    assert against_int8.break_even is None
    assert against_int8.break_even_text == "never to 99 %"


def test_curves_are_written(drawn: tuple[Results, list[Curve]]) -> None:
    document = json.loads(to_json(*drawn))
    assert [curve["family"] for curve in document["curves"]] == ["float32-balanced"] * 2
    assert document["curves"][0]["break_even"] == pytest.approx(0.6)
    assert document["curves"][1]["break_even"] is None
    assert results.from_json(json.dumps(document)) == [drawn[0]]


def test_page_shows_curves_where_they_are(drawn: tuple[Results, list[Curve]]) -> None:
    html = break_even_page.render(*drawn)
    assert "<script" not in html
    assert not re.search(r"(src|href)=", html)
    lines = re.findall(r'<path class="curve float32 balanced" d="M([^"]+)"/>', html)
    # Against dense: ticks from 0.2 to 5, of which 1 is in the middle.
    points = [tuple(map(float, point.split())) for point in lines[0].split("L")]
    assert [across for across, _ in points] == pytest.approx([100 * zeros for zeros in SPARSITIES])
    assert points[0][1] == pytest.approx(50 + 50 * np.log(22 / 10) / np.log(5), abs=0.01)
    assert points[3][1] == pytest.approx(50, abs=0.01)
    crossings = re.findall(r'class="crossing float32 balanced" d="M(\S+) (\S+)h0"', html)
    assert [(round(float(x)), round(float(y))) for x, y in crossings] == [(60, 50)]
    for text in (
        "Against dense",
        "Against int8",
        "60 %",
        "never to 99 %",
        "0.45\N{MULTIPLICATION SIGN}",
    ):
        assert text in html


# Commands


def test_command_writes_tables_and_json(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    arguments = ["--quick", "--shape", "48x32", "--state", "hot", "--mode", "bursts"]
    outcome = CliRunner().invoke(app, ["sparse", *arguments, "--json", str(path), *threads()])
    assert outcome.exit_code == 0, outcome.output
    for text in ("sparse: hot, bursts", "dense-equivalent", "Speed-up over int8 dynamic"):
        assert text in outcome.output
    (found,) = results.from_json(path.read_text())
    names = [measurement.case for measurement in found.measurements]
    assert {*names, *found.missing} == {case.name for case in SPARSE.cases()}
    assert found.measurements[0].density == pytest.approx(0.1, abs=0.01)


def test_break_even_writes_tables_page_and_json(tmp_path: Path) -> None:
    page, path = tmp_path / "page.html", tmp_path / "curves.json"
    arguments = ["--break-even", "--quick", "--weights", "float32,int8-balanced"]
    files = ["--page", str(page), "--json", str(path)]
    outcome = CliRunner().invoke(app, ["sparse", *arguments, *files, *threads()])
    assert outcome.exit_code == 0, outcome.output
    for text in ("48 x 32, hot, bursts: break-even", "speed-up by share of zeros", f"Open {page}"):
        assert text in " ".join(outcome.output.split())
    found = json.loads(path.read_text())["curves"]
    assert [(curve["family"], curve["over"]) for curve in found] == [
        (family, over)
        for over in (BASELINE.name, SPARSE.reference)
        for family in ("float32", "int8-balanced")
    ]
    assert all(len(curve["speed_ups"]) == 3 for curve in found)
    assert "Against tf.matmul" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["int8", "--break-even"], "bench int8 has none of"),
        (["sparse", "--break-even", "--weights", "int8-90"], "one of float32, float32-balanced,"),
        (["sparse", "--break-even", "--page", "no/such/folder/p.html"], "--page must be in"),
        (["sparse", "--weights", "float32"], "must be one of float32-80, float32-90"),
    ],
)
def test_command_explains_wrong_values(arguments: list[str], message: str) -> None:
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 1
    assert message in " ".join(outcome.output.split())


def test_break_even_is_offered_where_there_are_zeros() -> None:
    for suite in suites():
        help_text = CliRunner().invoke(app, [suite.name, "--help"]).output
        assert ("--break-even" in help_text) == bool(suite.families)
