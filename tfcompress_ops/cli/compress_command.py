"""`tfcompress compress`: a user's model file in, a compressed model file out."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
import typer

from tfcompress_ops import compression, formats, reports, structure
from tfcompress_ops.cli import console, files, format_options, model_files
from tfcompress_ops.cli.console import CommandError
from tfcompress_ops.layers.layer import CompressedLayer, refusal

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_EVERY_LAYER = "*"
_ALREADY = "it is compressed already"
_SHOWN_REASONS = 3


@app.command(
    epilog="Examples:\n\n"
    "tfcompress compress model.keras -o small.keras\n\n"
    "tfcompress compress model.keras -o small.keras --layers 'encoder/*' --center\n\n"
    "tfcompress compress model.keras -o small.keras --activations static --calibration x.npy\n\n"
    "tfcompress compress model.keras -o small.keras --format sparse --pattern 8:64 --values int8"
)
@format_options.with_format_options
@console.command
def compress(
    model: Annotated[Path, typer.Argument(metavar="MODEL.keras", help="The model to compress.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.keras", help="Where it is written.")
    ],
    options: dict[str, Any],
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help=f"One of: {', '.join(formats.names())}.",
            autocompletion=formats.names,
        ),
    ] = "int8",
    layers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Compress only the layers whose path matches, such as 'encoder/*'. Repeatable.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Typical inputs, .npy, or .npz with an array for each input: for formats that "
            "need calibration, and for the errors in the report.",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            min=0,
            help="Rows that the model is to be fast for: a layer with too few zeros for a sparse "
            "format to pay at this batch size stays dense. 0: every layer gets the format.",
        ),
    ] = 32,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import", metavar="MODULE", help="Module or .py file with custom layers. Repeatable."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compress a model file and report, layer by layer, what that did.

    int8 needs nothing but the model. sparse is for models that were pruned while they were trained
    (tfc.prune in Python), or prunes by --sparsity or --pattern; binary and ternary are for models
    that were trained for them. The file that is written is loaded by keras.saving.load_model, once
    tfcompress_ops is imported.
    """
    model_files.check_output(output, force=force)
    chosen = format_options.make_format(format_name, options)
    original = model_files.load(model, imports or ())
    _check_compressible(model, original)
    data = None if calibration is None else _read_inputs(calibration, original)
    if chosen.needs_calibration and data is None:
        raise CommandError(
            f"{chosen} needs typical inputs to find the range of the activations.",
            "Pass some hundred of them: --calibration FILE.npy.",
        )
    try:
        compressed = compression.compress(
            original,
            dict.fromkeys(layers or (_EVERY_LAYER,), chosen),
            calibration_data=data,
            batch_size=batch_size or None,
        )
    except (TypeError, ValueError) as error:
        raise CommandError(f"{model}: {error}") from error
    before = model.stat().st_size
    try:
        with files.replacing(output) as temporary:
            compressed.save(temporary)
    except OSError as error:
        raise CommandError(
            f"{output} cannot be written: {error.strerror or error}.",
            "It is as it was; free space or choose another place.",
        ) from error
    after = output.stat().st_size
    try:
        report = reports.report(original, compressed, data)
    except ValueError as error:
        raise CommandError(
            f"{output} is written, but no report can be made: {error}",
            "Give some by --calibration FILE.npy." if data is None else "",
        ) from error
    if as_json:
        console.print_json({**report.to_dict(), "file_bytes": {"before": before, "after": after}})
        return
    console.out.print(report)
    for change in report.layers:
        if change.note:
            console.out.print(f"{change.path}: {change.note}", markup=False)
    compared = f"{before / after:.1f} times smaller than"
    if after >= before:
        compared = f"{after / before:.1f} times as large as"
    console.out.print(
        f"Wrote {output}: {after / 1e6:.2f} MB, {compared} {model} ({before / 1e6:.2f} MB).",
        markup=False,
    )


def _check_compressible(path: Path, model: keras.Model) -> None:
    """Says in a line why there is nothing to do, if there is nothing."""
    reasons = []
    for layer_path, layer in structure.layer_paths(model).items():
        reason = _ALREADY if isinstance(layer, CompressedLayer) else refusal(layer)
        if reason is None:
            return
        if layer.weights:
            reasons.append(f"{layer_path}: {reason}")
    more = [f"{len(reasons) - _SHOWN_REASONS} more layers"] if len(reasons) > _SHOWN_REASONS else []
    why = "; ".join(reasons[:_SHOWN_REASONS] + more) or "no layer has weights"
    raise CommandError(f"{path} has nothing to compress ({why}).")


def _read_inputs(path: Path, model: keras.Model) -> Any:
    """Reads inputs for a model: one array, or one for each input by name or in order."""
    if not path.exists():
        raise CommandError(f"{path} does not exist.")
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = None
        if not isinstance(loaded, np.ndarray):
            with loaded:
                arrays = {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CommandError(f"{path} is not a .npy or .npz file of numbers.") from error
    if not structure.is_graph(model):  # Of a subclassed model's inputs a file does not tell.
        if arrays is None:
            return loaded
        return arrays if len(arrays) > 1 else next(iter(arrays.values()))
    data = loaded if arrays is None else _by_input(path, arrays, model)
    leaves = [data] if isinstance(data, np.ndarray) else list(data)
    for leaf, tensor in zip(leaves, model.inputs, strict=True):
        want = tuple(tensor.shape[1:])
        fits = (
            leaf.ndim == len(want) + 1
            and len(leaf)
            and all(size in (None, have) for size, have in zip(want, leaf.shape[1:], strict=True))
        )
        if not fits:
            raise CommandError(
                f"{path}: input {tensor.name} takes shape (batch, {', '.join(map(str, want))}); "
                f"got {leaf.shape}."
            )
    return data


def _by_input(path: Path, arrays: dict[str, Any], model: keras.Model) -> Any:
    names = [tensor.name for tensor in model.inputs]
    if len(names) == 1 and len(arrays) == 1:
        return next(iter(arrays.values()))
    if set(names) <= set(arrays):
        found = [arrays[name] for name in names]
        return found[0] if len(found) == 1 else found
    raise CommandError(
        f"{path} must hold an array for each input, {', '.join(names)}; got {', '.join(arrays)}."
    )
