"""The examples run, and show what they claim."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def article():
    spec = importlib.util.spec_from_file_location("article", EXAMPLES / "article.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_article(article, capsys):
    results = article.main()
    assert results["trained"] > 0.8
    assert results["pruned"] > results["trained"] - 0.02
    assert results["pruned, int8"] > results["pruned"] - 0.01
    assert 0.1 < results["zeros"] < 0.5
    printed = capsys.readouterr().out
    assert "kernel weights are zero" in printed
    assert "int8 dynamic center" in printed
