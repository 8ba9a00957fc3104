"""Binary layers that feed each other pass signs on, packed, instead of numbers."""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
import numpy.typing as npt
from keras.layers import Layer

from tfcompress_ops.compression import check_model
from tfcompress_ops.formats import Binary
from tfcompress_ops.formats.format import SIGNS_PER_WORD, Arrays
from tfcompress_ops.layers.absorbed import Absorbed
from tfcompress_ops.layers.dense import Dense
from tfcompress_ops.preparation import followers
from tfcompress_ops.rebuilding import rebuild
from tfcompress_ops.structure import layer_paths

# What may stand between two layers beside a BatchNormalization: at inference it does nothing.
_PASSING = (Absorbed, keras.layers.Dropout, keras.layers.Identity)


def pack_signs(model: keras.Model) -> keras.Model:
    """Joins binary layers that feed each other, for inference.

    Where the outputs of a `Dense` with `Binary("binary")` go to another one and nowhere else, the
    second takes nothing but their signs. The first then compares each integer sum with a threshold
    that stands for its scale and bias and a BatchNormalization between the two, and passes the
    results on as words of 32 signs: no number is computed that is not needed. A threshold is found
    by running the layers in between on the sums themselves, so that every sign is the one that
    they would have given. What was in between becomes a `layers.Absorbed` of the same name.

    Layers are joined that compute in float32 and whose activation is linear, with neither `center`
    nor `scale_inputs`, with a multiple of 32 units and scales >= 0. A NaN does not get through
    packed signs.

    Args:
        model: A built model that `tfc.compress` made, Sequential or Functional (others in it
            included). It is left as it is.

    Returns:
        A new model with the same outputs.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not built, or no two layers can be joined.

    References:
        Larq Compute Engine (Bannink et al., "Larq Compute Engine: Design, Benchmark, and Deploy
        State-of-the-Art Binarized Neural Networks", 2021) writes signs between its convolutions.
    """
    check_model(model)
    links = {}
    for layer in layer_paths(model).values():
        link = _link(model, layer)
        if link is not None:
            links[layer] = link
    if not links:
        raise ValueError(
            f"`model` must have a Dense of Binary('binary') that feeds another one; received "
            f"{model.name!r}, in which no two layers can be joined."
        )
    takers = {taker for _, taker in links.values()}
    new_layers: dict[Layer, Layer] = {}
    for layer in {*links, *takers}:
        between = links[layer][0] if layer in links else None
        new_layers[layer] = _joined(layer, between, layer in takers)
        for passed in between or ():
            new_layers[passed] = Absorbed(
                name=passed.name, dtype=passed.dtype_policy, trainable=passed.trainable
            )
    return rebuild(model, new_layers.get)


def _link(model: keras.Model, layer: Layer) -> tuple[list[Layer], Layer] | None:
    """What stands between a layer and the one that takes its signs, and that one."""
    if not _is_binary(layer):
        return None
    gives = (
        layer.activation is keras.activations.linear
        and layer.units % SIGNS_PER_WORD == 0
        and not layer.format.center
        and not layer.format.packed_outputs
        and bool((layer.packed_arrays()["scale"] >= 0).all())
    )
    between: list[Layer] = []
    for after in followers(model, layer) if gives else ():
        if _is_binary(after):
            return between, after
        is_norm = type(after) is keras.layers.BatchNormalization
        if type(after) not in _PASSING and not (is_norm and _is_last_axis(after)):
            return None
        between.append(after)
    return None


def _is_binary(layer: Layer) -> bool:
    return (
        type(layer) is Dense
        and isinstance(layer.format, Binary)
        and layer.format.activations == "binary"
        and not layer.format.scale_inputs
        and not layer.format.packed_inputs
        and layer.compute_dtype == "float32"
    )


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
