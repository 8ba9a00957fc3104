"""Benchmarks of layers and models, of kernels beside their ops, by threads, and of everything."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

import tfcompress_ops as tfc
from tfcompress_ops.bench import layers, machine, model_suite, results, views
from tfcompress_ops.bench.all_formats import ALL_FORMATS
from tfcompress_ops.bench.chains import Workload, graph_kept, random_problem
from tfcompress_ops.bench.cli import app
from tfcompress_ops.bench.format_case import FormatCase
from tfcompress_ops.bench.layers import KERAS, KERAS_INT8, KINDS, LayerKind, LayerSettings

SHAPE = (32, 16)


def current_threads() -> int:
    return tf.config.threading.get_intra_op_parallelism_threads() or machine.available_cpus()


# Layers


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_layer_is_compressed_and_counted(kind: LayerKind) -> None:
    layer = layers.build_layer(kind, SHAPE, ["int8-dynamic"])
    compressed = layer.cases["int8 dynamic"]
    plain = layer.cases[KERAS].model
    x = kind.example(SHAPE[0], 2)
    assert compressed.model(x).shape == plain(x).shape == tuple(plain.compute_output_shape(x.shape))
    assert compressed.error is not None
    assert compressed.error < 0.1
    assert compressed.weight_bytes < 0.6 * layer.cases[KERAS].weight_bytes
    assert str(SHAPE[-1]) in kind.subject(*SHAPE)
    # What a layer multiplies grows with its inputs and outputs, whatever else it has.
    one, double = kind.operations(*SHAPE), kind.operations(SHAPE[0], 2 * SHAPE[1])
    assert one == double == 0 if kind.tokens else one < double


@pytest.mark.parametrize(
    ("name", "positions"), [("Dense", 1), ("EinsumDense", 64), ("Conv1D", 64), ("Conv2D", 196)]
)
def test_operations_are_those_of_the_kernel_at_each_position(name: str, positions: int) -> None:
    kernel = KINDS[name].model(*SHAPE).weights[0]
    assert KINDS[name].operations(*SHAPE) == 2 * positions * int(np.prod(kernel.shape))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_formats_that_a_layer_does_not_take_are_left_out() -> None:
    layer = layers.build_layer(KINDS["Embedding"], SHAPE, ["int8-dynamic", "sparse-int8-8:64"])
    assert list(layer.cases) == [KERAS, "int8 dynamic", KERAS_INT8]
    assert list(layers.build_layer(KINDS["Conv2D"], SHAPE, []).cases) == [KERAS]
    assert list(layers.build_layer(KINDS["Dense"], SHAPE, [], peers=False).cases) == [KERAS]


@pytest.mark.parametrize("name", ["Dense", "LSTM", "Embedding"])
def test_chains_of_layers_hold_them_all(name: str) -> None:
    kind = KINDS[name]
    model = tfc.compress(kind.model(*SHAPE), tfc.Int8())
    x = kind.example(SHAPE[0], 2)
    with graph_kept():
        chain = layers.layer_chain(model, x)
        assert chain.lengthen is not None
        longer = chain.lengthen(7)
        assert (chain.layers, longer.layers) == (1, 7)
        np.testing.assert_allclose(longer.output(), model(x), rtol=1e-5, atol=1e-6)
        longer.call()
        longer.empty()


def test_chains_that_were_cut_short_are_noticed() -> None:
    model = KINDS["Dense"].model(*SHAPE)
    with pytest.raises(RuntimeError, match="must hold 5 layers"):
        # Outside `graph_kept()`, where all but the last layer are left out.
        layers.layer_chain(model, KINDS["Dense"].example(SHAPE[0], 2), 5)


def test_layers_of_a_chain_are_fused_as_in_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, int]] = []
    count = layers.optimised_ops

    def counted(call: object) -> object:
        seen.append(count(call))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(layers, "optimised_ops", counted)
    with graph_kept():
        layers.layer_chain(KINDS["Dense"].model(*SHAPE), KINDS["Dense"].example(SHAPE[0], 2), 4)
    one, four = seen
    assert (one["_FusedMatMul"], four["_FusedMatMul"]) == (1, 4)
    assert not four["MatMul"] + four["Relu"] + four["BiasAdd"]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_layers_command(tmp_path: Path) -> None:
    file, page = tmp_path / "layers.json", tmp_path / "layers.html"
    arguments = ["layers", "--quick", "--json", str(file), "--html", str(page)]
    arguments += ["--variants", "int8-dynamic,binary-w1a1", "--threads", str(current_threads())]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "layers: hot, bursts" in outcome.output
    (run,) = results.from_json(file.read_text())
    dense = [m for m in run.measurements if m.subject == "Dense, 64 to 32"]
    assert [m.case for m in dense] == [KERAS, "int8 dynamic", "binary binary", KERAS_INT8]
    assert {m.operations for m in dense} == {2 * 64 * 32}
    assert {m.activation_bytes for m in dense} == {4 * (64 + 32)}
    assert run.facts("binary binary").group == "binary"
    assert run.facts(KERAS_INT8).group == ""
    assert "Embedding, 64 to 32" in page.read_text()


def test_settings_of_layers_know_their_options() -> None:
    with pytest.raises(ValueError, match=r"`--layers` must be one of Dense.*received Lambda"):
        LayerSettings(kinds=["Lambda"])
    with pytest.raises(ValueError, match=r"`--variants` must be one of int8-dynamic.*received x"):
        LayerSettings(variants=["x"])
    points = list(LayerSettings(kinds=["Dense", "GRU"], batches=(1, 2)).points())
    assert [(kind.name, batch) for kind, _, batch in points] == [
        *(("Dense", batch) for batch in (1, 2)),
        *(("GRU", batch) for batch in (1, 2)),
    ]
    assert layers.count_steps(LayerSettings(kinds=["Dense"], batches=(1, 2, 3))) == 4


# Models


def test_models_command(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    arguments = ["models", "--models", "encoder", "--depth", "1", "--batch", "1", "--forms", "int8"]
    arguments += ["--seconds", "0.05", "--json", str(file), "--threads", str(current_threads())]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    (run,) = results.from_json(file.read_text())
    assert [m.case for m in run.measurements] == ["tf.function", "XLA", "int8"]
    assert {m.subject for m in run.measurements} == {"encoder of 1 layers, 128"}
    plain, xla, small = run.measurements
    assert small.weight_bytes < 0.4 * plain.weight_bytes == 0.4 * xla.weight_bytes
    assert small.error is not None
    assert 0 < small.error < 0.1
    assert len(small.layer.samples) == 7


def test_models_are_built_as_large_as_asked() -> None:
    settings = model_suite.ModelSettings(layers=2, size=64)
    assert settings.build("MobileNetV2").inputs[0].shape == (None, 64, 64, 3)
    blocks = [layer for layer in settings.build("encoder").layers if "block" in layer.name]
    assert len(blocks) == 2
    assert [*settings.points()][:3] == [("ResNet50", 1), ("ResNet50", 16), ("MobileNetV2", 1)]
    keras.backend.clear_session()


# Kernels beside ops


@pytest.mark.parametrize("name", ALL_FORMATS.variants)
def test_views_multiply_what_their_case_does(name: str) -> None:
    case = ALL_FORMATS.variants[name]
    assert isinstance(case, FormatCase)
    problem = random_problem(Workload(96, 40, 3), distinct=2)
    with graph_kept():
        expected = case.build(problem).output()
    for view in (views.KernelCase(case), views.EagerCase(case)):
        chain = view.build(problem)
        np.testing.assert_allclose(chain.output(), expected, rtol=1e-4, atol=1e-4)
        assert (chain.layers, chain.distinct) == (2, 2)
        chain.empty()
        assert view.facts().of == case.name
        assert view.weight_bytes(96, 40) == case.weight_bytes(96, 40)


def test_kernel_command_tells_what_ops_add(tmp_path: Path) -> None:
    file, page = tmp_path / "kernel.json", tmp_path / "kernel.html"
    arguments = ["int8", "--kernel", "--quick", "--no-peers", "--activations", "dynamic"]
    arguments += ["--shape", "64x32", "--state", "hot", "--mode", "bursts", "--json", str(file)]
    arguments += ["--html", str(page), "--threads", str(current_threads())]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "What an op adds to its kernel" in outcome.output
    assert "What an op adds to its kernel" in page.read_text()
    (run,) = results.from_json(file.read_text())
    assert [(m.case, run.facts(m.case).view) for m in run.measurements] == [
        ("int8 dynamic", "op"),
        ("int8 dynamic, kernel", "kernel"),
        ("int8 dynamic, eager", "eager"),
        ("tf.matmul", "op"),
    ]


# Threads, and everything


def test_threads_are_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    file, page = tmp_path / "threads.json", tmp_path / "threads.html"
    arguments = ["int8", "--threads", "1,2", "--quick", "--no-peers", "--activations", "dynamic"]
    arguments += ["--shape", "64x32", "--state", "hot", "--mode", "bursts", "--json", str(file)]
    outcome = CliRunner().invoke(app, [*arguments, "--html", str(page)])
    assert outcome.exit_code == 0, outcome.output
    runs = results.from_json(file.read_text())
    assert [run.threads for run in runs] == [1, 2]
    assert [[m.case for m in run.measurements] for run in runs] == [
        ["int8 dynamic", "tf.matmul"]
    ] * 2
    assert "How threads help" in page.read_text()


def test_a_process_that_fails_is_told_of(tmp_path: Path) -> None:
    arguments = ["int8", "--threads", "1,2", "--activations", "none"]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 1
    assert "failed with exit code 1" in " ".join(outcome.output.split())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_everything_in_one_command(tmp_path: Path) -> None:
    file, docs = tmp_path / "all.json", tmp_path / "performance.md"
    arguments = ["all", "--quick", "--json", str(file), "--docs", str(docs)]
    arguments += ["--html", str(tmp_path / "all.html"), "--threads", str(current_threads())]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    text = " ".join(outcome.output.split())
    assert re.search(r"1 of 5: formats and other engines.*5 of 5: models", text)
    runs = results.from_json(file.read_text())
    assert [run.suite for run in runs] == ["formats", "overhead", "sparse", "layers", "models"]
    formats = runs[0]
    points = {(m.subject, m.batch, m.state) for m in formats.measurements}
    assert points == {
        *((subject, batch, "hot") for subject in ("48 x 32", "32 x 48") for batch in (1, 2)),
        ("48 x 32", 1, "cold"),
        ("48 x 32", 4, "hot"),
    }
    names = {case.name for case in ALL_FORMATS.cases()}
    assert {m.case for m in formats.measurements} | set(formats.missing) == names
    assert all((tmp_path / name).exists() for name in ("all.html", "performance/roofline.svg"))
    assert json.loads(file.read_text())["version"] == 2
    outcome = CliRunner().invoke(app, ["compare", str(file), str(file)])
    assert outcome.exit_code == 0, outcome.output
