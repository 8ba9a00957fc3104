"""The examples, and those in docstrings, run and show what they claim."""

import doctest
import importlib
import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress_ops as tfc

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DOCUMENTED = [
    "callbacks",
    "compression",
    "constraints",
    "formats.format",
    "formats.int8",
    "layers.dense",
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


def test_article(capsys):
    spec = importlib.util.spec_from_file_location("article", EXAMPLES / "article.py")
    article = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(article)
    results = article.main()
    assert results["trained"] > 0.8
    assert results["pruned"] > results["trained"] - 0.02
    assert results["pruned, int8"] > results["pruned"] - 0.01
    assert 0.1 < results["zeros"] < 0.5
    printed = capsys.readouterr().out
    assert "kernel weights are zero" in printed
    assert "int8 dynamic center" in printed


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstrings(name):
    module = importlib.import_module(f"tfcompress_ops.{name}")
    result = doctest.testmod(module, extraglobs={"keras": keras, "np": np, "tfc": tfc})
    assert result.attempted > 0
    assert result.failed == 0


def test_binary_page():
    """The network of docs/binary.md is compressed as it says."""
    page = (EXAMPLES.parent / "docs" / "binary.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(code, names)
    model, small = names["model"], names["small"]
    x = np.random.default_rng(0).normal(size=(20, 784)).astype(np.float32)
    np.testing.assert_array_equal(small(x), tfc.compress(model, tfc.Int8())(x))
    labels = [layer.format.label for layer in small.layers if hasattr(layer, "format")]
    assert labels == ["int8 dynamic", *2 * ["binary binary packed"], "int8 dynamic"]
