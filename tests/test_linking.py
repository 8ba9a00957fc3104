"""pack_signs: binary layers that feed each other compute the same, and pass signs."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops.layers import Absorbed, Dense, QuantDense
from tfcompress_ops.linking import least_sum

SIGN = tfc.quantizers.SteSign


def chain(units: tuple[int, ...] = (96, 64, 32), **options: Any) -> keras.Model:
    """Binary layers with BatchNormalization between, of random statistics and signs of gamma."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    layers: list[keras.layers.Layer] = [keras.Input((50,)), keras.layers.Dense(64)]
    for index, size in enumerate(units):
        quantizer = SIGN(scale=index % 2 == 0)
        layers += [
            QuantDense(size, kernel_quantizer=quantizer, input_quantizer=SIGN(), **options),
            keras.layers.BatchNormalization(scale=index != 1),
            keras.layers.Dropout(0.2),
        ]
    model = keras.Sequential([*layers, keras.layers.Dense(3)])
    for layer in model.layers:
        for variable in layer.weights:
            if isinstance(layer, keras.layers.BatchNormalization):
                variance = variable.name == "moving_variance"
                values = rng.normal(size=variable.shape)
                variable.assign(np.square(values) * 30 + 1 if variance else values)
            elif variable.name == "bias":
                variable.assign(rng.normal(size=variable.shape))
    return model


@pytest.fixture(scope="module")
def x() -> Any:
    return np.random.default_rng(0).normal(size=(300, 50)).astype("float32")


@pytest.mark.parametrize("use_bias", [True, False])
def test_outputs_stay_the_same_bit_for_bit(use_bias: bool, x: Any) -> None:
    compressed = tfc.compress(chain(use_bias=use_bias), batch_size=None)
    packed = tfc.pack_signs(compressed)
    np.testing.assert_array_equal(packed(x), compressed(x))
    dense = [layer for layer in packed.layers if isinstance(layer, Dense)]
    kinds = [(layer.format.packed_inputs, layer.format.packed_outputs) for layer in dense]
    assert kinds == [(False, True), (True, True), (True, False)]
    assert [layer.name for layer in packed.layers] == [layer.name for layer in compressed.layers]
    # The last binary layer's BatchNormalization stays: a float layer takes its outputs.
    assert sum(isinstance(layer, Absorbed) for layer in packed.layers) == 4
    signs = keras.Model(packed.inputs[0], dense[0].output)(x)
    assert signs.dtype == "int32"
    assert signs.shape == (300, 3)


def test_sequences(x: Any) -> None:
    """The BatchNormalization between takes three dimensions."""
    keras.utils.set_random_seed(0)
    signs = {"kernel_quantizer": SIGN(), "input_quantizer": SIGN()}
    layers = [QuantDense(64, **signs), keras.layers.BatchNormalization(), QuantDense(7, **signs)]
    model = keras.Sequential([keras.Input((6, 50)), *layers])
    model.layers[1].beta.assign(np.random.default_rng(0).normal(size=64))
    compressed = tfc.compress(model, batch_size=None)
    sequences = x.reshape(50, 6, 50)
    np.testing.assert_array_equal(tfc.pack_signs(compressed)(sequences), compressed(sequences))


def test_half_precision_is_not_joined() -> None:
    """What is rounded between two layers can change a sign."""
    dense = [keras.layers.Dense(32, dtype="mixed_bfloat16") for _ in range(2)]
    model = keras.Sequential([keras.Input((8,)), *dense])
    with pytest.raises(ValueError, match="no two layers can be joined"):
        tfc.pack_signs(tfc.compress(model, tfc.Binary("binary"), batch_size=None))


def test_original_is_left_as_it_is(x: Any) -> None:
    compressed = tfc.compress(chain(), batch_size=None)
    before = np.asarray(compressed(x))
    tfc.pack_signs(compressed)
    np.testing.assert_array_equal(compressed(x), before)
    assert not any(isinstance(layer, Absorbed) for layer in compressed.layers)


# Keras reads a Dense's variables in a way that NumPy warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_saved_and_exported(tmp_path: Path, x: Any) -> None:
    packed = tfc.pack_signs(tfc.compress(chain(), batch_size=None))
    packed.save(tmp_path / "packed.keras")
    again = keras.models.load_model(tmp_path / "packed.keras")
    np.testing.assert_array_equal(again(x), packed(x))
    packed.export(str(tmp_path / "packed"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "packed"))
    np.testing.assert_allclose(served.serve(x), packed(x), atol=1e-5)


def test_report_and_decompress(x: Any) -> None:
    model = chain()
    packed = tfc.pack_signs(tfc.compress(model, batch_size=None))
    report = tfc.report(model, packed, x)
    formats = [change.format for change in report.layers]
    assert formats.count("binary binary packed") == 3
    assert report.total.output_error is not None
    assert report.total.output_error < 1e-6
    plain = tfc.decompress(packed)
    assert not any(isinstance(layer, Dense) for layer in plain.layers)


def test_a_float_dense_with_the_bias_gives_the_same_signs(x: Any) -> None:
    packed = tfc.pack_signs(tfc.compress(chain(), batch_size=None))
    first = next(layer for layer in packed.layers if isinstance(layer, Dense))
    inputs = np.asarray(keras.Model(packed.inputs[0], first.input)(x))
    words = np.ascontiguousarray(np.asarray(first(inputs)))
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    signs = np.where(inputs < 0, -1, 1).astype("float32")
    np.testing.assert_array_equal(np.asarray(first.to_layer()(signs)) >= 0, bits == 1)


def test_least_sum_is_what_a_search_through_all_sums_finds() -> None:
    rng = np.random.default_rng(0)
    bounds = np.concatenate([rng.integers(-12, 13, 40), [-100, 100, 10, -10, 11]])
    found = least_sum(lambda sums: sums >= bounds, 10, len(bounds))
    for bound, least in zip(bounds, found, strict=True):
        sums = [total for total in range(-10, 11) if total >= bound]
        assert least == (sums[0] if sums else np.iinfo(np.int32).max)


@pytest.mark.parametrize(
    "formats",
    [
        tfc.Int8(),
        tfc.Binary("int8"),
        tfc.Binary("binary", center=True),
        tfc.Binary("binary", scale_inputs=True),
    ],
)
def test_what_cannot_be_joined(formats: tfc.Format) -> None:
    model = keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(32) for _ in range(3))])
    with pytest.raises(ValueError, match="no two layers can be joined"):
        tfc.pack_signs(tfc.compress(model, formats, batch_size=None))


@pytest.mark.parametrize(("activation", "units"), [("relu", 32), ("linear", 33)])
def test_activations_and_odd_sizes_are_not_joined(activation: str, units: int) -> None:
    hidden = keras.layers.Dense(units, activation=activation)
    model = keras.Sequential([keras.Input((8,)), hidden, keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="no two layers can be joined"):
        tfc.pack_signs(tfc.compress(model, tfc.Binary("binary"), batch_size=None))


def test_errors_of_formats_and_layers() -> None:
    with pytest.raises(ValueError, match="`packed_outputs` goes with activations='binary' only"):
        tfc.Binary("int8", packed_outputs=True)
    with pytest.raises(ValueError, match="`center` must be False with `packed_outputs`"):
        tfc.Binary("binary", center=True, packed_outputs=True)
    with pytest.raises(ValueError, match="`scale_inputs` must be False"):
        tfc.Binary("binary", scale_inputs=True, packed_inputs=True)
    with pytest.raises(ValueError, match="`units` must be a multiple of 32"):
        Dense(33, format=tfc.Binary("binary", packed_outputs=True))
