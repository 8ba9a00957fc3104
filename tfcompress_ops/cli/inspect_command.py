"""`tfcompress inspect`: what is in a model file, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import typer

from tfcompress_ops import structure
from tfcompress_ops.cli import console, model_files
from tfcompress_ops.layers.layer import CompressedLayer, refusal

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(epilog="Example:\n\ntfcompress inspect small.keras --json")
@console.command
def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL.keras", help="The model to look into.")],
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import", metavar="MODULE", help="Module or .py file with custom layers. Repeatable."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show each layer of a model file: kind, shape, format, bytes, ranges of its scales.

    Works on any .keras file. Of a model that is not compressed yet, the last column says which
    layers can be.
    """
    loaded = model_files.load(model, imports or ())
    found = {
        "file": str(model),
        "file_bytes": model.stat().st_size,
        "weight_bytes": _nbytes(loaded),
        "layers": [_describe(path, layer) for path, layer in structure.layer_paths(loaded).items()],
    }
    if as_json:
        console.print_json(found)
    else:
        _print(found)


def _describe(path: str, layer: keras.layers.Layer) -> dict[str, Any]:
    """What the table and the JSON tell about one layer."""
    found: dict[str, Any] = {
        "path": path,
        "kind": type(layer).__name__,
        "dtype": ", ".join(sorted({str(variable.dtype) for variable in layer.weights})),
        "bytes": _nbytes(layer),
    }
    if not isinstance(layer, CompressedLayer):
        shapes = [list(variable.shape) for variable in layer.weights]
        return {**found, "format": None, "shapes": shapes, "note": _note(layer)}
    shape = layer.weight_matrix().shape
    float32_bytes = 4 * (int(np.prod(shape)) + _size(layer.bias))
    arrays = layer.packed_arrays()
    return {
        **found,
        "format": layer.format.label,
        "options": layer.format.get_config(),
        "shapes": [list(shape)],
        "float32_bytes": float32_bytes,
        "arrays": {name: _describe_array(array) for name, array in arrays.items()},
        "facts": layer.format.describe(arrays),
        "note": "",
    }


def _note(layer: keras.layers.Layer) -> str:
    """What compressing would do to a layer that is not compressed."""
    if not layer.weights:
        return ""
    reason = refusal(layer)
    return "can be compressed" if reason is None else f"stays as it is: {reason}"


def _describe_array(array: npt.NDArray[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "bytes": array.nbytes,
    }
    if array.size and np.issubdtype(array.dtype, np.floating):
        found["range"] = [float(array.min()), float(array.max())]
    return found


def _print(found: dict[str, Any]) -> None:
    table = console.table(
        "Layer",
        "Kind",
        "Shape",
        "Format",
        "Bytes",
        "Of float32",
        "Ranges, notes",
        title=f"{found['file']}: {found['file_bytes']:,} bytes",
    )
    for column in (1, 3, 6):
        table.columns[column].justify = "left"
    for layer in found["layers"]:
        compressed = layer["format"] is not None
        table.add_row(
            layer["path"],
            layer["kind"],
            ", ".join("x".join(map(str, shape)) for shape in layer["shapes"]),
            layer["format"] or layer["dtype"],
            f"{layer['bytes']:,}",
            f"{layer['bytes'] / layer['float32_bytes']:.1%}" if compressed else "",
            _facts(layer) if compressed else layer["note"],
        )
    console.out.print(table)
    console.out.print(f"{found['weight_bytes']:,} bytes of weights in all.")


def _facts(layer: dict[str, Any]) -> str:
    facts = [f"{name} {value}" for name, value in layer["facts"].items()]
    ranges = [
        f"{name} {array['range'][0]:.3g} to {array['range'][1]:.3g}"
        for name, array in layer["arrays"].items()
        if "range" in array
    ]
    return ", ".join(facts + ranges)


def _nbytes(layer: keras.layers.Layer) -> int:
    return sum(_size(variable) * tf.as_dtype(variable.dtype).size for variable in layer.weights)


def _size(variable: Any) -> int:
    return 0 if variable is None else int(np.prod(variable.shape))
