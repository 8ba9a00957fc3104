"""What `tfcompress bench models` times: whole models, plain, under XLA and in each form."""

import functools
from collections.abc import Iterator
from functools import cache
from typing import Any

import keras
import pytest
import tensorflow as tf
from pytest_benchmark.fixture import BenchmarkFixture

import tfcompress_ops as tfc
from tfcompress_ops.bench.model_suite import BASELINE, REFERENCE, ModelSettings
from tfcompress_ops.bench.models import FORMS, example
from tfcompress_ops.bench.runner import Settings

SETTINGS = ModelSettings()


@cache
def plain(name: str) -> keras.Model:
    return SETTINGS.build(name)


def in_form(model: keras.Model, form: str, batch: int) -> keras.Model:
    if form not in FORMS:
        return model
    layer_format, pruning = FORMS[form]
    source = model if pruning is None else tfc.prune(model, **pruning)
    return tfc.compress(source, layer_format, batch_size=batch)


def points() -> Iterator[Any]:
    for name, batch in SETTINGS.points():
        group = f"models-{name}-{batch}"
        for form in (BASELINE, REFERENCE, *FORMS):
            yield pytest.param(
                name,
                batch,
                form,
                id=f"{group}-{form.replace(' ', '_')}",
                marks=pytest.mark.benchmark(group=group),
            )


@pytest.mark.parametrize(("name", "batch", "form"), list(points()))
def test_model(
    benchmark: BenchmarkFixture, settings: Settings, name: str, batch: int, form: str
) -> None:
    del settings  # which sets TensorFlow's threads
    model = in_form(plain(name), form, batch)
    x = example(model, batch)
    call = tf.function(functools.partial(model, training=False), jit_compile=form == REFERENCE)
    concrete = call.get_concrete_function(x)
    benchmark.extra_info["bytes"] = sum(weight.numpy().nbytes for weight in model.weights)
    benchmark(lambda: concrete(x).numpy())
