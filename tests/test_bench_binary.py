"""The binary suite: its cases compute what they say, and its command runs."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from tfcompress_ops.bench import machine, results
from tfcompress_ops.bench.binary import BINARY
from tfcompress_ops.bench.chains import Workload, graph_kept, random_problem
from tfcompress_ops.bench.cli import app
from tfcompress_ops.bench.larq import LarqComputeEngine
from tfcompress_ops.bench.peers import BASELINE
from tfcompress_ops.bench.suites import suites

OURS = list(BINARY.variants)


def test_suite_is_known() -> None:
    assert BINARY in suites()
    assert OURS == ["w1a1", "w1a8", "w1a32", "ternary-a8", "ternary-a32"]
    names = [case.name for case in BINARY.cases(OURS)]
    assert len(set(names)) == len(names)
    assert {BASELINE.name, BINARY.reference, "litert int8"} <= set(names)
    with pytest.raises(ValueError, match=r"`--weights` must be one of w1a1.*received w2"):
        BINARY.cases(["w2"])


def test_larq_needs_the_numpy_that_it_was_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "__version__", "2.1.0")
    assert "numpy<2" in (LarqComputeEngine(BINARY.variants["w1a1"]).missing() or "")


@pytest.mark.parametrize(("k", "batch"), [(128, 1), (70, 3)])
def test_larq_computes_the_same_layer(k: int, batch: int) -> None:
    case = LarqComputeEngine(BINARY.variants["w1a1"])
    if case.missing() is not None:
        pytest.skip(f"it is not there: {case.missing()}")
    problem = random_problem(Workload(k, 24, batch), distinct=2)
    expected = BINARY.variants["w1a1"].reference(problem, 1)
    output = case.build(problem).output()
    np.testing.assert_allclose(output, expected, atol=case.tolerance * np.abs(expected).max())


@pytest.mark.parametrize("batch", [1, 3])
def test_larq_model_holds_signs_scales_and_biases(batch: int) -> None:
    """Without the engine: what is written is read back."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs the schema")
    flexbuffers = pytest.importorskip("flatbuffers.flexbuffers")
    from tfcompress_ops.bench.litert_model import binary_model

    rng = np.random.default_rng(0)
    negative = rng.normal(size=(70, 5)) < 0
    scale, bias = rng.normal(size=(2, 5)).astype(np.float32)
    content = binary_model([(negative, scale, bias)], batch)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(content), 0))
    graph = model.subgraphs[0]
    assert [code.customCode for code in model.operatorCodes] == [b"LceQuantize", b"LceBconv2d"]
    convolution = graph.operators[1]
    tensors = [graph.tensors[index] for index in convolution.inputs if index >= 0]
    signs, *constants = tensors
    assert list(signs.shape) == [batch, 1, 1, 3]
    data = [np.asarray(model.buffers[tensor.buffer].data, np.uint8) for tensor in constants]
    bits = np.unpackbits(data[0].reshape(5, 12), axis=1, bitorder="little")
    np.testing.assert_array_equal(bits[:, :70], negative.T)
    assert not bits[:, 70:].any()
    np.testing.assert_array_equal(data[1].view(np.float32), scale)
    np.testing.assert_array_equal(data[2].view(np.float32), bias)
    options = flexbuffers.Loads(bytearray(convolution.customOptions))
    assert (options["channels_in"], options["padding"], options["stride_width"]) == (70, 1, 1)


@pytest.mark.parametrize("name", OURS)
def test_cases_are_held_to_their_own_problem(name: str) -> None:
    """Not to that of the dense weights, which any tolerance would have to be wide for."""
    case = BINARY.variants[name]
    problem = random_problem(Workload(128, 64, 3), distinct=2)
    with graph_kept():
        output = case.build(problem).output()
    layer, x = problem.weights[1], problem.inputs[1].astype(np.float64)
    if name == "w1a1":
        signs = np.where(x >= 0, 1, -1)
    for kernel, right in ((case.weights(layer.kernel), True), (layer.kernel, False)):
        expected = (signs if name == "w1a1" else x) @ kernel + layer.bias
        error = np.abs(output - expected).max() / np.abs(expected).max()
        assert (error <= case.tolerance) == right
        if right:
            np.testing.assert_allclose(case.reference(problem, 1), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "bits"),
    [("w1a1", 1), ("w1a8", 1), ("w1a32", 1), ("ternary-a8", 2), ("ternary-a32", 2)],
)
def test_bytes_of_a_case(name: str, bits: int) -> None:
    assert BINARY.variants[name].weight_bytes(256, 128) - 256 * 128 * bits // 8 in range(512, 2048)


def test_command(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    threads = tf.config.threading.get_intra_op_parallelism_threads() or machine.available_cpus()
    arguments = ["binary", "--quick", "--shape", "48x32", "--state", "hot", "--mode", "bursts"]
    arguments += ["--json", str(path), "--threads", str(threads)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "Speed-up over int8 dynamic" in outcome.output
    (found,) = results.from_json(path.read_text())
    names = {measurement.case for measurement in found.measurements}
    assert {*names, *found.missing} == {case.name for case in BINARY.cases()}
    assert {BINARY.variants[name].name for name in OURS} <= names
    assert all(found.share_of_peak(m) is not None for m in found.measurements if m.case in names)
