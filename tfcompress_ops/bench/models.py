"""Whole models against plain Keras and XLA: `python -m tfcompress_ops.bench.models`.

For each model and batch size: microseconds of a call through `tf.function`, with XLA, and of the
compressed model in each form; bytes of the weights; and the largest relative error of the outputs.
Weights are random, and pruned without training: the error of a sparse model is against the plain
model with the same zeros, so that it is the error of the arithmetic.
"""

import argparse
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import tfcompress_ops as tfc
from tfcompress_ops.bench.timing import interleave

ROUNDS = 7


@keras.saving.register_keras_serializable("tfcompress_bench")
class EncoderBlock(keras.layers.Layer):  # type: ignore[misc]
    """A layer of a BERT-like encoder, normalised after each of its halves.

    Args:
        heads: Attention heads.
        hidden: Width of the fully connected half.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, heads: int, hidden: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.hidden = heads, hidden

    def build(self, shape: Any) -> None:
        """Makes the layers."""
        width = shape[-1]
        self.attention = keras.layers.MultiHeadAttention(self.heads, width // self.heads)
        self.mlp = [keras.layers.Dense(self.hidden, "gelu"), keras.layers.Dense(width)]
        self.norms = [keras.layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.attention.build(shape, shape)
        self.mlp[0].build(shape)
        self.mlp[1].build((*shape[:-1], self.hidden))
        for norm in self.norms:
            norm.build(shape)

    def call(self, x: Any) -> Any:
        """Attends, then transforms each place by itself."""
        x = self.norms[0](x + self.attention(x, x))
        return self.norms[1](x + self.mlp[1](self.mlp[0](x)))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "heads": self.heads, "hidden": self.hidden}


def encoder(
    layers: int = 12,
    width: int = 768,
    heads: int = 12,
    hidden: int = 3072,
    sequence: int = 128,
    vocabulary: int = 30522,
) -> keras.Model:
    """A BERT-like encoder: by default as large as BERT-base."""
    inputs = keras.Input((sequence,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(vocabulary, width, name="embedding")(inputs)
    x = keras.layers.LayerNormalization(name="norm")(x)
    for index in range(layers):
        x = EncoderBlock(heads, hidden, name=f"block_{index}")(x)
    return keras.Model(inputs, x, name="encoder")


def image_model(name: str, size: int = 224, **arguments: Any) -> keras.Model:
    """A model of `keras.applications` with random weights, its normalisations not trivial."""
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), **arguments
    )
    draw = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            channels = layer.moving_mean.shape
            layer.moving_mean.assign(draw.normal(0, 0.1, channels))
            layer.moving_variance.assign(draw.uniform(0.5, 1.5, channels))
    return model


def example(model: keras.Model, batch: int) -> Any:
    """Random inputs of a model."""
    draw = np.random.default_rng(0)
    shape = (batch, *model.inputs[0].shape[1:])
    if "int" in model.inputs[0].dtype:
        return tf.constant(draw.integers(0, 100, shape), tf.int32)
    return tf.constant(draw.normal(size=shape), tf.float32)


# Name to (format, pruning that goes before, or None).
FORMS: dict[str, tuple[Any, dict[str, Any] | None]] = {
    "int8": (tfc.Int8(), None),
    "sparse 90 % float32": (tfc.Sparse(), {"sparsity": 0.9}),
    "balanced 87.5 % int8": (
        tfc.Sparse(pattern="balanced", sparsity=0.875, values="int8"),
        {"sparsity": 0.875, "pattern": "balanced"},
    ),
}
MODELS: dict[str, tuple[Callable[..., keras.Model], Sequence[int]]] = {
    "ResNet50": (functools.partial(image_model, "ResNet50"), (1, 16)),
    "MobileNetV2": (functools.partial(image_model, "MobileNetV2"), (1, 16)),
    "encoder": (encoder, (1, 8)),
}


def measure(
    model: keras.Model, batch: int, forms: Sequence[str], seconds: float, search: bool
) -> list[dict[str, Any]]:
    """Times a model and its compressed forms against each other.

    Args:
        model: A plain model.
        batch: Rows of the inputs.
        forms: Out of `FORMS`.
        seconds: Time that each form is run for.
        search: Whether `"auto"` is measured too.

    Returns:
        A row for each form: its name, microseconds, bytes and relative error.
    """
    x = example(model, batch)
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Any]] = {}

    def add(name: str, function: keras.Model, reference: keras.Model, jit: bool = False) -> None:
        graph = tf.function(functools.partial(function, training=False), jit_compile=jit)
        concrete = graph.get_concrete_function(x)
        one, other = (np.asarray(f(x), np.float64) for f in (reference, concrete))
        error = float(np.abs(other - one).max() / np.abs(one).max())
        calls[name] = lambda: concrete(x).numpy()
        rows[name] = {
            "form": name,
            "bytes": sum(
                int(np.prod(w.shape)) * tf.as_dtype(w.dtype).size for w in function.weights
            ),
            "error": error,
        }

    add("tf.function", model, model)
    add("XLA", model, model, jit=True)
    for name in forms:
        format_, pruning = FORMS[name]
        source = model if pruning is None else tfc.prune(model, **pruning)
        add(name, tfc.compress(source, format_, batch_size=batch), source)
    if search:
        data = tf.data.Dataset.from_tensors(x)
        found = tfc.compress(model, "auto", data=data, max_drop=0.05, batch_size=batch)
        add("auto", found, model)
    timings = interleave(calls, rounds=ROUNDS, burst_seconds=seconds / ROUNDS)
    for name, timing in timings.items():
        rows[name].update(samples=timing.samples, burst=timing.burst)
        rows[name].update(us=timing.median_us, q1_us=timing.q1_us, q3_us=timing.q3_us)
    best = min(rows[name]["us"] for name in ("tf.function", "XLA"))
    for row in rows.values():
        row["speedup"] = best / row["us"]
    return list(rows.values())


def table(results: Mapping[str, list[dict[str, Any]]]) -> Table:
    """The results as a table."""
    found = Table(title="Whole models; speed-up over the faster of tf.function and XLA")
    for heading in ("model", "form", "ms", "speed-up", "MB", "max error"):
        found.add_column(heading, justify="left" if heading in ("model", "form") else "right")
    for name, rows in results.items():
        for row in rows:
            found.add_row(
                name,
                row["form"],
                f"{row['us'] / 1000:.2f}",
                f"{row['speedup']:.2f}x",
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['error']:.1e}",
            )
        found.add_section()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--forms", default=",".join(FORMS), help="comma-separated")
    parser.add_argument("--batches", help="instead of each model's own, comma-separated")
    parser.add_argument("--size", type=int, default=224, help="height and width of images")
    parser.add_argument("--layers", type=int, default=12, help="layers of the encoder")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each form")
    parser.add_argument("--auto", action="store_true", help="search for a plan too; takes minutes")
    parser.add_argument("--json", help="file to write the results to")
    options = parser.parse_args(arguments)
    results: dict[str, list[dict[str, Any]]] = {}
    for name in options.models.split(","):
        make, batches = MODELS[name]
        keras.utils.set_random_seed(0)
        model = make(layers=options.layers) if name == "encoder" else make(size=options.size)
        if options.batches:
            batches = [int(batch) for batch in options.batches.split(",")]
        for batch in batches:
            forms = [form for form in options.forms.split(",") if form]
            rows = measure(model, batch, forms, options.seconds, options.auto)
            results[f"{name}, batch {batch}"] = rows
    Console().print(table(results))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
