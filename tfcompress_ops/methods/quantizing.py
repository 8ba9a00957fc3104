"""From a float model to one that is trained on with the rounding of its compressed form."""

from typing import Any

import keras
import numpy as np
from keras.layers import Layer

from tfcompress_ops import constraints, quantizers
from tfcompress_ops.compression import by_pattern, check_model, matching
from tfcompress_ops.formats import Format
from tfcompress_ops.layers import CompressedLayer, QuantConv2D, QuantDense
from tfcompress_ops.layers.quantized import Quantized
from tfcompress_ops.rebuilding import rebuild, tied_layers
from tfcompress_ops.structure import all_paths, layer_paths

_TRAINED: dict[type[Layer], type[Layer]] = {
    keras.layers.Dense: QuantDense,
    keras.layers.Conv2D: QuantConv2D,
}


def quantize_aware(model: keras.Model, formats: Any) -> keras.Model:
    """Makes a model that computes as its compressed form will, and can be trained like that.

    Every Dense and Conv2D layer that gets a format becomes a `tfc.layers.QuantDense` or
    `QuantConv2D` of the same name with the same weights, whose kernel and inputs are rounded in
    the forward pass as the format rounds them, and to whose float weights gradients pass straight
    through:

        y = activation(q_x(x) @ q_w(w) + bias),   dL/dw = dL/dq_w * dq_w/dw (see tfc.quantizers)

    Fine-tune it, then `tfc.compress(model)` packs the layers that were trained so, with the same
    outputs:

    | format | kernel | inputs |
    |---|---|---|
    | `Int8()` | `FakeInt8`: scale * round(w / scale), scale = max abs(w) / 127 | `FakeInt8` |
    | `Int8("float")` | `FakeInt8` | as they are |
    | `Sparse(values="int8")` | `FakeInt8`; prune, and hold zeros by `Pruning()` | `FakeInt8` |
    | `Binary` | `SteSign(scale=True)`: mean abs(w) * sign(w) | as it says: float, int8, signs |
    | `Ternary` | `SteTern`: -1, 0, +1 times a scale | as it says: float, int8 |

    Sparse layers are packed as `tfc.Int8`, unless `tfc.compress` is given the sparse format again:
    it multiplies the same integers, without the zeros.

    Latent weights behind signs are kept within -1 ... 1 by `tfc.constraints.WeightClip`, where a
    layer has no constraint. Inputs that are to be signs should vary about zero: after a ReLU all of
    them are +1; normalise instead.

    The model is left as it is, and a compiled one comes back compiled, with a new optimizer.

    Args:
        model: A built model.
        formats: As `tfc.compress` takes them: a format or its name, or a mapping from globs over
            layer paths to a format or `None`; the first pattern that matches wins. Layers of other
            kinds stay as they are.

    Returns:
        A new model.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not built, if there is no training for a format, such as static
            int8 or float sparse values, if a pattern matches no layer, or if no layer gets one.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> aware = tfc.quantize_aware(model, tfc.Int8())
        >>> small = tfc.compress(aware)
        >>> small.layers[0].format
        Int8(activations='dynamic', center=False)
        >>> x = np.ones((2, 8), "float32")
        >>> bool(np.allclose(small(x), aware(x), atol=1e-6))
        True

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", 2018, section 3. Here scales are of the moment, where
        theirs of activations are running averages.
        Hubara et al., "Binarized Neural Networks", 2016, section 1.
    """
    check_model(model)
    chosen = _choose(model, formats)

    def replace(layer: Layer) -> Layer | None:
        format_ = chosen.get(layer)
        return None if format_ is None else _trained(layer, format_)

    return rebuild(model, replace)


def _choose(model: keras.Model, formats: Any) -> dict[Layer, Format | None]:
    """What each layer is trained for."""
    patterns = by_pattern(formats)
    for format_ in patterns.values():
        if format_ is not None:
            _quantizers(format_)
    paths = layer_paths(model)
    tied = tied_layers(all_paths(model).values())
    reasons = {path: _refusal(layer, tied) for path, layer in paths.items()}
    chosen: dict[Layer, Format | None] = {}
    for pattern, format_ in patterns.items():
        matched = matching(pattern, paths)
        if format_ is not None and pattern != "*" and all(reasons[path] for path in matched):
            listed = "".join(f"\n  {path}: {reasons[path]}" for path in matched)
            raise ValueError(
                "`formats` must give formats to layers that can be trained quantised; received "
                f"the pattern {pattern!r}, which matches only{listed}\nUse None for them."
            )
        for path in matched:
            if reasons[path] is None:
                chosen.setdefault(paths[path], format_)
    if not any(chosen.values()):
        listed = "".join(f"\n  {path}: {reason}" for path, reason in reasons.items() if reason)
        raise ValueError(
            f"`model` must have a layer that can be trained quantised; received {model.name!r}, in "
            f"which `formats` reaches none:{listed}"
        )
    return chosen


def _refusal(layer: Layer, tied: dict[Layer, str]) -> str | None:
    """Why a layer cannot be trained quantised, or `None`."""
    if isinstance(layer, CompressedLayer):
        return "its weights are packed already"
    if isinstance(layer, Quantized):
        return "it is trained quantised already"
    if type(layer) not in _TRAINED:
        return f"{type(layer).__name__} has no counterpart that is trained quantised"
    if layer in tied:
        return f"it shares a weight with layer {tied[layer]!r}"
    if layer.quantization_mode is not None:
        return f"Keras has quantised it to {layer.quantization_mode}"
    if getattr(layer, "lora_enabled", False):
        return "LoRA weights add to its kernel; merge them before"
    if getattr(layer, "groups", 1) != 1 or (
        getattr(layer, "data_format", "channels_last") != "channels_last"
    ):
        return "it has groups, or channels first"
    return None


def _trained(layer: Layer, format: Format) -> Layer:
    """The layer with quantisers and the same weights."""
    kernel_quantizer, input_quantizer = _quantizers(format)
    signs = isinstance(kernel_quantizer, quantizers.SteSign)
    new = _TRAINED[type(layer)](
        **{
            **_live_config(layer),
            "kernel_constraint": layer.kernel_constraint
            or (constraints.WeightClip() if signs else None),
        },
        kernel_quantizer=kernel_quantizer,
        input_quantizer=input_quantizer,
    )
    new.build_from_config(layer.get_build_config())
    new.latent_kernel.assign(np.asarray(layer.kernel))
    if layer.bias is not None:
        new.bias.assign(layer.bias)
    return new


def _live_config(layer: Layer) -> dict[str, Any]:
    """The configuration with the layer's own functions, which need not be registered."""
    config = layer.get_config()
    for name in ("quantization_config", "dtype", "name"):
        config.pop(name, None)
    return {
        **{name: getattr(layer, name, value) for name, value in config.items()},
        "dtype": layer.dtype_policy,
        "name": layer.name,
    }


def _quantizers(format: Format) -> tuple[quantizers.Quantizer, quantizers.Quantizer | None]:
    found = quantizers.aware(format)
    if found is None:
        raise ValueError(
            f"`formats` must be formats that layers can be trained for; received {format!r}. Give "
            "tfc.Int8() or tfc.Int8('float'), tfc.Sparse(values='int8'), tfc.Binary or "
            "tfc.Ternary, without `center`; others keep float weights or need calibration: "
            "compress a float model to them."
        )
    return found
