"""layers.Dense as a Keras layer."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend import AutocastScope
from keras.src.testing import TestCase
from keras.src.trainers.trainer import model_supports_jit

import tfcompress_ops as tfc
from tfcompress_ops import layers
from tfcompress_ops.layers import layer as layer_lib

# Keras' quantize() reads its variables in a way that NumPy 2 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

EVERY_FORMAT = [format_ for _, format_ in tfc.Int8.variants()]
X = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)


@keras.saving.register_keras_serializable("tfcompress_tests")
def shifted_relu(z):
    return keras.ops.relu(z) + 1


def keras_dense(units=5, x=X, **kwargs):
    layer = keras.layers.Dense(units, bias_initializer="normal", **kwargs)
    layer(x)
    return layer


def model_of(*model_layers, shape=(12,), dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *model_layers])


def test_is_the_format_and_the_bias():
    layer = layers.Dense(5, format=tfc.Int8(), activation="relu", bias_initializer="normal")
    y = layer(X)
    assert y.shape == (6, 5)
    expected = layer.format.matmul(
        tf.constant(X), layer.packed_arrays(), bias=layer.bias, activation="relu"
    )
    np.testing.assert_array_equal(y, expected)
    exact = np.maximum(X @ layer.weight_matrix() + layer.bias.numpy(), 0)
    np.testing.assert_allclose(y, exact, atol=0.02 * np.abs(exact).max())


def test_activation_is_fused_where_it_can_be():
    def ops_of(activation):
        layer = layers.Dense(5, activation=activation)
        layer.build((None, 12))
        graph = tf.function(layer).get_concrete_function(tf.TensorSpec((None, 12))).graph
        return {node.type for node in graph.get_operations()}

    assert "Tfcompress>Int8MatMul" in ops_of("relu")
    assert not {"Relu", "BiasAdd", "AddV2", "MatMul"} & ops_of("relu")
    assert "Softmax" in ops_of("softmax")


@pytest.mark.parametrize("format_", EVERY_FORMAT, ids=lambda format_: format_.label)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("activation", [None, "gelu", "softmax"])
def test_replaces_a_keras_layer(format_, dtype, activation):
    original = keras_dense(activation=activation, dtype=dtype)
    layer = layers.Dense.from_layer(original, format_, calibration=float(np.abs(X).max()))
    y, expected = layer(X), original(X)
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(
        np.float32(y), np.float32(expected), atol=0.03 * np.abs(np.float32(expected)).max() + 0.01
    )
    assert (layer.name, layer.dtype_policy.name) == (original.name, dtype)
    np.testing.assert_array_equal(layer.bias, original.bias)
    assert layer.bias is not original.bias
    restored = layer.to_layer()
    assert type(restored) is keras.layers.Dense
    assert restored.get_config() == original.get_config()
    np.testing.assert_array_equal(restored.kernel, layer.weight_matrix())


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_dtype_policies(dtype):
    layer = layers.Dense(5, dtype=dtype)
    y = layer(X)
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    assert layer.bias.dtype == "float32"
    dtypes = {variable.name: variable.dtype for variable in layer.non_trainable_variables}
    assert dtypes == {"kernel": "uint8", "scale": "float32", "shape": "int32"}
    with AutocastScope(layer.compute_dtype):
        assert tf.convert_to_tensor(layer.bias).dtype == tf.float32


def test_float64_is_refused():
    with pytest.raises(ValueError, match=r"`dtype` must compute in one of .*received 'float64'"):
        layers.Dense(5, dtype="float64")


@pytest.mark.parametrize("x", [X.astype(np.float64), (10 * X).astype(np.int32), X > 0])
def test_inputs_are_cast_as_keras_does(x):
    original = keras_dense()
    layer = layers.Dense.from_layer(original, "int8")
    y = layer(x)
    assert y.dtype == tf.float32
    np.testing.assert_allclose(y, original(tf.cast(x, tf.float32)), atol=0.5)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_standard_layer_test():
    TestCase().run_layer_test(
        layers.Dense,
        init_kwargs={
            "units": 4,
            "format": "int8",
            "activation": "relu",
            "bias_initializer": "random_uniform",
            "bias_regularizer": "l2",
        },
        input_shape=(2, 3),
        expected_output_shape=(2, 4),
        expected_num_trainable_weights=1,
        expected_num_non_trainable_weights=3,
        expected_num_seed_generators=0,
        expected_num_losses=1,
        supports_masking=True,
        run_training_check=True,
    )


def test_config_round_trip():
    layer = layers.Dense(
        5,
        format=tfc.Int8("float", center=True),
        activation=shifted_relu,
        use_bias=True,
        kernel_initializer="he_normal",
        bias_initializer="ones",
        kernel_regularizer="l1",
        bias_regularizer="l2",
        activity_regularizer="l1",
        kernel_constraint="non_neg",
        bias_constraint="max_norm",
        name="head",
        trainable=False,
        dtype="mixed_bfloat16",
    )
    config = layer.get_config()
    again = layers.Dense.from_config(config)
    assert again.get_config() == config
    assert again.format == layer.format
    assert again.activation is shifted_relu
    keras_arguments = set(keras.layers.Dense(1).get_config()) - {"quantization_config"}
    assert set(config) >= keras_arguments


@pytest.mark.parametrize("units", [0, -1, 2.0, "3", True])
def test_units_are_checked(units):
    with pytest.raises(ValueError, match="`units` must be a positive integer"):
        layers.Dense(units)


def test_unknown_arguments_are_refused():
    with pytest.raises((TypeError, ValueError), match="lora_rank"):
        layers.Dense(3, lora_rank=2)
    with pytest.raises(ValueError, match="`format` must be one of"):
        layers.Dense(3, format="int3")


def test_input_shape_is_checked():
    layer = layers.Dense(5)
    with pytest.raises(ValueError, match="min_ndim=2"):
        layer(X[0])
    with pytest.raises(ValueError, match="`input_shape` must have a known last dimension"):
        layers.Dense(5)(keras.Input((None,)))
    layer.build((None, 12))
    with pytest.raises(ValueError, match="expected axis -1"):
        layer(X[:, :3])
    assert layer.compute_output_shape((None, 7, 12)) == (None, 7, 5)


@pytest.mark.parametrize("shape", [(12,), (3, 12), (2, 3, 12), (None, 12)])
def test_builds_from_shapes_of_every_rank(shape):
    inputs = keras.Input(shape)
    outputs = layers.Dense(5)(inputs)
    assert outputs.shape == (None, *shape[:-1], 5)
    assert outputs.dtype == "float32"
    model = keras.Model(inputs, outputs)
    x = np.ones((2, *(4 if size is None else size for size in shape)), np.float32)
    assert model(x).shape == (*x.shape[:-1], 5)


def test_no_bias():
    layer = layers.Dense.from_layer(keras_dense(use_bias=False), "int8")
    assert layer.bias is None
    assert layer.trainable_variables == []
    assert layer.to_layer().bias is None


def test_masks_pass_through():
    x = np.ones((2, 3, 12), np.float32)
    x[:, 2] = 0
    masked = keras.layers.Masking()(x)
    y = layers.Dense(5)(masked)
    np.testing.assert_array_equal(y._keras_mask, [[True, True, False]] * 2)


def test_xla_is_off():
    model = model_of(layers.Dense(5))
    assert not layers.Dense(5).supports_jit
    model.compile("sgd", "mse", jit_compile="auto")
    assert not model.jit_compile
    assert not model_supports_jit(model)


def test_only_the_bias_is_trained():
    layer = layers.Dense(1, bias_regularizer="l2", activation="tanh")
    model = model_of(keras.layers.Dense(12), layer)
    model.compile("sgd", "mse")
    before = layer.packed_arrays()
    weights = [variable.numpy() for variable in model.trainable_variables]
    assert len(weights) == 3
    model.fit(X, np.ones((6, 1)), epochs=2, verbose=0)
    for name, array in layer.packed_arrays().items():
        np.testing.assert_array_equal(array, before[name])
    for old, new in zip(weights, model.trainable_variables, strict=True):
        assert np.abs(old - new.numpy()).max() > 0
    layer.trainable = False
    assert layer.trainable_variables == []


@pytest.mark.parametrize("format_", EVERY_FORMAT, ids=lambda format_: format_.label)
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_saved_and_loaded(format_, dtype, tmp_path):
    model = model_of(
        layers.Dense.from_layer(
            keras_dense(7, activation="relu", dtype=dtype), format_, calibration=3.0
        ),
        keras.layers.Dense(3),
    )
    expected = model(X)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), expected)
    assert loaded.layers[0].format == format_

    model.save_weights(tmp_path / "model.weights.h5")
    blank = keras.Sequential.from_config(model.get_config())
    blank.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(blank(X), expected)

    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(X), expected)


def test_loading_neither_draws_nor_packs(tmp_path, monkeypatch):
    model = model_of(layers.Dense(5))
    model.save(tmp_path / "model.keras")

    def unexpected(*_):
        raise AssertionError("packed while loading")

    for name in ("pack", "unpack", "pack_quantized"):
        monkeypatch.setattr(tfc.Int8, name, unexpected)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), model(X))
    layer = layers.Dense(5)
    layer.build_from_config({"input_shape": (None, 12)})
    np.testing.assert_array_equal(layer(X), 0)


def test_file_holds_the_packed_arrays_and_no_more(tmp_path):
    model = model_of(layers.Dense(256), shape=(256,))
    model.save_weights(tmp_path / "model.weights.h5")
    stored = {}
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(
            lambda path, item: (
                stored.update({path.rpartition("/")[2]: item})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
        sizes = {name: item.nbytes for name, item in stored.items()}
    assert sizes == {"kernel": 256 * 256, "scale": 1024, "shape": 8, "bias": 1024}


def edit(path, name, change):
    """Changes one dataset of the only layer in a weights file."""
    with h5py.File(path, "r+") as file:
        group = file.get("layers/dense/vars")
        assert group is not None, list(file["layers"])
        value = group[name][()]
        del group[name]
        changed = change(value)
        if changed is not None:
            group[name] = changed


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("kernel", lambda value: value[:-1], r"`kernel` must have shape \(192,\)"),
        ("kernel", lambda value: value.astype(np.float32), "`kernel` must be uint8"),
        ("kernel", lambda value: None, r"must be named \['bias', 'kernel'"),
        ("scale", lambda value: value * np.nan, "`scale` must be finite"),
        ("scale", lambda value: value.astype(np.float64), "`scale` must be float32"),
        ("shape", lambda value: value[::-1].copy(), r"`shape` must hold \(12, 5\)"),
        ("bias", lambda value: value[:, None], r"`bias` must have shape \(5,\)"),
    ],
)
def test_malformed_weights_files(name, change, message, tmp_path):
    path = tmp_path / "model.weights.h5"
    model = model_of(layers.Dense(5))
    model.save_weights(path)
    edit(path, name, change)
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"does not fit layer 'dense.*{message}"):
        model.load_weights(path)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)  # nothing was half loaded


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"kernel": [192], "scale": [5]}, "must be named"),
        ({"kernel": [191], "scale": [5], "shape": [2]}, r"`kernel` must have shape \(192,\)"),
        ({"kernel": [12, 16], "scale": [5], "shape": [2]}, r"received \(12, 16\)"),
    ],
)
def test_malformed_build_config(shapes, message):
    with pytest.raises(ValueError, match=f"`packed_shapes` of layer 'd' must fit .*{message}"):
        layers.Dense(5, name="d").build_from_config(
            {"input_shape": [None, 12], "packed_shapes": shapes}
        )


def test_static_layer_waits_for_its_arrays():
    layer = layers.Dense(5, format=tfc.Int8("static"))
    np.testing.assert_array_equal(layer.build((None, 12)) or layer.packed_arrays()["scale"], 0)


def test_exported(tmp_path):
    model = model_of(layers.Dense(5, activation="silu"), layers.Dense(3, activation="softmax"))
    model.export(tmp_path / "saved_model", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved_model"))
    np.testing.assert_allclose(served.serve(X), model(X), rtol=1e-6)
    np.testing.assert_allclose(served.serve(X[:1]), model(X[:1]), rtol=1e-6)


def test_tf_checkpoint(tmp_path):
    model, other = (model_of(layers.Dense(5)) for _ in range(2))
    path = tf.train.Checkpoint(model).save(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(other).restore(path).assert_existing_objects_matched()
    np.testing.assert_array_equal(other(X), model(X))


def test_int8_of_keras_is_kept_exactly():
    original = keras_dense(activation="relu")
    original.quantize("int8")
    layer = layers.Dense.from_layer(original, "int8")
    assert layer.dtype_policy.name == "float32"
    np.testing.assert_array_equal(
        tfc.kernels.int8_unpack(layer.packed_arrays()["kernel"], 12, 5), original._kernel
    )
    np.testing.assert_allclose(layer.packed_arrays()["scale"], 1 / original.kernel_scale.numpy())
    np.testing.assert_allclose(layer(X), original(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_int8_of_keras_under_a_policy(policy):
    original = keras_dense(dtype=policy)
    original.quantize("int8")
    layer = layers.Dense.from_layer(original, tfc.Int8("float", center=True))
    assert layer.dtype_policy.name == policy
    np.testing.assert_allclose(np.float32(layer(X)), np.float32(original(X)), atol=0.05, rtol=0.05)


def quantized(mode, **config):
    layer = keras_dense(8)
    layer.quantize(mode, config=config.get("config"))
    return layer


def with_lora_on_int8():
    layer = quantized("int8")
    layer.enable_lora(2)
    return layer


def with_minus_128():
    layer = quantized("int8")
    layer._kernel.assign(np.full((12, 8), -128, np.int8))
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: quantized("int4"), "quantised it to int4, which no format holds exactly"),
        (lambda: quantized("float8"), "quantised it to float8"),
        (with_lora_on_int8, "LoRA weights beside an int8 kernel"),
        (with_minus_128, "holds -128"),
        (lambda: keras_dense(dtype="float64"), "computes in float64"),
        (lambda: keras.layers.Dense(3), "it is not built"),
        (lambda: keras.layers.Dropout(0.5), "Dropout has no compressed counterpart"),
    ],
)
def test_layers_that_cannot_be_compressed(make, reason):
    layer = make()
    assert layer_lib.refusal(layer) is not None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(layer_lib.refusal(layer))
    if isinstance(layer, keras.layers.Dense):
        with pytest.raises(ValueError, match=rf"`layer` must be compressible; received .*{reason}"):
            layers.Dense.from_layer(layer, "int8")


def test_layers_of_another_class_are_refused():
    with pytest.raises(ValueError, match="Dense replaces Dense, not Dropout"):
        layers.Dense.from_layer(keras.layers.Dropout(0.5), "int8")


def test_subclasses_of_dense_are_left_alone():
    class Other(keras.layers.Dense):
        pass

    assert layers.replacement(keras_dense()) is layers.Dense
    assert layers.replacement(Other(3)) is None


def test_lora_is_merged():
    original = keras_dense()
    original.enable_lora(2, lora_alpha=3)
    original.lora_kernel_b.assign(np.ones((2, 5)))
    layer = layers.Dense.from_layer(original, "int8")
    np.testing.assert_allclose(layer(X), original(X), atol=0.02 * np.abs(original(X)).max())
    assert layer.to_layer().lora_enabled is False


def test_the_original_is_left_alone():
    original = keras_dense()
    before = original.get_weights()
    layer = layers.Dense.from_layer(original, "int8")
    layer.bias.assign(layer.bias + 1)
    for old, new in zip(before, original.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
