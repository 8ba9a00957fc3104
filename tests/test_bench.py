"""The benchmark harness: its arithmetic, its chains, its files and its command."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import typer
from typer.testing import CliRunner

import tfcompress_ops
from tfcompress_ops.bench import chains, cli, machine, options, results, runner
from tfcompress_ops.bench.cases import Case, CaseFacts
from tfcompress_ops.bench.chains import TensorFlowLayer, Workload, graph_kept, random_problem
from tfcompress_ops.bench.cli import app
from tfcompress_ops.bench.peers import BASELINE, KerasInt8
from tfcompress_ops.bench.results import Measurement, Results
from tfcompress_ops.bench.suites import Suite, suites
from tfcompress_ops.bench.timing import Timing, interleave, quartiles

SUITES = {suite.name: suite for suite in suites()}
CASES = {
    case.name: case
    for suite in SUITES.values()
    for case in suite.cases(list(suite.variants), views=True)
}


def make_measurement(case: str, samples: list[float], **changes: object) -> Measurement:
    fields: dict[str, object] = {
        "subject": "1000 x 500",
        "arithmetic": "int8",
        "batch": 1,
        "state": "hot",
        "mode": "bursts",
        "layers": 10,
        "distinct": 2,
        "weight_bytes": 500_000,
        "call_overhead_us": 5.0,
        "operations": 2 * 1000 * 500,
        "activation_bytes": 6000,
    }
    layer = Timing.from_samples(samples, burst=4)
    return Measurement(case=case, layer=layer, **{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def sample_results() -> Results:
    return Results(
        suite="int8",
        baseline="dense",
        reference="peer",
        measurements=[
            make_measurement("ours", [1.0, 2.0, 3.0]),
            make_measurement("dense", [4.0, 8.0, 18.0]),
            make_measurement("ours", [10.0, 10.0, 10.0], subject="1000 x 600"),
            make_measurement("dense", [90.0, 90.0, 90.0], subject="1000 x 600"),
            make_measurement("dense", [1.0, 1.0, 1.0], state="cold"),
        ],
        peaks={"int8_gops": 1000.0, "float32_gflops": 250.0},
        missing={"other": "pip install other"},
        machine={"processor": "one"},
        versions={"python": "3"},
        settings={"threads": 2},
    )


# Timing


def test_quartiles_interpolate_between_samples() -> None:
    assert quartiles([4, 1, 3, 2]) == (1.75, 2.5, 3.25)
    assert quartiles([5, 1, 3]) == (2, 3, 4)
    assert quartiles([7]) == (7, 7, 7)


def test_quartiles_match_numpy() -> None:
    samples = np.random.default_rng(3).exponential(size=17).tolist()
    np.testing.assert_allclose(quartiles(samples), np.percentile(samples, [25, 50, 75]))


def test_quartiles_need_a_sample() -> None:
    with pytest.raises(ValueError, match="at least one number"):
        quartiles([])


def test_interleave_runs_bursts_and_changes_the_order() -> None:
    calls: list[str] = []
    cases = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    found = interleave(cases, rounds=6, burst=1, warmup=0)
    orders = ["".join(calls[start : start + 3]) for start in range(0, 18, 3)]
    assert {"".join(sorted(order)) for order in orders} == {"abc"}
    followers = {(a, b) for order in orders for a, b in pairwise(order)}
    assert len(followers) == 6, "each case has followed each other one"
    assert {name: len(timing.samples) for name, timing in found.items()} == dict.fromkeys("abc", 6)


def test_interleave_leads_in_before_a_burst() -> None:
    calls: list[int] = []
    found = interleave({"a": lambda: calls.append(0)}, rounds=1, burst=20, warmup=5)
    assert len(calls) == 5 + 2 + 20
    assert found["a"].burst == 20


def test_interleave_adapts_bursts_to_the_duration() -> None:
    cases = {"short": lambda: time.sleep(1e-3), "long": lambda: time.sleep(2e-2)}
    found = interleave(cases, rounds=1, warmup=0, burst_seconds=1e-2)
    assert found["long"].burst == 2
    assert 2 < found["short"].burst <= 10
    assert found["short"].median_us >= 1e3


def test_interleave_leads_in_only_where_asked() -> None:
    calls: list[int] = []
    interleave({"a": lambda: calls.append(0)}, rounds=1, burst=20, warmup=0, lead_in=False)
    assert len(calls) == 20


def test_interleave_keeps_to_its_budget() -> None:
    found = interleave({"a": lambda: None}, rounds=50, burst=1, budget_seconds=0.0)
    assert len(found["a"].samples) == 3


@pytest.mark.parametrize("changed", [{"rounds": 0}, {"burst": 0}, {"warmup": -1}])
def test_interleave_refuses_bad_counts(changed: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(changed))}`"):
        interleave({"a": lambda: None}, **{"rounds": 1, **changed})  # type: ignore[arg-type]


def test_timing_scales() -> None:
    scaled = Timing.from_samples([10, 20, 30], burst=2).scaled(0.1)
    assert (scaled.q1_us, scaled.median_us, scaled.q3_us) == pytest.approx((1.5, 2, 2.5))
    assert scaled.burst == 2


# Derived figures


def test_geometric_mean() -> None:
    assert results.geometric_mean([2, 8]) == pytest.approx(4)
    with pytest.raises(ValueError, match="at least one number"):
        results.geometric_mean([])


def test_speed_up_is_taken_within_rounds() -> None:
    # The second round ran on a machine five times slower: ratios are 4, 4 and 6.
    fast = Timing.from_samples([1.0, 5.0, 1.0])
    assert results.speed_up(fast, Timing.from_samples([4.0, 20.0, 6.0])) == 4
    assert results.speed_up(fast, Timing.from_samples([7.0])) == 7


def test_rates_and_shares(sample_results: Results) -> None:
    ours, dense = sample_results.measurements[:2]
    assert ours.gops == pytest.approx(2 * 1000 * 500 / 2e-6 / 1e9)
    assert sample_results.share_of_peak(ours) == pytest.approx(0.5)
    assert ours.overhead_share == pytest.approx(5 / (2 * 10))
    assert sample_results.speed_up(ours, "dense") == 4
    assert sample_results.speed_up(dense, "peer") is None


def test_intensity_counts_all_bytes_and_no_zeros() -> None:
    dense = make_measurement("dense", [1.0], weight_bytes=2_000_000)
    assert dense.intensity == pytest.approx(2 * 1000 * 500 / (2_000_000 + 6000))
    pruned = make_measurement("pruned", [2.0], weight_bytes=200_000, density=0.1)
    assert pruned.intensity == pytest.approx(0.1 * 2 * 1000 * 500 / (200_000 + 6000))
    assert pruned.useful_gops == pytest.approx(0.1 * pruned.gops)


def test_what_has_no_operations_has_no_share_of_a_peak(sample_results: Results) -> None:
    assert sample_results.share_of_peak(make_measurement("x", [1.0], operations=0)) is None


def test_mean_over_subjects(sample_results: Results) -> None:
    mean = sample_results.mean_speed_up("ours", "dense", 1, "hot", "bursts")
    assert mean == pytest.approx((6, 4))
    assert sample_results.mean_speed_up("ours", "dense", 1, "cold", "bursts") is None


def test_json_round_trip(sample_results: Results) -> None:
    run = replace(sample_results, cases={"ours": CaseFacts("int8"), "dense": CaseFacts()})
    other = replace(sample_results, suite="other")
    text = results.to_json([run, other], extra=[1])
    assert results.from_json(text) == [run, other]
    document = json.loads(text)
    assert document["extra"] == [1]
    derived = document["runs"][0]["measurements"][0]["derived"]
    assert derived["speed_up_over_baseline"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be JSON"),
        ("[]", "must be what `tfcompress bench --json` writes"),
        ('{"runs": []}', "must be what `tfcompress bench --json` writes"),
        ('{"version": 1, "measurements": []}', "`version` must be 2; received 1"),
        ('{"version": 2}', "damaged .KeyError: 'runs'"),
        ('{"version": 2, "runs": [3]}', "damaged .TypeError"),
        ('{"version": 2, "runs": [{"measurements": [], "cases": {}}]}', "damaged .TypeError"),
    ],
)
def test_other_files_are_told_from_results(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        results.from_json(text)


@pytest.mark.parametrize("median", [0.0, -1.0, float("nan"), "fast"])
def test_times_that_are_none_are_refused(sample_results: Results, median: object) -> None:
    document = json.loads(results.to_json([sample_results]))
    document["runs"][0]["measurements"][0]["layer"]["median_us"] = median
    with pytest.raises(ValueError, match="damaged"):
        results.from_json(json.dumps(document))


# Chains


def test_hot_chains_fit_and_cold_ones_do_not() -> None:
    cache = 32 * 2**20
    hot = Workload(1024, 1024, 1)
    assert hot.distinct_layers(2**20, cache) == 8
    assert hot.distinct_layers(4 * 2**20, cache) == 2
    assert hot.distinct_layers(64 * 2**20, cache) == 1
    assert Workload(1024, 1024, 2048).distinct_layers(2**20, cache) == 1
    cold = Workload(1024, 1024, 1, "cold")
    assert cold.distinct_layers(2**20, cache) == 64
    assert cold.distinct_layers(64 * 2**20, cache) == 2


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [1, 5])
def test_every_case_computes_the_layer(name: str, batch: int) -> None:
    case = CASES[name]
    if (command := case.missing()) is not None:
        pytest.skip(f"{name} is not installed: {command}")
    problem = random_problem(Workload(96, 64, batch), distinct=3)
    with graph_kept():
        chain = case.build(problem)
        assert (chain.layers, chain.distinct) == (3, 3)
        if chain.lengthen is not None:
            chain = chain.lengthen(5)
            assert (chain.layers, chain.distinct) == (6, 3)
        chain.call()
        chain.empty()
        output = chain.output()
    reference = case.reference(problem, 2)
    error = np.abs(output - reference).max() / np.abs(reference).max()
    assert error <= case.tolerance


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_keras_layer_is_what_quantize_leaves() -> None:
    weights = random_problem(Workload(24, 8, 3), distinct=1).weights[0]
    quantized = keras.layers.Dense(8)
    quantized.build((None, 24))
    quantized.set_weights([weights.kernel, weights.bias])
    quantized.quantize("int8")
    built = KerasInt8.layer(weights)
    assert built.dtype_policy == quantized.dtype_policy
    for ours, theirs in zip(built.get_weights(), quantized.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    dict.fromkeys(case.name for suite in SUITES.values() for case in suite.cases(peers=False)),
)
def test_chains_hold_all_their_layers_or_say_so(name: str) -> None:
    problem = random_problem(Workload(32, 32, 1), distinct=4)
    with pytest.raises(RuntimeError, match="must hold 4 ops"):
        CASES[name].build(problem)
    assert (
        tf.config.optimizer.get_experimental_options().get("dependency_optimization") is not False
    )


def test_layers_of_a_chain_run_in_turn() -> None:
    running: list[int] = []
    overlaps: list[int] = []

    def slow(x: np.ndarray) -> np.ndarray:
        overlaps.append(len(running))
        running.append(1)
        time.sleep(1e-3)
        running.pop()
        return x

    layer = TensorFlowLayer(
        apply=lambda x, _: tf.ensure_shape(tf.numpy_function(slow, [x], tf.float32), x.shape),
        variables={},
        op="PyFunc",
    )
    with graph_kept():
        chain = chains.tensorflow_chain([layer], [np.ones((1, 4), np.float32)], 6)
        overlaps.clear()
        chain.call()
    assert overlaps == [0] * 6


def test_a_case_that_is_not_installed_says_what_to_install() -> None:
    class Absent(Case):
        name = "absent"
        modules = ("no_such_module",)
        install = "pip install no-such-module"
        weight_bytes = build = None  # type: ignore[assignment]

    suite = Suite("test", "", "--variant", {}, peers=[Absent()])
    settings = runner.Settings(shapes=[], threads=current_threads())
    found = runner.run_suite(suite, suite.cases(), settings)
    assert found.missing == {"absent": "pip install no-such-module"}


def current_threads() -> int:
    return tf.config.threading.get_intra_op_parallelism_threads() or machine.available_cpus()


# Command


def test_command_writes_tables_and_json(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    arguments = ["--quick", "--json", str(path), "--threads", str(current_threads())]
    outcome = CliRunner().invoke(app, ["int8", *arguments])
    assert outcome.exit_code == 0, outcome.output
    for text in ("int8: hot, bursts", "int8: cold, alternating", "Speed-up over tf.matmul"):
        assert text in outcome.output
    (found,) = results.from_json(path.read_text())
    names = {measurement.case for measurement in found.measurements}
    assert BASELINE.name in names
    assert names | set(found.missing) == {case.name for case in SUITES["int8"].cases()}
    # 2 shapes, hot and cold, bursts and alternating.
    assert len(found.measurements) == 2 * 2 * 2 * len(names)
    assert all(math.isfinite(m.layer.median_us) for m in found.measurements)


def test_json_on_stdout(
    sample_results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a pipe: stdout is JSON alone, and no file is named "-"."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_run", lambda *arguments: sample_results)
    outcome = CliRunner().invoke(app, ["int8", "--json", "-"])
    assert outcome.exit_code == 0, outcome.output
    assert results.from_json(outcome.stdout) == [sample_results]
    assert "int8: hot" in outcome.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.json").write_text(outcome.stdout)
    outcome = CliRunner().invoke(app, ["compare", "old.json", "old.json", "--json", "-"])
    assert outcome.exit_code == 0, outcome.output
    assert not json.loads(outcome.stdout)["relative"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "12"], "--shape must be KxN"),
        (["--batch", "0"], "whole numbers from 1"),
        (["--activations", "none"], "must be one of dynamic, static, float"),
        (["--json", "no/such/folder/results.json"], "--json must be in a folder that exists"),
        (["--state", "warm"], "--state must be hot, cold or both"),
        (["--isa", "sse"], "--isa must be one of portable, avx2, avx512"),
    ],
)
def test_command_explains_wrong_values(arguments: list[str], message: str) -> None:
    outcome = CliRunner().invoke(app, ["int8", *arguments])
    assert outcome.exit_code == 1
    assert message in outcome.output


def test_isa_caps_what_tensorflow_multiplies_with_too(monkeypatch: pytest.MonkeyPatch) -> None:
    environments: list[dict[str, str]] = []

    def run(_: object, env: dict[str, str], **__: object) -> subprocess.CompletedProcess[str]:
        environments.append(env)
        return subprocess.CompletedProcess([], 3)

    monkeypatch.setattr(options.subprocess, "run", run)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("TFCOMPRESS_ISA", "avx2")
    with pytest.raises(typer.Exit) as caught:
        options.run_again_with("avx2")
    assert caught.value.exit_code == 3
    assert environments[0]["TFCOMPRESS_ISA"] == "avx2"
    assert environments[0]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")  # the user's word counts
    options.run_again_with("avx2")
    options.run_again_with(None)
    assert len(environments) == 1


@pytest.mark.slow
def test_command_caps_the_instruction_set_in_a_new_process(tmp_path: Path) -> None:
    code = "from tfcompress_ops.bench.cli import app; app(prog_name='bench')"
    arguments = ["--quick", "--no-peers", "--shape", "16x16", "--state", "hot", "--mode", "bursts"]
    found = subprocess.run(
        [sys.executable, "-c", code, "int8", "--isa", "portable", *arguments],
        # Not in the source tree, which Python would take the package from.
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(tfcompress_ops.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "kernels: portable" in found.stdout


def test_load_of_other_processes_is_a_share() -> None:
    share = machine.OtherLoad().share()
    assert share is None or 0 <= share <= 1
