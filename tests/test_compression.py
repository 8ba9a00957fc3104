"""compress and decompress on whole models."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops import structure
from tfcompress_ops.layers import Dense

# Keras' quantize() reads its variables in a way that NumPy 2 warns about.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method"),
]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, 8)).astype(np.float32)
D = keras.layers.Dense


def sequential():
    return keras.Sequential(
        [
            keras.Input((8,), name="pixels"),
            D(16, activation="relu", name="hidden"),
            keras.layers.Dropout(0.5, name="dropout"),
            D(4, activation="softmax", name="head"),
        ],
        name="small",
    )


def nested():
    """Nested Functional in Sequential in Functional, shared layers, a model called twice."""
    inner_inputs = keras.Input((8,))
    inner = keras.Model(inner_inputs, D(8, "tanh", name="dense")(inner_inputs), name="inner")
    encoder = keras.Sequential([keras.Input((8,)), inner, D(6, name="dense")], name="encoder")
    left, right = keras.Input((8,), name="left"), keras.Input((8,), name="right")
    shared = D(8, activation="gelu", name="shared")
    a, b = shared(left), shared(right)
    merged = keras.layers.Add(name="add")([encoder(a), encoder(b)])
    merged = keras.ops.tanh(merged) * 2.0
    normed = keras.layers.BatchNormalization(name="norm")(merged)
    return keras.Model(
        {"left": left, "right": right},
        {"b": D(3, name="out_b")(normed), "a": D(2, name="out_a")(merged)},
        name="nested",
    )


NESTED_X = {"left": X, "right": X[::-1].copy()}


def names(model):
    return [layer.name for layer in model.layers]


def classes(model):
    return {path: type(layer) for path, layer in structure.layer_paths(model).items()}


def assert_close(actual, expected, tolerance=0.05):
    for one, other in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other)


def test_sequential():
    model = sequential()
    before = model.get_weights()
    small = tfc.compress(model, tfc.Int8())
    assert isinstance(small, keras.Sequential)
    assert (small.name, names(small)) == (model.name, names(model))
    assert classes(small) == {
        "hidden": Dense,
        "dropout": keras.layers.Dropout,
        "head": Dense,
    }
    assert small.inputs[0].name == "pixels"
    assert_close(small(X), model(X))
    assert small.predict(X, verbose=0).shape == (150, 4)
    # The original is untouched, and nothing is shared with it.
    for variable in small.trainable_variables:
        variable.assign(variable + 1)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(len(layer._inbound_nodes) == 1 for layer in model.layers)
    assert not set(map(id, small.variables)) & set(map(id, model.variables))
    assert not set(map(id, small.layers)) & set(map(id, model.layers))


def test_nested_and_shared():
    model = nested()
    model.get_layer("norm").moving_mean.assign(RNG.normal(size=6))
    small = tfc.compress(model, "int8")
    assert names(small) == names(model)
    assert list(structure.layer_paths(small)) == list(structure.layer_paths(model))
    kinds = classes(small)
    compressed = ["shared", "encoder/inner/dense", "encoder/dense", "out_a", "out_b"]
    assert sorted(path for path, kind in kinds.items() if kind is Dense) == sorted(compressed)
    outputs, expected = small(NESTED_X), model(NESTED_X)
    assert list(outputs) == list(expected) == ["b", "a"]
    assert_close(outputs, expected)
    assert small.output_names == model.output_names
    distinct = set(structure.layer_paths(small).values())
    assert len(small.weights) == sum(len(layer.weights) for layer in distinct)
    restored = tfc.decompress(small)
    assert classes(restored) == classes(model)
    assert_close(restored(NESTED_X), outputs)


def test_shared_nested_models_stay_shared():
    inputs = keras.Input((8,))
    block = keras.Sequential([keras.Input((8,)), D(8, name="dense")], name="block")
    model = keras.Model(inputs, block(block(inputs)))
    other = keras.Sequential([keras.Input((8,)), model, block], name="other")
    small = tfc.compress(other, "int8")
    paths = structure.layer_paths(small)
    assert len(paths) == 2
    assert len({*paths.values()}) == 1
    assert_close(small(X), other(X))


def test_patterns():
    model = nested()
    small = tfc.compress(
        model, {"out_a": None, "encoder/*": tfc.Int8("float"), "*": tfc.Int8(center=True)}
    )
    layers = structure.layer_paths(small)
    assert type(layers["out_a"]) is D
    assert layers["encoder/inner/dense"].format == tfc.Int8("float")
    assert layers["encoder/dense"].format == tfc.Int8("float")
    assert layers["shared"].format == tfc.Int8(center=True)
    assert layers["out_b"].format == tfc.Int8(center=True)
    # Without a catch-all, what no pattern names stays.
    small = tfc.compress(model, {"out_[ab]": "int8"})
    kinds = classes(small)
    assert sorted(path for path, kind in kinds.items() if kind is Dense) == ["out_a", "out_b"]


@pytest.mark.parametrize("pattern", ["Encoder/dense", "encoder/inner/dens", "encodr/*"])
def test_patterns_that_match_nothing(pattern):
    with pytest.raises(ValueError, match=rf"received the pattern '{pattern.replace('*', '.*')}'"):
        tfc.compress(nested(), {pattern: "int8"})
    with pytest.raises(ValueError, match=r"nearest layer paths are .*'encoder/"):
        tfc.compress(nested(), {pattern: None})


def test_patterns_that_can_do_nothing():
    with pytest.raises(
        ValueError, match=r"'norm', which matches only\n  norm: BatchNormal.*has no"
    ):
        tfc.compress(nested(), {"norm": "int8", "shared": "int8"})


def test_nothing_to_compress():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dropout(0.1, name="drop")])
    with pytest.raises(ValueError, match=r"nothing to compress:\n  drop: Dropout has no"):
        tfc.compress(model, "int8")
    with pytest.raises(ValueError, match="hidden: `formats` leaves it as it is"):
        tfc.compress(sequential(), {"*": None})
    with pytest.raises(ValueError, match="head: it is compressed already"):
        tfc.compress(tfc.compress(sequential(), "int8"), "int8")


def test_formats_are_checked():
    with pytest.raises(ValueError, match="`format` must be one of"):
        tfc.compress(sequential(), "int7")
    with pytest.raises(TypeError, match="`format` must be a Format"):
        tfc.compress(sequential(), {"*": 8})
    config = keras.saving.serialize_keras_object(tfc.Int8("float"))
    assert tfc.compress(sequential(), config).get_layer("head").format == tfc.Int8("float")


@pytest.mark.parametrize(
    ("formats", "options", "error", "message"),
    [
        ({3: "int8"}, {}, TypeError, "`formats` must map glob patterns .* received the pattern 3"),
        ("int8", {"batchsize": 3}, TypeError, "compress.. has no option 'batchsize'"),
        ("auto", {"datta": X}, TypeError, "compress.. has no option 'datta'; .* takes data, "),
        ("auto", {}, ValueError, "`data` must be given with formats='auto'"),
        ("auto", {"data": X, "batch_size": 0}, ValueError, "`batch_size` must be a positive"),
        ("auto", {"calibration_data": X}, ValueError, "`calibration_data` must be None with"),
        ("auto", {"data": X, "calibration": "mean"}, ValueError, "`calibration` must be one of"),
        ("auto", {"data": (X, X)}, ValueError, "`data` must hold .*, one array; received 2"),
        ("auto", {"data": 3, "metric": "accuracy"}, TypeError, "`data` must be two arrays or an"),
        ("auto", {"data": X[:, :3]}, ValueError, r"`data` must hold inputs .*shape \(64, 3\)"),
        ("sparse", {"batch_size": True}, ValueError, "`batch_size` must be .*; received True"),
    ],
)
def test_options_are_checked(formats, options, error, message):
    with pytest.raises(error, match=message):
        tfc.compress(sequential(), formats, **options)


def test_numbers_of_numpy_are_numbers():
    tfc.compress(sequential(), {"head": "int8"}, batch_size=np.int64(8))


def test_keras_quantizes_nothing_twice():
    small = tfc.compress(sequential(), {"hidden": "int8"})
    with pytest.raises(NotImplementedError, match="'hidden' is compressed already, to Int8"):
        small.get_layer("hidden").quantize("int8")
    with pytest.warns(UserWarning, match="'hidden' is compressed already"):
        small.quantize("int8")
    assert small.get_layer("head").quantization_mode == "int8"
    assert small(X).shape == (150, 4)


def test_compressed_layers_are_left():
    small = tfc.compress(sequential(), {"hidden": tfc.Int8("float")})
    both = tfc.compress(small, "int8")
    assert both.get_layer("hidden").format == tfc.Int8("float")
    assert both.get_layer("head").format == tfc.Int8()
    for name, array in small.get_layer("hidden").packed_arrays().items():
        np.testing.assert_array_equal(both.get_layer("hidden").packed_arrays()[name], array)
    assert_close(both(X), small(X))


@pytest.mark.parametrize("convert", [lambda m: tfc.compress(m, "int8"), tfc.decompress])
def test_models_that_are_refused(convert):
    with pytest.raises(ValueError, match="`model` must be built"):
        convert(keras.Sequential([D(3)]))
    with pytest.raises(TypeError, match=r"`model` must be a keras\.Model; received Dense"):
        convert(D(3))


def test_decompress():
    model = sequential()
    small = tfc.compress(model, tfc.Int8(center=True))
    plain = tfc.decompress(small)
    assert classes(plain) == classes(model)
    assert plain.get_config() == model.get_config()
    np.testing.assert_array_equal(
        plain.get_layer("head").kernel, small.get_layer("head").weight_matrix()
    )
    np.testing.assert_array_equal(plain.get_layer("head").bias, small.get_layer("head").bias)
    with pytest.raises(ValueError, match="`model` must have compressed layers; received 'small'"):
        tfc.decompress(model)


def test_compressing_again_loses_nothing():
    small = tfc.compress(sequential(), "int8")
    again = tfc.compress(tfc.decompress(small), "int8")
    for path in ("hidden", "head"):
        one, other = (model.get_layer(path).packed_arrays() for model in (small, again))
        np.testing.assert_array_equal(one["kernel"], other["kernel"])


def test_compiled_models_stay_compiled():
    model = sequential()
    model.compile(
        keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    y = RNG.integers(0, 4, 150)
    model.fit(X, y, verbose=0)
    small = tfc.compress(model, "int8")
    assert small.compiled
    assert not small.jit_compile
    assert small.optimizer is not model.optimizer
    assert float(small.optimizer.learning_rate) == pytest.approx(0.003)
    before, after = (m.evaluate(X, y, verbose=0, return_dict=True) for m in (model, small))
    assert set(before) == set(after)
    assert after["loss"] == pytest.approx(before["loss"], rel=0.05)
    small.fit(X, y, verbose=0)  # biases
    assert tfc.decompress(small).compiled
    assert not tfc.compress(sequential(), "int8").compiled


def test_compiled_with_custom_objects():
    def my_loss(y, prediction):
        return keras.ops.mean(keras.ops.square(y - prediction))

    class MyMetric(keras.metrics.Mean):
        def update_state(self, y, prediction, sample_weight=None):
            return super().update_state(keras.ops.abs(y - prediction))

    model = sequential()
    model.compile("sgd", my_loss, metrics=[MyMetric(name="mine")])
    small = tfc.compress(model, "int8")
    y = np.zeros((150, 4))
    before, after = (m.evaluate(X, y, verbose=0, return_dict=True) for m in (model, small))
    assert after["mine"] == pytest.approx(before["mine"], rel=0.05)


def test_compiled_with_what_cannot_be_serialised():
    """Lambdas, in losses and metrics by output; nothing with a state is shared."""
    inputs = keras.Input((8,))
    hidden = D(6, activation="relu")(inputs)
    model = keras.Model(inputs, {"one": D(4, name="one")(hidden), "two": D(2, name="two")(hidden)})
    accuracy = keras.metrics.MeanSquaredError(name="error")
    model.compile(
        keras.optimizers.SGD(0.125, momentum=0.5),
        {"one": lambda y, z: keras.ops.mean((y - z) ** 2), "two": keras.losses.Huber(0.5)},
        loss_weights={"one": 1.0, "two": 0.25},
        metrics={"one": [lambda y, z: keras.ops.mean(z), accuracy], "two": []},
    )
    y = {"one": np.zeros((150, 4)), "two": np.ones((150, 2))}
    before = model.evaluate(X, y, verbose=0, return_dict=True)
    small = tfc.compress(model, "int8")
    assert model.compiled
    assert small.optimizer is not model.optimizer
    assert float(small.optimizer.learning_rate) == 0.125
    after = small.evaluate(X, y, verbose=0, return_dict=True)
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert after[name] == pytest.approx(value, rel=0.05, abs=0.02)
    assert float(accuracy.total) > 0  # the original's own
    small.fit(X, y, verbose=0)
    assert model.evaluate(X, y, verbose=0, return_dict=True) == before


def test_subclassed_and_compiled_with_a_lambda():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = D(4)

        def call(self, inputs):
            return self.head(inputs)

    model = Subclassed()
    model(X)
    loss = lambda y, z: keras.ops.mean((y - z) ** 2)  # noqa: E731
    model.compile("sgd", loss)
    small = tfc.compress(model, "int8")
    assert small.loss is loss
    y = np.zeros((150, 4))
    assert small.evaluate(X, y, verbose=0) == pytest.approx(model.evaluate(X, y, verbose=0), 0.05)


def test_compiled_inside_a_compiled_model():
    def inner_loss(y, prediction):
        return keras.ops.mean(y - prediction)

    inner = sequential()
    inner.compile("sgd", inner_loss)
    middle = keras.Sequential([keras.Input((8,)), inner], name="middle")
    small = tfc.compress(keras.Sequential([keras.Input((8,)), middle]), "int8")
    assert small.get_layer("middle").get_layer("small").loss is inner_loss


def test_compiled_for_xla():
    model = sequential()
    model.compile("sgd", "mse", jit_compile=True)
    assert tfc.compress(model, "int8").jit_compile is False  # and no warning


def test_custom_layers_and_functions_are_copied():
    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), initializer="normal")

        def call(self, x):
            return x * self.factor

    def cube(x):
        return x**3

    model = keras.Sequential(
        [
            keras.Input((8,)),
            D(8, activation=cube, name="dense"),
            Scale(),
            keras.layers.Activation(cube),
            keras.layers.Lambda(lambda x: x + 1),
            D(2, activation=lambda x: -x),
        ]
    )
    small = tfc.compress(model, "int8")
    assert small.get_layer("dense").activation is cube
    assert_close(small(X), model(X), 0.1)


def test_layers_that_cannot_be_copied():
    class Odd(keras.layers.Layer):
        def __init__(self, needed):
            super().__init__()
            self.needed = needed

        def call(self, x):
            return x

        def get_config(self):
            return {}

    model = keras.Sequential([keras.Input((8,)), Odd(3), D(2)])
    with pytest.raises(ValueError, match=r"(?s)'odd\w*' \(Odd\) cannot be copied.*register"):
        tfc.compress(model, "int8")


def test_weights_that_cannot_be_packed():
    model = sequential()
    model.get_layer("head").kernel.assign(np.full((16, 4), np.nan))
    with pytest.raises(ValueError, match="Layer 'head' cannot be compressed: `kernel` must be fin"):
        tfc.compress(model, "int8")


def test_layers_whose_copy_lacks_variables():
    class Growing(keras.layers.Layer):
        def call(self, x):
            return x

    layer = Growing()
    layer.extra = layer.add_weight(shape=(3,))  # not made by `build`
    model = keras.Sequential([keras.Input((8,)), layer, D(2)])
    with pytest.raises(ValueError, match=r"'growing' .*it has 1 variables, a copy 0"):
        tfc.compress(model, "int8")


def test_quantized_layers_keep_what_keras_knows_of_them():
    """A calibrated GPTQ layer runs on its quantised weights; so must its copy."""
    inputs = keras.Input((8,))
    gptq = keras.quantizers.GPTQConfig(dataset=None, tokenizer=None, group_size=-1)
    layer = D(6, name="gptq", use_bias=False)
    model = keras.Model(inputs, D(4, name="dense")(layer(inputs)))
    layer.quantize("gptq", config=gptq)
    del layer._kernel
    layer.is_gptq_calibrated = True
    layer.quantized_kernel.assign(RNG.integers(0, 255, layer.quantized_kernel.shape))
    layer.kernel_scale.assign(RNG.uniform(0.1, 0.2, layer.kernel_scale.shape))
    small = tfc.compress(model, "int8")
    assert small.get_layer("gptq").is_gptq_calibrated
    assert_close(small(X), model(X))


def test_state_is_copied():
    model = sequential()
    model.layers[1].seed_generator.state.assign([3, 4])
    small = tfc.compress(model, "int8")
    np.testing.assert_array_equal(small.layers[1].seed_generator.state, [3, 4])


def test_frozen_layers_stay_frozen():
    model = nested()
    model.get_layer("shared").trainable = False
    model.get_layer("encoder").trainable = False
    model.get_layer("encoder").get_layer("dense").trainable = True
    for other in (tfc.compress(model, "int8"), tfc.decompress(tfc.compress(model, "int8"))):
        assert not other.get_layer("shared").trainable
        assert not other.get_layer("encoder").trainable
        assert other.get_layer("encoder").get_layer("dense").trainable
        assert other.get_layer("out_a").trainable
    model.trainable = False
    assert tfc.compress(model, "int8").trainable_variables == []


def test_saved_and_loaded(tmp_path):
    small = tfc.compress(nested(), {"out_a": None, "*": tfc.Int8()})
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert classes(loaded) == classes(small)
    for one, other in zip(
        keras.tree.flatten(loaded(NESTED_X)), keras.tree.flatten(small(NESTED_X)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert_close(tfc.decompress(loaded)(NESTED_X), small(NESTED_X))


def test_models_that_keras_quantized():
    # Scales differ in their last bits from Keras' (it adds an epsilon): with rare weights an
    # activation lies so near a half that the two round it to either side.
    keras.utils.set_random_seed(0)
    model = sequential()
    model.quantize("int8")
    small = tfc.compress(model, "int8")
    np.testing.assert_array_equal(
        tfc.kernels.int8_unpack(small.get_layer("head").packed_arrays()["kernel"], 16, 4),
        model.get_layer("head")._kernel,
    )
    assert_close(small(X), model(X), 1e-4)


def test_what_keras_quantized_otherwise_stays():
    model = sequential()
    model.get_layer("head").quantize("int4")
    small = tfc.compress(model, "int8")
    assert classes(small)["head"] is D
    assert small.get_layer("head").quantization_mode == "int4"
    assert_close(small(X), model(X))
    with pytest.raises(ValueError, match="head: Keras has quantised it to int4"):
        tfc.compress(model, {"head": "int8"})


def test_lora():
    model = sequential()
    model.get_layer("hidden").enable_lora(2)
    model.get_layer("hidden").lora_kernel_b.assign(np.ones((2, 16)))
    model.get_layer("head").enable_lora(2)
    model.get_layer("head").lora_kernel_b.assign(np.ones((2, 4)))
    small = tfc.compress(model, {"hidden": "int8"})  # merges one, copies the other
    assert_close(small(X), model(X))


def test_mixed_precision():
    inputs = keras.Input((8,))
    x = D(16, activation="relu", dtype="mixed_bfloat16", name="a")(inputs)
    model = keras.Model(inputs, D(4, dtype="float32", name="b")(x))
    small = tfc.compress(model, "int8")
    assert [small.get_layer(name).compute_dtype for name in "ab"] == ["bfloat16", "float32"]
    assert_close(small(X), model(X))


CALIBRATION = {
    "array": lambda: X,
    "tensor": lambda: tf.constant(X),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(X).batch(40),
    "dataset of pairs": lambda: tf.data.Dataset.from_tensor_slices((X, X[:, 0])).batch(40),
    "generator": lambda: (X[start : start + 50] for start in range(0, 150, 50)),
    "list of batches": lambda: iter([(X[:75], None), (X[75:], None)]),
}


@pytest.mark.parametrize("data", CALIBRATION.values(), ids=CALIBRATION.keys())
def test_calibration(data):
    model = sequential()
    small = tfc.compress(model, tfc.Int8("static"), calibration_data=data())
    hidden = model.get_layer("hidden")(X)
    for name, x in (("hidden", X), ("head", hidden)):
        np.testing.assert_allclose(
            small.get_layer(name).packed_arrays()["x_scale"], [np.abs(x).max() / 127], rtol=1e-6
        )
    assert_close(small(X), model(X))
    assert "call" not in vars(model.get_layer("hidden"))


def test_calibration_of_nested_models():
    model = nested()
    small = tfc.compress(model, tfc.Int8("static"), calibration_data=NESTED_X)
    assert_close(small(NESTED_X), model(NESTED_X))
    # The shared layer saw both inputs.
    np.testing.assert_allclose(
        small.get_layer("shared").packed_arrays()["x_scale"], [np.abs(X).max() / 127], rtol=1e-6
    )


def test_calibration_of_what_keras_quantized():
    model = sequential()
    model.quantize("int8")
    small = tfc.compress(model, tfc.Int8("static"), calibration_data=X)
    assert_close(small(X), model(X))
    assert "quantized_call" not in vars(model.get_layer("hidden"))


def test_calibration_sees_only_what_needs_it():
    model = sequential()
    small = tfc.compress(model, {"head": tfc.Int8("static"), "*": tfc.Int8()}, calibration_data=X)
    assert "x_scale" in small.get_layer("head").packed_arrays()
    assert "x_scale" not in small.get_layer("hidden").packed_arrays()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (None, ValueError, "`calibration_data` must be given .*received None .*'hidden'"),
        ([], ValueError, r"reaches every layer; no input of \['hidden', 'head'\] was seen"),
        (3, TypeError, "`calibration_data` must be arrays or an iterable of batches; received int"),
        ((X, X[:, 0]), ValueError, "`calibration_data` must hold .*, one array; received 2. Pass"),
        (X.tolist(), ValueError, "`calibration_data` must hold batches: .*received a list of 8"),
        (X * np.nan, ValueError, "'hidden' cannot be compressed: `calibration` must be"),
    ],
)
def test_calibration_data_is_checked(data, error, message):
    with pytest.raises(error, match=message):
        tfc.compress(sequential(), tfc.Int8("static"), calibration_data=data)


def test_calibration_does_not_watch_other_threads():
    """One that serves the original meanwhile disturbs nothing, and is not disturbed."""
    model = sequential()
    served = []

    def batches():
        yield X

        def serve():
            served.append(tf.function(model)(100 * X))

        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()

    small = tfc.compress(model, tfc.Int8("static"), calibration_data=batches())
    np.testing.assert_allclose(
        small.get_layer("hidden").packed_arrays()["x_scale"], [np.abs(X).max() / 127], rtol=1e-6
    )
    np.testing.assert_allclose(served[0], model(100 * X), rtol=1e-5)


def test_layers_are_restored_when_calibration_fails():
    model = sequential()
    with pytest.raises(ValueError, match="incompatible"):
        tfc.compress(model, tfc.Int8("static"), calibration_data=X[:, :5])
    assert "call" not in vars(model.get_layer("hidden"))
    model(X)
