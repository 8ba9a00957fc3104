"""EinsumDense, convolutions, embeddings, recurrent cells and separable convolutions."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops import formats, layers, ops, structure

# What Keras does with NumPy 2.
pytestmark = [
    pytest.mark.usefixtures("quick_timing"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
]

RNG = np.random.default_rng(0)
K = keras.layers


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


# Name to (the Keras layer, an input).
LAYERS = {
    "einsum query": (
        lambda: K.EinsumDense("abc,cde->abde", (None, 3, 5), bias_axes="de"),
        (2, 6, 7),
    ),
    "einsum output": (
        lambda: K.EinsumDense("abcd,cde->abe", (None, 9), bias_axes="e"),
        (2, 6, 3, 5),
    ),
    "einsum ellipsis": (lambda: K.EinsumDense("...x,xy->...y", 9, "relu", "y"), (2, 3, 6, 7)),
    "einsum out moved": (lambda: K.EinsumDense("abc,cd->adb", (4, 3), bias_axes="d"), (5, 3, 7)),
    "einsum moved": (lambda: K.EinsumDense("abc,dbc->ad", 4, bias_axes="d"), (5, 3, 7)),
    "einsum bias elsewhere": (
        lambda: K.EinsumDense("abc,cd->abd", (6, 4), "gelu", bias_axes="bd"),
        (2, 6, 7),
    ),
    "einsum partial bias": (
        lambda: K.EinsumDense("abc,cde->abde", (None, 3, 5), bias_axes="e"),
        (2, 6, 7),
    ),
    "conv 1x1": (lambda: K.Conv2D(9, 1, activation="relu"), (2, 5, 6, 7)),
    "conv 1x1 strided": (lambda: K.Conv2D(9, 1, strides=(2, 3), padding="same"), (2, 5, 7, 4)),
    "conv 3x3": (lambda: K.Conv2D(9, 3), (2, 7, 8, 5)),
    "conv same strided": (lambda: K.Conv2D(9, (3, 4), strides=2, padding="same"), (2, 7, 8, 5)),
    "conv dilated": (
        lambda: K.Conv2D(4, (2, 3), dilation_rate=(2, 3), padding="same"),
        (1, 9, 8, 3),
    ),
    "conv large stride": (lambda: K.Conv2D(4, 2, strides=5, activation="tanh"), (1, 13, 12, 3)),
    "conv1d": (lambda: K.Conv1D(9, 3, use_bias=False), (2, 7, 5)),
    "conv1d causal": (lambda: K.Conv1D(9, 3, dilation_rate=2, padding="causal"), (2, 7, 5)),
    "conv1d same": (lambda: K.Conv1D(9, 4, strides=2, padding="same"), (2, 7, 5)),
}


def built(name, **attributes):
    make, shape = LAYERS[name]
    layer = make()
    for attribute, value in attributes.items():
        setattr(layer, attribute, value)
    x = normal(*shape)
    layer(x)
    if layer.bias is not None:
        layer.bias.assign(normal(*layer.bias.shape))
    return layer, x


def relative_error(actual, expected):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def every_format():
    """Defaults of every registered format."""
    return [formats.get(name) for name in formats.names()]


@pytest.mark.parametrize("name", LAYERS)
def test_exact_with_exact_weights(name):
    """Sparse float32 without zeros holds the weights exactly: only the order of sums differs."""
    layer, x = built(name)
    new = layers.replacement(layer).from_layer(layer, tfc.Sparse())
    assert relative_error(new(x), layer(x)) < 1e-5
    assert new.compute_output_shape(x.shape) == tuple(layer(x).shape)
    restored = new.to_layer()
    assert type(restored) is type(layer)
    assert restored.get_config() == layer.get_config()
    np.testing.assert_array_equal(restored.kernel, layer.kernel)
    # A graph with open dimensions.
    spec = tf.TensorSpec([None] * (x.ndim - 1) + [x.shape[-1]])
    if not name.startswith("einsum"):
        assert relative_error(tf.function(new, input_signature=[spec])(x), layer(x)) < 1e-5


@pytest.mark.parametrize("format_", every_format(), ids=lambda format_: format_.label)
@pytest.mark.parametrize("name", LAYERS)
def test_every_format(name, format_):
    """Each layer multiplies by just the weights that the format stands for."""
    layer, x = built(name)
    new = layers.replacement(layer).from_layer(layer, format_)
    expected = new.to_layer()(x)
    assert relative_error(new(x), expected) < 0.02


@pytest.mark.parametrize("name", ["einsum query", "conv same strided", "conv1d causal"])
def test_gradients(name):
    layer, x = built(name)
    new = layers.replacement(layer).from_layer(layer, tfc.Sparse())

    def gradients(layer):
        with tf.GradientTape() as tape:
            inputs = tf.constant(x)
            tape.watch(inputs)
            loss = tf.reduce_sum(tf.sin(layer(inputs)))
        return tape.gradient(loss, [inputs, layer.bias.value])

    for one, other in zip(gradients(new), gradients(layer), strict=True):
        assert relative_error(one, other) < 1e-4
    traced = tf.function(lambda: gradients(new))()
    assert relative_error(traced[0], gradients(layer)[0]) < 1e-4


@pytest.mark.parametrize("name", LAYERS)
def test_saved(name, tmp_path):
    layer, x = built(name)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    small = tfc.compress(model, "int8", batch_size=None)
    assert isinstance(small.layers[0], layers.CompressedLayer)
    assert not small.layers[0].supports_jit
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(x), small(x))
    config = small.layers[0].get_config()
    assert type(small.layers[0]).from_config(config).get_config() == config


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ["einsum query", "conv 3x3", "conv1d"])
def test_dtype_policies(name, dtype):
    layer, x = built(name)
    layer = type(layer).from_config({**layer.get_config(), "dtype": dtype})
    new = layers.replacement(layer)
    expected = layer(x)
    small = new.from_layer(layer, "int8")
    assert small(x).dtype == expected.dtype
    assert relative_error(tf.cast(small(x), tf.float32), tf.cast(expected, tf.float32)) < 0.05


def test_blocks_of_patches(monkeypatch):
    layer, x = built("conv same strided")
    new = layers.Conv2D.from_layer(layer, tfc.Sparse())
    for elements in (1, 130, 1000, 10**6):
        monkeypatch.setattr("tfcompress_ops.layers.convolution._BLOCK_ELEMENTS", elements)
        assert relative_error(new(x), layer(x)) < 1e-5
    empty = new(x[:0])
    assert empty.shape == (0, 4, 4, 9)


def test_patches_are_checked():
    geometry = ops.Geometry((2, 2), (1, 1), (1, 1), "valid")
    x = normal(1, 3, 3, 2)
    np.testing.assert_array_equal(ops.patches(x, 3, 1, geometry)[0], x[0, 1:, 1:].reshape(-1))
    for first, rows in ((-1, 2), (0, 5), (4, 1), (2, -1)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="within the 4 windows"):
            ops.patches(x, first, rows, geometry)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be two integers in 1"):
        ops.patches(x, 0, 1, ops.Geometry((2, 0), (1, 1), (1, 1), "valid"))
    assert ops.patches(x[:, :1], 0, 0, geometry).shape == (0, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.EinsumDense("ab,bc", 3), "`equation` must be like"),
        (lambda: layers.EinsumDense("abc,abd->abcd", (3, 4)), "must be one matrix product"),
        (lambda: layers.EinsumDense("ab,bc->ac", 3, bias_axes="b"), "`bias_axes` must be axes"),
        (lambda: layers.Conv2D(0, 3), "`filters` must be a positive"),
        (lambda: layers.Conv2D(4, (3, 0)), "`kernel_size` must be 2 positive"),
        (lambda: layers.Conv2D(4, 3, padding="causal"), "`padding` must be one of"),
        (lambda: layers.Conv2D(4, 3, groups=2), "`groups` must be 1"),
        (lambda: layers.Conv1D(4, 3, data_format="channels_first"), "`data_format` must be"),
        (lambda: layers.Embedding(0, 3), "`input_dim` must be a positive"),
        (lambda: layers.Embedding(4, 3, format="sparse"), "`format` must be one whose rows"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_refused():
    grouped = K.Conv2D(4, 3, groups=2)
    grouped.build((None, 5, 5, 2))
    assert "2 groups" in layers.refusal(grouped)
    batched = K.EinsumDense("abc,bcd->abd", (5, 4))
    batched.build((None, 5, 3))
    assert "is not one matrix product" in layers.refusal(batched)


def compress_and_reload(model, x, tmp_path, formats_="int8", calibration_data=None):
    small = tfc.compress(model, formats_, calibration_data, batch_size=None)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert relative_error(loaded(x), small(x)) < 1e-6
    kinds = {path: type(layer) for path, layer in structure.layer_paths(small).items()}
    assert kinds == {path: type(layer) for path, layer in structure.layer_paths(loaded).items()}
    return small


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("vocabulary", [5, 64, 100, 131])
def test_embedding(vocabulary, center, tmp_path):
    model = keras.Sequential(
        [keras.Input((None,), dtype="int32"), K.Embedding(vocabulary, 7, mask_zero=True)]
    )
    x = RNG.integers(0, vocabulary, (3, 9))
    small = compress_and_reload(model, x, tmp_path, tfc.Int8("static", center), x)
    table = small.layers[0]
    assert table.format == tfc.Int8("float", center).lookup_format
    assert sum(array.nbytes for array in table.packed_arrays().values()) == vocabulary * (
        7 + 4 + 4 * center
    )
    np.testing.assert_allclose(small(x), table.weight_matrix().T[x], atol=1e-7)
    assert relative_error(small(x), model(x)) < 0.01
    np.testing.assert_array_equal(table.compute_mask(x), x != 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"indices\[0,1\] = {vocabulary} is"):
        table(np.array([[0, vocabulary]]))
    assert relative_error(tfc.decompress(small)(x), small(x)) < 1e-6
    with pytest.raises(ValueError, match="Embedding has no sparse form"):
        tfc.compress(model, "sparse")
    with pytest.raises(ValueError, match="it is a table by"):
        tfc.prune(model, sparsity=0.5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_embedding_of_another_dtype(policy):
    model = keras.Sequential([keras.Input((None,), dtype="int64"), K.Embedding(9, 5, dtype=policy)])
    x = RNG.integers(0, 9, (2, 6))
    small = tfc.compress(model, "int8")
    table = small.layers[0]
    assert small(x).dtype == table.compute_dtype
    exact = tf.cast(table.weight_matrix().T[x], table.compute_dtype)  # rounded once
    np.testing.assert_array_equal(tf.cast(small(x), "float32"), tf.cast(exact, "float32"))
    narrow = tf.constant([[1, 2]], tf.uint8)
    np.testing.assert_array_equal(table(narrow), table(tf.cast(narrow, tf.int32)))


def test_nothing_is_multiplied_by_a_table():
    table = layers.Embedding(4, 3)
    assert layers.Embedding(4, 3, format=table.format).format == table.format
    with pytest.raises(NotImplementedError, match="rows that are looked up"):
        layers.Dense(3, format=table.format)(np.ones((1, 2), "float32"))


RECURRENT = {
    "lstm": lambda: K.LSTM(6, return_sequences=True),
    "gru": lambda: K.GRU(6),
    "rnn": lambda: K.SimpleRNN(6, activation="relu"),
    "no bias": lambda: K.LSTM(6, use_bias=False, recurrent_dropout=0.2),
    "bidirectional": lambda: K.Bidirectional(K.GRU(6, return_sequences=True), merge_mode="sum"),
    "stacked": lambda: K.RNN([K.LSTMCell(6), K.GRUCell(5)]),
    "distributed": lambda: K.TimeDistributed(K.Dense(6)),
    "separable": lambda: K.SeparableConv1D(6, 3, padding="same", activation="relu"),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_layers_in_layers(name, tmp_path):
    model = keras.Sequential(
        [keras.Input((9, 5)), K.Masking(), RECURRENT[name]()]
        if name not in ("separable",)
        else [keras.Input((9, 5)), RECURRENT[name]()]
    )
    x = normal(3, 9, 5)
    x[0, 5:] = 0
    # As it is in float32, so that a wrong gate or bias shows.
    exact = compress_and_reload(model, x, tmp_path, "sparse")
    assert relative_error(exact(x), model(x)) < 1e-5
    assert not [layer for layer in exact._flatten_layers() if type(layer) is K.Dense]
    small = compress_and_reload(model, x, tmp_path)
    assert relative_error(small(x), model(x)) < 0.1
    static = tfc.compress(model, tfc.Int8("static"), x)
    assert relative_error(static(x), model(x)) < 0.1
    plain = tfc.decompress(exact)
    assert relative_error(plain(x), exact(x)) < 1e-5
    assert [w.shape for w in plain.weights] == [w.shape for w in model.weights]
    assert tfc.report(model, small, x).total.output_error < 0.1
    spec = tf.TensorSpec((None, 9, 5))
    assert relative_error(tf.function(small, input_signature=[spec])(x), small(x)) < 1e-5
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(exact(tf.constant(x), training=False))
    assert None not in tape.gradient(loss, exact.trainable_variables)


def products_in_loops(function, name="Tfcompress>Int8MatMul"):
    library = function.graph.as_graph_def().library.function
    return sum(node.op == name for part in library for node in part.node_def)


@pytest.mark.parametrize(
    ("name", "options", "loops"),
    [
        ("LSTM", {"return_state": True}, 1),
        ("GRU", {"go_backwards": True, "return_sequences": True}, 1),
        ("SimpleRNN", {"dropout": 0.3}, 1),
        ("Bidirectional", {}, 2),
    ],
)
def test_inputs_are_multiplied_before_the_loop(name, options, loops, tmp_path):
    if name == "Bidirectional":
        layer = K.Bidirectional(K.LSTM(6))
    else:
        layer = getattr(K, name)(6, bias_initializer="normal", **options)
    inputs = keras.Input((9, 5))
    model = keras.Model(inputs, layer(inputs))
    small = tfc.compress(model, "int8", batch_size=None)
    small.save(tmp_path / "small.keras")
    x = normal(3, 9, 5)
    for one in (small, keras.saving.load_model(tmp_path / "small.keras")):
        function = tf.function(functools.partial(one, training=False))
        concrete = function.get_concrete_function(tf.TensorSpec((3, 9, 5)))
        assert products_in_loops(concrete) == loops  # the recurrent ones
        for y, expected in zip(
            keras.tree.flatten(one(x)), keras.tree.flatten(model(x)), strict=True
        ):
            assert relative_error(y, expected) < 0.1
    # Dropout is that of each step, as Keras has it.
    trained = tf.function(functools.partial(small, training=True))
    concrete = trained.get_concrete_function(tf.TensorSpec((3, 9, 5)))
    assert products_in_loops(concrete) == (2 if "dropout" in options else loops)
    plain = tfc.decompress(small)
    assert relative_error(keras.tree.flatten(plain(x))[0], keras.tree.flatten(small(x))[0]) < 0.1


@pytest.mark.parametrize("options", [{"unroll": True}, {"stateful": True}], ids=str)
def test_loops_of_every_kind(options):
    shape = (3, 9, 5)
    layer = K.GRU(6, return_sequences=True, **options)
    model = keras.Sequential([keras.Input(batch_shape=shape), K.Masking(), layer])
    exact = tfc.compress(model, "sparse", batch_size=None)
    x = normal(*shape)
    x[1, 4:] = 0
    for _ in range(2):  # a stateful one goes on where it was
        assert relative_error(exact(x), model(x)) < 1e-5


def test_parts_of_a_layer(tmp_path):
    model = keras.Sequential([keras.Input((9, 5)), K.LSTM(6, name="lstm"), K.Dense(3, name="head")])
    x = normal(3, 9, 5)
    small = compress_and_reload(model, x, tmp_path, {"lstm/cell/kernel": tfc.Int8("float")})
    paths = structure.layer_paths(small)
    assert paths["lstm/cell/kernel"].format == tfc.Int8("float")
    assert type(paths["lstm/cell/recurrent_kernel"]) is K.Dense
    none = tfc.compress(model, {"lstm": None, "*": "int8"})
    assert type(none.get_layer("lstm").cell) is K.LSTMCell
    assert isinstance(none.get_layer("lstm"), K.LSTM)


def test_gru_that_is_refused():
    model = keras.Sequential([keras.Input((9, 5)), K.GRU(6, reset_after=False), K.Dense(2)])
    small = tfc.compress(model, "int8")
    report = tfc.report(model, small, normal(2, 9, 5))
    assert any("its reset_after is False" in change.note for change in report.layers)


@pytest.mark.parametrize("cls", ["MultiHeadAttention", "GroupQueryAttention"])
def test_attention(cls, tmp_path):
    arguments = {"num_heads": 4, "key_dim": 5} if cls == "MultiHeadAttention" else None
    arguments = arguments or {"num_query_heads": 4, "num_key_value_heads": 2, "head_dim": 5}
    inputs, memory = keras.Input((6, 8)), keras.Input((7, 8))
    attention = getattr(K, cls)(**arguments, name="attention")
    y, scores = attention(inputs, memory, return_attention_scores=True, use_causal_mask=True)
    model = keras.Model([inputs, memory], [y, scores])
    x = [normal(2, 6, 8), normal(2, 7, 8)]
    small = tfc.compress(model, "int8")
    found = [p for p, v in structure.layer_paths(small).items() if hasattr(v, "format")]
    assert found == [f"attention/{name}" for name in ("query", "key", "value", "attention_output")]
    assert isinstance(small.get_layer("attention"), getattr(K, cls))
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    for one, other, expected in zip(loaded(x), small(x), model(x), strict=True):
        assert relative_error(one, other) < 1e-6
        assert relative_error(other, expected) < 0.05
    layer = small.get_layer("attention")
    mask = np.ones((2, 6, 7), bool)
    assert relative_error(layer(*x, attention_mask=mask), attention(*x, attention_mask=mask)) < 0.05


def test_batch_norm_and_activation_are_folded():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = K.Conv2D(6, 3, use_bias=False, name="conv")(inputs)
    x = K.BatchNormalization(name="norm")(x)
    x = shortcut = K.Activation("relu", name="act")(x)
    x = K.BatchNormalization(name="kept")(K.Conv2D(6, 1, activation="relu", name="relu_first")(x))
    x = K.Conv2D(6, 1, name="twice")(x)
    x = K.Add()([x, K.BatchNormalization(name="also_kept")(x), shortcut])
    x = K.ReLU(6.0, name="relu6")(K.BatchNormalization(name="norm2")(K.Dense(5, name="dense")(x)))
    model = keras.Model(inputs, [x, K.BatchNormalization(name="norm3")(K.Dense(2, name="out")(x))])
    for layer in model.layers:
        if isinstance(layer, K.BatchNormalization):
            channels = layer.gamma.shape[0]
            values = normal(4, channels)
            # A positive shift: no activation is zero everywhere.
            layer.set_weights([values[0], 1 + abs(values[1]), values[2], 1 + values[3] ** 2])
    data = normal(2, 8, 8, 3)
    small = tfc.compress(model, "sparse", batch_size=None)
    kinds = {layer.name: type(layer) for layer in small.layers}
    folded = [name for name, kind in kinds.items() if kind is layers.Absorbed]
    assert folded == ["norm", "act", "norm2", "relu6", "norm3"]
    assert kinds["kept"] is kinds["also_kept"] is K.BatchNormalization
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    for one, other in zip(small(data), model(data), strict=True):
        assert relative_error(one, other) < 1e-5
    report = tfc.report(model, small, data)
    notes = {change.path: change.note for change in report.layers}
    assert notes["conv"] == "does the work of norm, act"
    assert all((change.output_error or 0) < 1e-5 for change in report.layers)
    # What is not compressed keeps what follows it.
    small = tfc.compress(model, {"conv": None, "*": "int8"})
    assert type(small.get_layer("norm")) is K.BatchNormalization
