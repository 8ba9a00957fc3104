"""The examples, and those in docstrings, run and show what they claim."""

import doctest
import importlib
import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from code_blocks import blocks, run_page

import tfcompress_ops as tfc

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DOCUMENTED = [
    "callbacks",
    "compression",
    "constraints",
    "formats.format",
    "formats.depthwise",
    "formats.int8",
    "formats.int8_rows",
    "layers.dense",
    "layers.depthwise",
    "layers.fused",
    "layers.quantized",
    "methods.averaging",
    "methods.distillation",
    "methods.ensembling",
    "methods.neurons",
    "methods.pruning",
    "methods.quantizing",
    "ops",
    "patterns",
    "quantizers",
    "reports",
    "schedules",
]


# Keras saves its variables in a way that NumPy 2 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_article(capsys):
    results = example("article").main()
    assert results["trained"] > 0.8
    assert results["pruned"] > results["trained"] - 0.02
    assert results["pruned, int8"] > results["pruned"] - 0.01
    assert 0.1 < results["zeros"] < 0.5
    printed = capsys.readouterr().out
    assert "kernel weights are zero" in printed
    assert "int8 dynamic center" in printed


def test_pipeline(capsys):
    """The example, small: every step makes it smaller or as small, and what is left can read."""
    results = example("pipeline").main(teacher_width=128, student_width=96, passes=6)
    steps = ["teacher", "distilled", "smaller", "pruned", "sparse int8"]
    assert list(results) == steps
    accuracies, sizes, *_ = zip(*results.values(), strict=True)
    assert min(accuracies) > 0.6
    assert accuracies[-1] > accuracies[-2] - 0.03
    assert sizes[0] > sizes[1] > sizes[2] == pytest.approx(sizes[3], rel=0.01)
    assert sizes[3] > 3 * sizes[4]
    printed = capsys.readouterr().out
    assert all(step in printed for step in steps)


def test_blocks_keep_their_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Words.\n\n```python\nx = given\n```\n\n```sh\nls\n```\n\n```python\ny = 1 / x\n```\n"
    )
    assert [block.line for block in blocks(page)] == [4, 8, 12]
    assert run_page(page, {"given": 2})["y"] == 0.5
    with pytest.raises(ZeroDivisionError) as error:
        run_page(page, {"given": 0})
    assert (error.traceback[-1].path, error.traceback[-1].lineno) == (page, 11)
    page.write_text("<!-- not run: a reason -->\n```python\n1 / 0\n```\n")
    assert "x" not in run_page(page)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstrings(name):
    module = importlib.import_module(f"tfcompress_ops.{name}")
    result = doctest.testmod(module, extraglobs={"keras": keras, "np": np, "tfc": tfc})
    assert result.attempted > 0
    assert result.failed == 0


def test_binary_page():
    """The network of docs/binary.md is compressed as it says."""
    names = run_page(EXAMPLES.parent / "docs" / "binary.md")
    model, small = names["model"], names["small"]
    x = np.random.default_rng(0).normal(size=(20, 784)).astype(np.float32)
    np.testing.assert_array_equal(small(x), tfc.compress(model, tfc.Int8())(x))
    labels = [layer.format.label for layer in small.layers if hasattr(layer, "format")]
    assert labels == ["int8 dynamic", *2 * ["binary binary packed"], "int8 dynamic"]
