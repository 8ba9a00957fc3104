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
SIGNS = {"kernel_quantizer": SIGN(scale=True), "input_quantizer": SIGN()}


def unjoined(model: keras.Model, *formats: Any) -> keras.Model:
    return tfc.compress(model, *formats, batch_size=None, pack_signs=False)


def joined_layers(model: keras.Model) -> list[tuple[bool, bool]]:
    dense = [layer for layer in model.layers if isinstance(layer, Dense)]
    return [(layer.format.packed_inputs, layer.format.packed_outputs) for layer in dense]


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
    model = chain(use_bias=use_bias)
    compressed = unjoined(model)
    packed = tfc.compress(model, batch_size=None)
    np.testing.assert_array_equal(packed(x), compressed(x))
    dense = [layer for layer in packed.layers if isinstance(layer, Dense)]
    assert joined_layers(packed) == [(False, True), (True, True), (True, False)]
    assert not any(map(any, joined_layers(compressed)))
    assert [layer.name for layer in packed.layers] == [layer.name for layer in compressed.layers]
    # The last binary layer's BatchNormalization stays: a float layer takes its outputs.
    assert sum(isinstance(layer, Absorbed) for layer in packed.layers) == 4
    signs = keras.Model(packed.inputs[0], dense[0].output)(x)
    assert signs.dtype == "int32"
    assert signs.shape == (300, 3)


def test_sequences(x: Any) -> None:
    """The BatchNormalization between takes three dimensions."""
    keras.utils.set_random_seed(0)
    layers = [QuantDense(64, **SIGNS), keras.layers.BatchNormalization(), QuantDense(7, **SIGNS)]
    model = keras.Sequential([keras.Input((6, 50)), *layers])
    model.layers[1].beta.assign(np.random.default_rng(0).normal(size=64))
    packed = tfc.compress(model, batch_size=None)
    assert joined_layers(packed) == [(False, True), (True, False)]
    sequences = x.reshape(50, 6, 50)
    np.testing.assert_array_equal(packed(sequences), unjoined(model)(sequences))


def test_explicit_step_joins_what_was_left(x: Any) -> None:
    compressed = unjoined(chain())
    before = np.asarray(compressed(x))
    packed = tfc.pack_signs(compressed)
    assert joined_layers(packed) == [(False, True), (True, True), (True, False)]
    np.testing.assert_array_equal(packed(x), before)
    np.testing.assert_array_equal(compressed(x), before)
    assert not any(isinstance(layer, Absorbed) for layer in compressed.layers)


def test_explicit_step_leaves_a_joined_model_as_it_is(x: Any) -> None:
    packed = tfc.compress(chain(), batch_size=None)
    again = tfc.pack_signs(packed)
    assert again is not packed
    assert joined_layers(again) == joined_layers(packed)
    np.testing.assert_array_equal(again(x), packed(x))


def test_float_layers_are_reduced_and_joined(x: Any) -> None:
    """The BatchNormalization is in the weights already where layers were not trained for signs."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(64), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((50,)), *layers])
    model.layers[1].beta.assign(np.random.default_rng(0).normal(size=64))
    model.layers[1].gamma.assign(np.random.default_rng(1).normal(size=64))
    packed = tfc.compress(model, tfc.Binary("binary"), batch_size=None)
    assert joined_layers(packed) == [(False, True), (True, False)]
    np.testing.assert_array_equal(packed(x), unjoined(model, tfc.Binary("binary"))(x))


def test_search_joins_what_it_finds(x: Any) -> None:
    for pack_signs in (True, False):
        found = tfc.compress(
            chain(units=(512, 512)),
            "auto",
            data=(x, np.zeros(len(x), np.int64)),
            metric=lambda y, outputs: 1.0,
            candidates=[tfc.Binary("binary")],
            objective="size",
            batch_size=300,
            pack_signs=pack_signs,
        )
        if tfc.search_report(found).chosen:  # never slower, so that it may be nothing
            assert any(map(any, joined_layers(found))) == pack_signs


def notes_of(model: keras.Model, formats: Any = ()) -> dict[str, str]:
    report = tfc.report(model, tfc.compress(model, formats, batch_size=None))
    return {change.path: change.note for change in report.layers if change.note}


def test_half_precision_is_not_joined() -> None:
    """What is rounded between two layers can change a sign."""
    dense = [keras.layers.Dense(32, dtype="mixed_bfloat16", name=name) for name in ("one", "two")]
    model = keras.Sequential([keras.Input((8,)), *dense])
    assert "computes in bfloat16" in notes_of(model, tfc.Binary("binary"))["one"]
    with pytest.raises(ValueError, match=r"no two layers can be joined\.\n  one: .* in bfloat16"):
        tfc.pack_signs(unjoined(model, tfc.Binary("binary")))


def test_numbers_that_are_used_elsewhere_stay_numbers(x: Any) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((50,))
    seen = QuantDense(64, **SIGNS, name="seen")(inputs)
    norm = keras.layers.BatchNormalization()(seen)
    forked = QuantDense(64, **SIGNS, name="forked")(norm)
    last = QuantDense(64, **SIGNS, name="last")(keras.layers.Identity()(forked))
    head = QuantDense(5, **SIGNS, name="head")(keras.layers.Dropout(0.5)(last))
    model = keras.Model(inputs, [seen, head, keras.layers.Dense(2, name="other")(forked)])
    packed = tfc.compress(model, batch_size=None)
    for one, other in zip(packed(x), unjoined(model)(x), strict=True):
        np.testing.assert_array_equal(one, other)
    assert {
        layer.name: (layer.format.packed_inputs, layer.format.packed_outputs)
        for layer in packed.layers
        if isinstance(layer, Dense)
    } == {
        "seen": (False, False),
        "forked": (False, False),
        "last": (False, True),
        "head": (True, False),
    }
    notes = notes_of(model)
    assert "used in several places" in notes["seen"]
    assert "used in several places" in notes["forked"]
    assert "does the work of" not in notes.get("last", "")  # a Dropout has none


def test_a_layer_that_is_called_twice_is_not_joined(x: Any) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    shared = QuantDense(64, **SIGNS, name="shared")
    hidden = shared(keras.layers.BatchNormalization()(shared(inputs)))
    model = keras.Model(inputs, QuantDense(3, **SIGNS)(hidden))
    packed = tfc.compress(model, batch_size=None)
    wide = np.resize(x, (9, 64))
    np.testing.assert_array_equal(packed(wide), unjoined(model)(wide))
    assert not any(map(any, joined_layers(packed)))
    assert "used in several places" in notes_of(model)["shared"]


def test_report_names_what_became_thresholds() -> None:
    notes = notes_of(chain())
    assert sum("does the work of batch_normalization" in note for note in notes.values()) == 2


# Keras reads a Dense's variables in a way that NumPy warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_saved_and_exported(tmp_path: Path, x: Any) -> None:
    packed = tfc.compress(chain(), batch_size=None)
    packed.save(tmp_path / "packed.keras")
    again = keras.models.load_model(tmp_path / "packed.keras")
    np.testing.assert_array_equal(again(x), packed(x))
    packed.export(str(tmp_path / "packed"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "packed"))
    np.testing.assert_allclose(served.serve(x), packed(x), atol=1e-5)


def test_report_and_decompress(x: Any) -> None:
    model = chain()
    packed = tfc.compress(model, batch_size=None)
    report = tfc.report(model, packed, x)
    formats = [change.format for change in report.layers]
    assert formats.count("binary binary packed") == 3
    assert report.total.output_error is not None
    assert report.total.output_error < 1e-6
    plain = tfc.decompress(packed)
    assert not any(isinstance(layer, Dense) for layer in plain.layers)
    np.testing.assert_allclose(plain(x), packed(x), rtol=1e-5, atol=1e-5)


def test_decompressed_layers_can_be_compressed_again(x: Any) -> None:
    packed = tfc.compress(chain(), batch_size=None)
    again = tfc.compress(tfc.decompress(packed), batch_size=None)
    assert joined_layers(again) == joined_layers(packed)
    np.testing.assert_allclose(again(x), packed(x), rtol=1e-5, atol=1e-5)


def test_a_float_dense_with_the_bias_gives_the_same_signs(x: Any) -> None:
    packed = tfc.compress(chain(), batch_size=None)
    first = next(layer for layer in packed.layers if isinstance(layer, Dense))
    inputs = np.asarray(keras.Model(packed.inputs[0], first.input)(x))
    words = np.ascontiguousarray(np.asarray(first(inputs)))
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    signs = np.where(inputs < 0, -1, 1).astype("float32")
    for given in (signs, inputs):  # it takes signs itself
        np.testing.assert_array_equal(np.asarray(first.to_layer()(given)) >= 0, bits == 1)


def test_least_sum_is_what_a_search_through_all_sums_finds() -> None:
    rng = np.random.default_rng(0)
    bounds = np.concatenate([rng.integers(-12, 13, 40), [-100, 100, 10, -10, 11]])
    found = least_sum(lambda sums: sums >= bounds, 10, len(bounds))
    for bound, least in zip(bounds, found, strict=True):
        sums = [total for total in range(-10, 11) if total >= bound]
        assert least == (sums[0] if sums else np.iinfo(np.int32).max)


@pytest.mark.parametrize(
    ("formats", "reason"),
    [
        (tfc.Int8(), None),
        (tfc.Binary("int8"), None),
        (tfc.Binary("binary", center=True), "center=True"),
        (tfc.Binary("binary", scale_inputs=True), "scales its inputs"),
    ],
)
def test_what_cannot_be_joined(formats: tfc.Format, reason: str | None) -> None:
    model = keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(32) for _ in range(3))])
    with pytest.raises(ValueError, match="no two layers can be joined") as caught:
        tfc.pack_signs(tfc.compress(model, formats, batch_size=None))
    assert str(caught.value).count("\n") == (0 if reason is None else 2)
    assert (reason or "") in str(caught.value)


@pytest.mark.parametrize(("activation", "units"), [("relu", 32), ("linear", 33)])
def test_activations_and_odd_sizes_are_not_joined(activation: str, units: int) -> None:
    hidden = keras.layers.Dense(units, activation=activation)
    model = keras.Sequential([keras.Input((8,)), hidden, keras.layers.Dense(4)])
    reason = "activation is not linear" if activation == "relu" else "33 units are no multiple"
    with pytest.raises(ValueError, match=reason):
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
