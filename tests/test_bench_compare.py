"""`tfcompress bench compare`: what it names, what it lets pass, and what it refuses."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tfcompress_ops.bench import results
from tfcompress_ops.bench.cases import CaseFacts
from tfcompress_ops.bench.cli import app
from tfcompress_ops.bench.compare import compare
from tfcompress_ops.bench.results import Measurement, Results
from tfcompress_ops.bench.timing import Timing

OTHERS = ("dense", "litert", "keras")


def timing(microseconds: float, spread: float = 0.01) -> Timing:
    """A median of exactly `microseconds`, quartiles `spread` away from it."""
    shares = (1 - 2 * spread, 1 - spread, 1, 1 + spread, 1 + 2 * spread)
    return Timing.from_samples([microseconds * share for share in shares])


def measured(case: str, layer: Timing, batch: int = 1) -> Measurement:
    return Measurement(
        subject="64 x 32",
        case=case,
        arithmetic="int8",
        batch=batch,
        state="hot",
        mode="bursts",
        layer=layer,
        layers=10,
        distinct=2,
        weight_bytes=2048,
        call_overhead_us=0.1,
        operations=2 * 64 * 32 * batch,
    )


def run(times: dict[str, Timing], **changes: object) -> Results:
    values: dict[str, object] = {
        "suite": "int8",
        "baseline": "dense",
        "reference": "litert",
        "measurements": [measured(case, layer) for case, layer in times.items()],
        "cases": {name: CaseFacts("" if name in OTHERS else "int8") for name in times},
        "machine": {"processor": "one", "cpus": 2, "kernels": {"tier": "avx2"}},
        "versions": {"python": "3.11"},
        "settings": {"threads": 2},
    }
    return Results(**{**values, **changes})  # type: ignore[arg-type]


def usual(**times: Timing) -> dict[str, Timing]:
    return {"dense": timing(10), "litert": timing(5), "keras": timing(20), **times}


# What is found


@pytest.mark.parametrize(
    ("after", "verdict"),
    [(1.0, "same"), (1.04, "same"), (1.06, "slower"), (0.96, "same"), (0.9, "faster")],
)
def test_changes_beyond_the_threshold_are_named(after: float, verdict: str) -> None:
    found = compare([run(usual(ours=timing(2)))], [run(usual(ours=timing(2 * after)))])
    change = next(change for change in found.changes if change.key.case == "ours")
    assert change.verdict == verdict
    assert change.ratio == pytest.approx(after)
    others = [change.verdict for change in found.changes if change.key.case != "ours"]
    assert others == ["same"] * 3
    assert [c.key.case for c in found.regressions] == ["ours"] * (verdict == "slower")


@pytest.mark.parametrize("after", [1.2, 0.8])
@pytest.mark.parametrize("spreads", [(0.3, 0.01), (0.01, 0.3)])
def test_changes_within_the_spread_of_either_run_are_unclear(
    after: float, spreads: tuple[float, float]
) -> None:
    old, new = timing(2, spreads[0]), timing(2 * after, spreads[1])
    found = compare([run({"ours": old})], [run({"ours": new})])
    assert [change.verdict for change in found.changes] == ["unclear"]
    assert not found.regressions


def test_noise_alone_is_no_regression() -> None:
    draw = random.Random(1)

    def noisy() -> Results:
        cases = {f"case {i}": [draw.gauss(10, 1) for _ in range(15)] for i in range(200)}
        return run({name: Timing.from_samples(samples) for name, samples in cases.items()})

    found = compare([noisy()], [noisy()])
    assert len(found.changes) == 200
    assert not found.regressions


def test_slowest_come_first() -> None:
    old = run({name: timing(1) for name in "abc"})
    new = run({"a": timing(1.5), "b": timing(3), "c": timing(0.5)})
    found = compare([old], [new])
    assert [change.key.case for change in found.changes] == ["b", "a", "c"]
    assert [change.key.case for change in found.regressions] == ["b", "a"]


def test_measurements_are_told_apart_by_all_that_they_are_of() -> None:
    ours = measured("ours", timing(1))
    kinds = [
        ours,
        replace(ours, batch=2),
        replace(ours, subject="32 x 64"),
        replace(ours, state="cold"),
        replace(ours, mode="alternating"),
    ]
    slow = [replace(m, layer=timing(2)) for m in kinds]
    for index in range(len(kinds)):
        new = [*kinds[:index], slow[index], *kinds[index + 1 :]]
        found = compare([run({}, measurements=kinds)], [run({}, measurements=new)])
        assert [c.key for c in found.regressions] == [
            found.regressions[0].key._replace(batch=slow[index].batch)
        ]
        assert found.regressions[0].key.subject == slow[index].subject
    one, two = (run({"ours": timing(n)}, settings={"threads": n}) for n in (1, 2))
    found = compare([one, two], [one, replace(two, measurements=[measured("ours", timing(3))])])
    assert [change.key.threads for change in found.regressions] == [2]


def test_missing_and_new_measurements_are_no_regressions() -> None:
    found = compare(
        [run({"a": timing(1), "b": timing(1)})], [run({"b": timing(1), "c": timing(9)})]
    )
    assert [key.case for key in found.gone] == ["a"]
    assert [key.case for key in found.added] == ["c"]
    assert not found.regressions


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(ValueError, match="that `old` holds too"):
        compare([run({"a": timing(1)})], [run({"b": timing(1)})])


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf")])
def test_thresholds_are_shares(threshold: float) -> None:
    with pytest.raises(ValueError, match="`threshold` must be 0 or more"):
        compare([run({"a": timing(1)})], [run({"a": timing(1)})], threshold)


def test_a_slower_machine_is_noticed_and_can_be_taken_out() -> None:
    old = run(usual(ours=timing(2)))
    new = run({name: layer.scaled(1.5) for name, layer in usual(ours=timing(2)).items()})
    plain = compare([old], [new])
    assert len(plain.regressions) == 4
    assert plain.drift == pytest.approx(1.5)
    relative = compare([old], [new], relative=True)
    assert {change.key.case for change in relative.changes} == {"ours", "litert", "keras"}
    assert not relative.regressions
    slower = run({name: layer.scaled(1.5) for name, layer in usual(ours=timing(3)).items()})
    assert [c.key.case for c in compare([old], [slower], relative=True).regressions] == ["ours"]


def test_relative_times_are_taken_round_by_round() -> None:
    # One slow phase in the older run, which both cases went through.
    dense, ours = [10.0, 50.0, 10.0], [2.0, 10.0, 2.0]
    old = run({"dense": Timing.from_samples(dense), "ours": Timing.from_samples(ours)})
    new = run({"dense": timing(10), "ours": timing(2)})
    (change,) = compare([old], [new], relative=True).changes
    assert (change.old.q1_us, change.old.q3_us) == pytest.approx((0.2, 0.2))


def test_drift_needs_other_engines() -> None:
    assert compare([run({"ours": timing(1)})], [run({"ours": timing(2)})]).drift is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": {"processor": "two", "cpus": 2, "kernels": {"tier": "avx2"}}}, "was one, is"),
        ({"machine": {"processor": "one", "cpus": 2, "kernels": {"tier": "avx512"}}}, "avx512 now"),
        ({"versions": {"python": "3.12"}}, "python was 3.11, is 3.12"),
        ({"versions": {"python": "3.11", "keras": "3"}}, "keras was not installed, is 3"),
    ],
)
def test_other_machines_and_versions_are_warned_of(
    changes: dict[str, object], message: str
) -> None:
    old = run(usual())
    assert not compare([old], [old]).warnings
    warnings = compare([old], [run(usual(), **changes)]).warnings
    assert len(warnings) == 1
    assert message in warnings[0]


def test_a_busy_machine_is_warned_of() -> None:
    busy = run(usual(), machine={**run({}).machine, "other_load": 0.4})
    assert "40% of the CPUs during the newer" in compare([run(usual())], [busy]).warnings[0]


# The command


def write(path: Path, *runs: Results) -> str:
    path.write_text(results.to_json(list(runs)))
    return str(path)


def test_command_names_regressions_and_fails(tmp_path: Path) -> None:
    old = write(tmp_path / "old.json", run(usual(ours=timing(2))))
    new = write(tmp_path / "new.json", run(usual(ours=timing(3), litert=timing(4))))
    file = tmp_path / "comparison.json"
    outcome = CliRunner().invoke(app, ["compare", old, new, "--json", str(file)])
    assert outcome.exit_code == 3, outcome.output
    text = " ".join(outcome.output.split())
    for part in ("Slower", "ours", "+50.0 %", "Faster", "-20.0 %", "1 slower by more than 5 %"):
        assert part in text
    found = json.loads(file.read_text())
    slower = [change for change in found["changes"] if change["verdict"] == "slower"]
    assert [(change["case"], change["ratio"]) for change in slower] == [
        ("ours", pytest.approx(1.5))
    ]


def test_command_succeeds_without_regressions(tmp_path: Path) -> None:
    old = write(tmp_path / "old.json", run(usual(ours=timing(2))))
    new = write(tmp_path / "new.json", run(usual(ours=timing(3))))
    assert CliRunner().invoke(app, ["compare", old, old]).exit_code == 0
    assert CliRunner().invoke(app, ["compare", new, old]).exit_code == 0
    outcome = CliRunner().invoke(app, ["compare", old, new, "--threshold", "60%"])
    assert outcome.exit_code == 0
    assert "0 slower by more than 60 %" in outcome.output


@pytest.mark.parametrize("threshold", ["much", "-1%", "nan", ""])
def test_command_explains_thresholds(tmp_path: Path, threshold: str) -> None:
    file = write(tmp_path / "r.json", run(usual()))
    outcome = CliRunner().invoke(app, ["compare", file, file, f"--threshold={threshold}"])
    assert outcome.exit_code == 1
    assert "--threshold must be a number of per cent" in " ".join(outcome.output.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("no JSON", "must be JSON"),
        ('{"version": 1}', "`version` must be 2"),
        ('{"version": 2, "runs": []}', "holds no run"),
    ],
)
def test_command_explains_files(tmp_path: Path, content: str | None, message: str) -> None:
    good, bad = write(tmp_path / "good.json", run(usual())), tmp_path / "bad.json"
    if content is not None:
        bad.write_text(content)
    for arguments in ((good, str(bad)), (str(bad), good)):
        outcome = CliRunner().invoke(app, ["compare", *arguments])
        assert outcome.exit_code == 1
        assert message in " ".join(outcome.output.split())
