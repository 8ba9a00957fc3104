"""Binary layers that feed each other pass signs on, packed, instead of numbers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import numpy.typing as npt
from keras.layers import Layer

from tfcompress_ops.formats import Binary
from tfcompress_ops.formats.format import SIGNS_PER_WORD, Arrays
from tfcompress_ops.layers.absorbed import Absorbed
from tfcompress_ops.layers.dense import Dense
from tfcompress_ops.preparation import followers, users
from tfcompress_ops.rebuilding import rebuild
from tfcompress_ops.structure import layer_paths

# What may stand between two layers beside a BatchNormalization: at inference it does nothing.
_PASSING = (Absorbed, keras.layers.Dropout, keras.layers.Identity)


@dataclasses.dataclass(frozen=True)
class Joints:
    """Which layers of a model are joined.

    Attributes:
        new_layers: Layer of the model to that which takes its place.
        absorbed: Layer that is done without to the layer before that does its work.
        reasons: Layer that feeds another binary layer and does not pass packed signs, to why.
    """

    new_layers: dict[Layer, Layer]
    absorbed: dict[Layer, Layer]
    reasons: dict[Layer, str]


def pack_signs(model: keras.Model) -> keras.Model:
    """Joins binary layers that feed each other, for inference; `tfc.compress` does so unasked.

    Where the outputs of a `Dense` with `Binary("binary")` go to another one and nowhere else, the
    second takes nothing but their signs. The first then compares each integer sum with a threshold
    that stands for its scale and bias and a BatchNormalization between the two, and passes the
    results on as words of 32 signs: no number is computed that is not needed. A threshold is found
    by running the layers in between on the sums themselves, so that every sign is the one that
    they would have given. What was in between becomes a `layers.Absorbed` of the same name.

    Layers are joined that compute in float32 and whose activation is linear, with neither `center`
    nor `scale_inputs`, with a multiple of 32 units and scales >= 0. A NaN does not get through
    packed signs, and neither does a gradient. Layers that are joined already stay so.

    Args:
        model: A built model that `tfc.compress` made, Sequential or Functional (others in it
            included). It is left as it is.

    Returns:
        A new model with the same outputs.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not built, or no two layers are or can be joined.

    References:
        Larq Compute Engine (Bannink et al., "Larq Compute Engine: Design, Benchmark, and Deploy
        State-of-the-Art Binarized Neural Networks", 2021) writes signs between its convolutions.
    """
    from tfcompress_ops.compression import check_model  # which builds on this module

    check_model(model)
    paths = layer_paths(model)
    joints = join(model, {})
    if not joints.new_layers and not any(_format(layer).packed_inputs for layer in paths.values()):
        listed = "".join(
            f"\n  {path}: {joints.reasons[layer]}"
            for path, layer in paths.items()
            if layer in joints.reasons
        )
        raise ValueError(
            f"`model` must have a Dense of Binary('binary') that feeds another one; received "
            f"{model.name!r}, in which no two layers can be joined.{listed}"
        )
    return rebuild(model, joints.new_layers.get)


def join(model: keras.Model, replaced: Mapping[Layer, Layer]) -> Joints:
    """Finds the binary layers of a model that feed each other.

    Args:
        model: A model; it is left as it is.
        replaced: Layers of it and those that are to take their places.

    Returns:
        The layers that take the places of joined ones, and of those between them.
    """

    def now(layer: Layer) -> Layer:
        return replaced.get(layer, layer)

    links: dict[Layer, tuple[list[Layer], Layer]] = {}
    reasons: dict[Layer, str] = {}
    for layer in dict.fromkeys(layer_paths(model).values()):
        if not _takes_signs(now(layer)):
            continue
        between, taker = _passed_on(model, layer, now)
        if taker is None:
            if _reaches(model, layer, now):
                reasons[layer] = "its outputs, or it, are used in several places"
            continue
        reason = _reason(now(layer)) or _reason_to_take(now(taker))
        if reason is None:
            links[layer] = between, taker
        else:
            reasons[layer] = reason
    takers = {taker for _, taker in links.values()}
    new_layers: dict[Layer, Layer] = {}
    absorbed: dict[Layer, Layer] = {}
    for layer in dict.fromkeys([*links, *takers]):
        passed = links[layer][0] if layer in links else None
        new_layers[layer] = _joined(
            now(layer), None if passed is None else [now(one) for one in passed], layer in takers
        )
        for one in passed or ():
            new_layers[one] = Absorbed(
                name=one.name, dtype=one.dtype_policy, trainable=one.trainable
            )
            if not isinstance(now(one), _PASSING):
                absorbed[one] = layer
    says = {layer: f"passes numbers on, not packed signs: {why}" for layer, why in reasons.items()}
    return Joints(new_layers, absorbed, says)


def _passed_on(
    model: keras.Model, layer: Layer, now: Callable[[Layer], Layer]
) -> tuple[list[Layer], Layer | None]:
    """The layers that a layer's outputs go through, and the binary one that they reach, if any."""
    between: list[Layer] = []
    for after in followers(model, layer):
        if _takes_signs(now(after)):
            return between, after
        if not _passes(now(after)):
            break
        between.append(after)
    return between, None


def _reaches(model: keras.Model, layer: Layer, now: Callable[[Layer], Layer]) -> bool:
    """Whether outputs of a layer reach a binary one, wherever else they go."""
    seen, waiting = {layer}, [layer]
    while waiting:
        for user in users(model, waiting.pop()):
            if _takes_signs(now(user)):
                return True
            if user not in seen and _passes(now(user)):
                seen.add(user)
                waiting.append(user)
    return False


def _passes(layer: Layer) -> bool:
    """Whether a layer may stand between two that are joined."""
    is_norm = type(layer) is keras.layers.BatchNormalization
    return type(layer) in _PASSING or (is_norm and _is_last_axis(layer))


def _format(layer: Layer) -> Binary:
    """The format of a binary layer; of others, one that packs nothing."""
    found = getattr(layer, "format", None)
    return found if isinstance(found, Binary) else Binary()


def _takes_signs(layer: Layer) -> bool:
    """Whether a layer's inputs count by their signs alone, and are no packed signs yet."""
    format_ = _format(layer)
    return type(layer) is Dense and format_.takes_signs and not format_.packed_inputs


def _reason_to_take(layer: Layer) -> str | None:
    """Why a layer cannot take packed signs, or `None` if it can."""
    if layer.format.scale_inputs:
        return f"{layer.name} scales its inputs by their magnitudes"
    if layer.compute_dtype != "float32":
        return f"{layer.name} computes in {layer.compute_dtype}, which may round a sign away"
    return None


def _reason(layer: Layer) -> str | None:
    """Why a layer that feeds another binary one cannot pass packed signs on."""
    if layer.activation is not keras.activations.linear:
        return "its activation is not linear"
    if layer.units % SIGNS_PER_WORD:
        return f"its {layer.units} units are no multiple of {SIGNS_PER_WORD}"
    if layer.format.center:
        return "center=True adds what depends on the row"
    if (layer.packed_arrays()["scale"] < 0).any():
        return "some of its scales are negative"
    return _reason_to_take(layer)


def _is_last_axis(norm: keras.layers.BatchNormalization) -> bool:
    return norm.axis in (-1, len(norm.get_build_config()["input_shape"]) - 1)


def _joined(layer: Dense, between: Sequence[Layer] | None, takes: bool) -> Dense:
    """A copy of a layer that takes packed signs, gives them, or does both."""
    arrays = layer.packed_arrays()
    bias = None if layer.bias is None else layer.bias.numpy()
    assert isinstance(layer.format, Binary)
    format_ = dataclasses.replace(
        layer.format, packed_inputs=takes, packed_outputs=between is not None
    )
    if between is not None:
        arrays, bias = _with_threshold(layer.format, arrays, bias, between)
    new = Dense(format=format_, **{**Dense.arguments(layer), "use_bias": bias is not None})
    input_shape = list((layer.get_build_config() or {})["input_shape"])
    if takes:
        input_shape[-1] = int(arrays["shape"][0]) // SIGNS_PER_WORD
    shapes = {name: array.shape for name, array in arrays.items()}
    new.build_from_config({"input_shape": input_shape, "packed_shapes": shapes})
    for name, variable in new._packed.items():
        variable.assign(arrays[name])
    if bias is not None:
        new.bias.assign(bias)
    return new


def _with_threshold(
    format_: Binary, arrays: Arrays, bias: npt.NDArray[np.float32] | None, between: Sequence[Layer]
) -> tuple[Arrays, npt.NDArray[np.float32]]:
    """Arrays with thresholds, and a bias that gives a float layer the same signs."""
    in_features, out_features = (int(size) for size in arrays["shape"])

    def outputs(sums: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        z = sums.astype(np.float32) * arrays["scale"]
        if bias is not None:
            z = z + bias
        for layer in between:
            if isinstance(layer, keras.layers.BatchNormalization):
                rank = len((layer.get_build_config() or {})["input_shape"])
                z = np.asarray(layer(z.reshape(*[1] * (rank - 1), -1), training=False))
        return z.reshape(-1)

    # Where outputs fall as sums rise, the weights are turned round, and with them the sums.
    most = np.full(out_features, in_features, np.int64)
    turned = np.where(outputs(most) < outputs(-most), -1, 1)
    if (turned < 0).any():
        weights = format_.unpack(arrays) * turned.astype(np.float32)
        arrays = {**format_.pack(weights), "scale": arrays["scale"]}
    threshold = least_sum(lambda sums: outputs(sums * turned) >= 0, in_features, out_features)
    middle = np.clip(threshold.astype(np.float32), -in_features - 1, in_features + 1) - 0.5
    arrays = {**arrays, "threshold": threshold}
    return arrays, (-middle * arrays["scale"]).astype(np.float32)


def least_sum(
    enough: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]],
    in_features: int,
    out_features: int,
) -> npt.NDArray[np.int32]:
    """The least integer sum of each output that is enough, by bisection.

    Args:
        enough: Tells of one sum per output whether it is enough; monotone.
        in_features: Sums lie in `-in_features ... in_features`.
        out_features: How many outputs there are.

    Returns:
        int32 `[out_features]`; the largest int32 where no sum is enough.
    """
    low = np.full(out_features, -in_features, np.int64)
    high = np.full(out_features, in_features + 1, np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        found = enough(middle)
        low, high = np.where(found | (low >= high), low, middle + 1), np.where(found, middle, high)
    return np.where(low > in_features, np.iinfo(np.int32).max, low).astype(np.int32)
