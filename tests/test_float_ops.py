"""Layer normalisation, attention and sums in one op: against NumPy and Keras, and in models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops import float_ops, layers

K = keras.layers
RNG = np.random.default_rng(11)
DTYPES = {"float32": 2e-6, "bfloat16": 2e-2, "float16": 3e-3}
MASKED = -0.7 * 3.38953e38

# What Keras does with NumPy 2.
pytestmark = [
    pytest.mark.usefixtures("quick_timing"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
]


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def attention_reference(query, key, value, mask=None, scale=None):
    """Plain loops over batch and heads, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    batch, queries, heads, size = query.shape
    shared = heads // key.shape[2]
    mask = np.ones((1, 1, 1, 1), bool) if mask is None else mask
    mask = np.broadcast_to(mask, (batch, heads, queries, key.shape[1]))
    y = np.zeros((batch, queries, heads, value.shape[3]))
    for b, h in np.ndindex(batch, heads):
        scores = query[b, :, h] @ key[b, :, h // shared].T * (scale or size**-0.5)
        scores = np.where(mask[b, h], scores, MASKED)
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        y[b, :, h] = powers / powers.sum(axis=-1, keepdims=True) @ value[b, :, h // shared]
    return y


# batch, queries, keys, heads, kv_heads, key_dim, value_dim
SIZES = [
    (1, 1, 1, 1, 1, 1, 1),
    (2, 5, 7, 3, 1, 5, 9),
    (1, 49, 64, 4, 2, 16, 16),
    (2, 13, 257, 2, 2, 33, 70),  # more keys than are held at a time
    (1, 97, 600, 1, 1, 8, 130),
    (3, 4, 3, 2, 2, 64, 64),
    (1, 200, 70, 1, 1, 130, 3),  # more queries than a block has, more dimensions than are laid out
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_attention(sizes, dtype):
    batch, queries, keys, heads, kv_heads, key_dim, value_dim = sizes
    query, key, value = (
        tf.cast(normal(*shape), dtype)
        for shape in (
            (batch, queries, heads, key_dim),
            (batch, keys, kv_heads, key_dim),
            (batch, keys, kv_heads, value_dim),
        )
    )
    whole = RNG.random((batch, heads, queries, keys)) < 0.6
    for mask in (
        None,
        whole,
        whole[:, :1],
        whole[:1, :, :1],
        whole[..., :1],
        whole[:1, :1, :1, :1],
    ):
        y = float_ops.attention(query, key, value, mask=mask)
        assert y.dtype == dtype
        expected = attention_reference(*(tf.cast(x, tf.float32) for x in (query, key, value)), mask)
        np.testing.assert_allclose(tf.cast(y, tf.float32), expected, rtol=0, atol=3 * DTYPES[dtype])
    y = float_ops.attention(query, key, value, scale=-0.3)
    expected = attention_reference(
        *(tf.cast(x, tf.float32) for x in (query, key, value)), scale=-0.3
    )
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, rtol=0, atol=3 * DTYPES[dtype])


def test_attention_of_large_scores_and_special_values():
    query, key, value = normal(1, 3, 1, 4) * 1e3, normal(1, 300, 1, 4) * 1e3, normal(1, 300, 1, 5)
    y = float_ops.attention(query, key, value)
    np.testing.assert_allclose(y, attention_reference(query, key, value), rtol=1e-5, atol=1e-5)
    query[0, 1, 0, 2] = np.nan
    y = float_ops.attention(query, key, value).numpy()
    assert np.isnan(y[0, 1]).all()
    assert np.isfinite(y[0, [0, 2]]).all()
    query[0, 1, 0, 2] = 0
    key[0, 299] = np.inf  # one key that all scores are infinite for, or not a number
    assert np.isnan(float_ops.attention(query, key, value)).all()


def test_queries_that_may_look_at_no_key():
    query, key, value = normal(1, 2, 3, 4), normal(1, 300, 3, 4), normal(1, 300, 3, 5)
    mask = np.ones((1, 1, 2, 300), bool)
    mask[..., 1, :] = False
    mean = float_ops.attention(query, key, value, mask=mask)
    zeros = float_ops.attention(query, key, value, mask=mask, zero_blind=True)
    np.testing.assert_array_equal(mean[:, 0], zeros[:, 0])
    np.testing.assert_allclose(mean[:, 1], value.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(zeros[:, 1], np.zeros((1, 3, 5)))


def test_attention_of_nothing():
    y = float_ops.attention(normal(2, 3, 4, 5), normal(2, 0, 4, 5), normal(2, 0, 4, 6))
    np.testing.assert_array_equal(y, np.zeros((2, 3, 4, 6)))
    for shape in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        batch, queries, heads = shape
        y = float_ops.attention(
            normal(*shape, 5), normal(batch, 2, heads, 5), normal(batch, 2, heads, 6)
        )
        assert y.shape == (batch, queries, heads, 6)


def test_attention_errors():
    query, key, value = normal(2, 3, 4, 5), normal(2, 6, 2, 5), normal(2, 6, 2, 7)
    for wrong, message in (
        ({"query": query[0]}, "query|rank"),
        ({"key": key[:1]}, "key|equal"),
        ({"key": key[..., :4]}, "key|equal"),
        ({"key": normal(2, 6, 3, 5), "value": normal(2, 6, 3, 7)}, "heads that divide the 4"),
        ({"value": value[:, :5]}, "value|equal"),
        ({"value": value[:, :, :1]}, "value|equal"),
        ({"mask": np.ones((2, 4, 3, 5), bool)}, "mask must have the shape of the scores"),
        ({"mask": np.ones((4, 3, 6), bool)}, "mask|rank"),
    ):
        given = {"query": query, "key": key, "value": value, "mask": None, **wrong}
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
            float_ops.attention(**given)
    with pytest.raises(tf.errors.InvalidArgumentError, match="scale must be finite"):
        float_ops.attention(query, key, value, scale=float("nan"))
    with pytest.raises(ValueError, match="known key_dim where `scale` is None"):
        tf.function(
            float_ops.attention, input_signature=[tf.TensorSpec(None)] * 3
        ).get_concrete_function()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (7, 1), (5, 3, 31), (2, 33), (4, 515), (0, 4), (3, 0)])
def test_layer_norm(shape, dtype):
    x = tf.cast(3 * normal(*shape) + 1, dtype)
    gamma, beta = normal(shape[-1]), normal(shape[-1])
    wide = np.asarray(tf.cast(x, tf.float32), np.float64)
    if 0 not in shape:
        variance = wide.var(axis=-1, keepdims=True)
        wide = (wide - wide.mean(axis=-1, keepdims=True)) / np.sqrt(variance + 1e-3)
    for one, other in ((gamma, beta), (gamma, None), (None, beta), (None, None)):
        y = float_ops.layer_norm(x, one, other, epsilon=1e-3)
        assert y.dtype == dtype
        expected = wide * (1 if one is None else one) + (0 if other is None else other)
        tolerance = {"rtol": 4 * DTYPES[dtype], "atol": 4 * DTYPES[dtype]}
        np.testing.assert_allclose(tf.cast(y, tf.float32), expected, **tolerance)


def test_layer_norm_errors_and_special_values():
    for wrong in ({"x": np.float32(1)}, {"gamma": normal(3)}, {"beta": normal(1, 4)}):
        given = {"x": normal(2, 4), "gamma": normal(4), "beta": None, **wrong}
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=r"x|gamma|beta"):
            float_ops.layer_norm(**given, epsilon=1e-3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="epsilon must be finite and not neg"):
        float_ops.layer_norm(normal(2, 4), epsilon=-1.0)
    x = normal(3, 40)
    x[1, 7] = np.nan
    y = float_ops.layer_norm(x, epsilon=1e-3).numpy()
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()
    constant = float_ops.layer_norm(np.full((2, 5), 3e8, np.float32), epsilon=1e-6)
    np.testing.assert_array_equal(constant, np.zeros((2, 5)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 17, 513, 70_001])
def test_add(count, dtype):
    x = [tf.cast(normal(count), dtype) for _ in range(3)]
    wide = [np.asarray(tf.cast(one, tf.float32), np.float64) for one in x]
    tolerance = {"rtol": DTYPES[dtype], "atol": DTYPES[dtype]}
    for terms in (1, 2, 3):
        total = sum(wide[:terms])
        for activation, expected in (
            (None, total),
            ("relu", np.maximum(total, 0)),
            ("tanh", np.tanh(total)),
            (lambda y: 2 * y, 2 * total),
        ):
            y = float_ops.add(x[:terms], activation)
            assert y.dtype == dtype
            np.testing.assert_allclose(tf.cast(y, tf.float32), expected, **tolerance)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match="shape"):
        float_ops.add([normal(3), normal(1)])


def test_inputs_are_not_overwritten_while_they_are_used():
    @tf.function
    def both(x):
        h = x * 2.0  # a buffer of its own, which an op may reuse where nobody else needs it
        return float_ops.layer_norm(h, epsilon=1e-3) + 0.0 * h, float_ops.add([h, h], "relu") + h

    x = normal(4, 100)
    norm, added = both(x)
    np.testing.assert_allclose(
        norm, float_ops.layer_norm(2 * x, epsilon=1e-3), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(added, np.maximum(4 * x, 0) + 2 * x, rtol=1e-5, atol=1e-6)


def gradients(function, inputs):
    inputs = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(tf.sin(function(*inputs)))
    return tape.gradient(loss, inputs)


def test_gradients():
    mask = RNG.random((2, 1, 5, 7)) < 0.7
    query, key, value = normal(2, 5, 4, 6), normal(2, 7, 2, 6), normal(2, 7, 2, 3)
    for function, reference, inputs in (
        (
            lambda q, k, v: float_ops.attention(q, k, v, mask=mask),
            lambda q, k, v: keras.ops.dot_product_attention(
                q, *(keras.ops.repeat(x, 2, axis=2) for x in (k, v)), mask=mask
            ),
            [query, key, value],
        ),
        (
            lambda x, g, b: float_ops.layer_norm(x, g, b, epsilon=1e-3),
            lambda x, g, b: keras.ops.layer_normalization(x, g, b, epsilon=1e-3),
            [normal(4, 9), normal(9), normal(9)],
        ),
        (
            lambda x, b: float_ops.layer_norm(x, None, b, epsilon=1e-3),
            lambda x, b: keras.ops.layer_normalization(x, None, b, epsilon=1e-3),
            [normal(4, 9), normal(9)],
        ),
        (
            lambda *x: float_ops.add(x, "tanh"),
            lambda *x: tf.tanh(tf.add_n(x)),
            [normal(4, 9), normal(4, 9), normal(4, 9)],
        ),
    ):
        for one, other in zip(
            gradients(function, inputs), gradients(reference, inputs), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    # In the dtype of the input, by the same rule.
    half = [tf.cast(x, tf.bfloat16) for x in (query, key, value)]
    found = gradients(float_ops.attention, half)
    assert all(dx.dtype == tf.bfloat16 for dx in found)


# ---- In models ----------------------------------------------------------------------------------


def encoder(dtype=None, dropout=0.0, **mha):
    """One block that Keras can rebuild by layers; the Embedding's mask reaches the attention."""
    policy = {"dtype": dtype} if dtype else {}
    tokens = keras.Input((9,), dtype="int32")
    x = K.Embedding(20, 12, mask_zero=True, **policy, name="embedding")(tokens)
    y = K.MultiHeadAttention(3, 5, dropout=dropout, **mha, **policy, name="attention")(x, x)
    x = K.LayerNormalization(name="norm", **policy)(K.Add(name="add", **policy)([x, y]))
    x = K.Dense(12, "gelu", name="mlp", **policy)(x)
    outputs = K.LayerNormalization(axis=[1, 2], name="other_axes", **policy)(x)
    return keras.Model(tokens, outputs)


TOKENS = np.array([[3, 1, 4, 1, 5, 9, 2, 6, 5], [3, 5, 8, 9, 0, 0, 0, 0, 0], [0] * 9])


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_encoder(dropout, tmp_path):
    """Exact formats: the numbers are Keras', where queries are masked and all keys are too."""
    model = encoder(dropout=dropout)
    small = tfc.compress(model, tfc.Sparse(), batch_size=None)
    kinds = {layer.name: type(layer) for layer in small.layers}
    assert issubclass(kinds["attention"], layers.MultiHeadAttention)
    assert kinds["norm"] is layers.LayerNormalization
    assert kinds["other_axes"] is K.LayerNormalization
    assert kinds["add"] is K.Add  # no activation to join it with
    np.testing.assert_allclose(small(TOKENS), model(TOKENS), rtol=1e-4, atol=1e-5)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert [type(layer).__name__ for layer in loaded.layers] == [
        type(layer).__name__ for layer in small.layers
    ]
    np.testing.assert_array_equal(loaded(TOKENS), small(TOKENS))
    small.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(
        served.serve(TOKENS.astype("int32")), small(TOKENS), rtol=1e-6, atol=1e-6
    )
    plain = tfc.decompress(small)
    for layer, original in zip(plain.layers, model.layers, strict=True):
        assert type(layer) is type(original)
        assert layer.get_config() == original.get_config()
    np.testing.assert_allclose(plain(TOKENS), model(TOKENS), rtol=1e-5, atol=1e-6)
    # What nothing was asked for, or was asked to be left alone, stays.
    for formats in ({"mlp": tfc.Sparse()}, {"attention": None, "norm": None, "*": tfc.Sparse()}):
        other = tfc.compress(model, formats, batch_size=None)
        assert type(other.get_layer("attention")) is K.MultiHeadAttention
        assert type(other.get_layer("norm")) is K.LayerNormalization
    notes = {change.path: change.note for change in tfc.report(model, small, TOKENS).layers}
    assert notes["norm"] == "it has no matrix; one op does its work"


def ops_of(model, *specs, **arguments):
    graph = tf.function(lambda *x: model(*x, **arguments)).get_concrete_function(*specs).graph
    nodes = list(graph.as_graph_def().node)
    nodes += [node for body in graph.as_graph_def().library.function for node in body.node_def]
    return [node.op for node in nodes]


def test_training():
    """Dropout works on the scores, as in Keras; without any, gradients are those of Keras."""
    spec = tf.TensorSpec((None, 9), tf.int32)
    small = tfc.compress(encoder(dropout=0.4), tfc.Sparse(), batch_size=None)
    assert "Tfcompress>Attention" in ops_of(small, spec)
    assert "Tfcompress>Attention" not in ops_of(small, spec, training=True)
    model = encoder()
    small = tfc.compress(model, tfc.Sparse(), batch_size=None)
    assert "Tfcompress>Attention" in ops_of(small, spec, training=True)

    def norm_gradients(model):
        norm = model.get_layer("norm")
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(model(TOKENS[:2], training=True)))
        return tape.gradient(loss, [norm.gamma.value, norm.beta.value])

    for one, other in zip(norm_gradients(small), norm_gradients(model), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    small.compile("sgd", "mse")
    assert np.isfinite(small.fit(TOKENS, normal(3, 9, 12), verbose=0).history["loss"]).all()


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_dtype_policies(dtype):
    """Other dtypes than the ops take run as they always did."""
    if dtype == "float64":
        x = normal(2, 7)
        layer = layers.LayerNormalization(dtype="float64")
        x = x.astype("float64")
        np.testing.assert_array_equal(layer(x), K.LayerNormalization(dtype="float64")(x))
        return
    model = encoder(dtype)
    small = tfc.compress(model, tfc.Sparse(), batch_size=None)
    y, expected = small(TOKENS[:2]), model(TOKENS[:2])
    assert y.dtype == expected.dtype == dtype.removeprefix("mixed_")
    np.testing.assert_allclose(
        tf.cast(y, tf.float32), tf.cast(expected, tf.float32), rtol=0.05, atol=0.1
    )


@pytest.mark.parametrize("call", ["scores", "causal", "both masks", "rank 4", "gate"])
def test_ways_of_calling_attention(call):
    arguments = {"use_gate": True} if call == "gate" else {}
    arguments |= {"attention_axes": (1, 2)} if call == "rank 4" else {}
    shape = (4, 3, 12) if call == "rank 4" else (9, 12)
    inputs = keras.Input(shape)
    attention = K.MultiHeadAttention(3, 5, value_dim=4, **arguments, name="attention")
    model = keras.Model(inputs, attention(inputs, inputs))
    small = tfc.compress(model, tfc.Sparse(), batch_size=None).get_layer("attention")
    x = normal(2, *shape)
    options = {
        "scores": {"return_attention_scores": True},
        "causal": {"use_causal_mask": True},
        "both masks": {"use_causal_mask": True, "attention_mask": RNG.random((2, 9, 9)) < 0.7},
    }.get(call, {})
    for one, other in zip(
        keras.tree.flatten(small(x, x, **options)),
        keras.tree.flatten(attention(x, x, **options)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_grouped_query_attention():
    inputs = keras.Input((7, 12))
    attention = K.GroupQueryAttention(6, 4, 2, name="attention")
    model = keras.Model(inputs, attention(inputs, inputs, use_causal_mask=True))
    small = tfc.compress(model, tfc.Sparse(), batch_size=None)
    assert isinstance(small.get_layer("attention"), layers.GroupedQueryAttention)
    assert "Tfcompress>Attention" in ops_of(small, tf.TensorSpec((None, 7, 12)))
    x = normal(2, 7, 12)
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)
    assert type(tfc.decompress(small).get_layer("attention")) is K.GroupQueryAttention


def test_parts_of_attention():
    """Frozen ones stay so; where they are not Keras' own the layer is left as it is."""

    def attention(change):
        inputs = keras.Input((9, 12))
        layer = K.MultiHeadAttention(3, 5, name="attention")
        model = keras.Model(inputs, layer(inputs, inputs))
        change(layer)
        return model

    def freeze(layer):
        layer.key_dense.trainable = False

    def adapt(layer):
        layer.query_dense.enable_lora(2)
        layer.query_dense.lora_kernel_b.assign(normal(*layer.query_dense.lora_kernel_b.shape))

    x = normal(2, 9, 12)
    model = attention(freeze)
    small = tfc.compress(model, tfc.Sparse(), batch_size=None)
    frozen = {"query": True, "key": False, "value": True, "attention_output": True}
    for found in (small.get_layer("attention"), tfc.decompress(small).get_layer("attention")):
        assert isinstance(found, K.MultiHeadAttention)
        parts = {part.name: part.trainable for part in found._flatten_layers()}
        assert frozen.items() <= parts.items()
    model = attention(adapt)
    small = tfc.compress(model, tfc.Sparse(), batch_size=None)
    assert not isinstance(small.get_layer("attention"), layers.MultiHeadAttention)
    assert (
        layers.composite.split_refusal(model.get_layer("attention")) == "its query has LoRA weights"
    )
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)


def residual(activation):
    inputs = keras.Input((6, 5, 8))
    x = K.Conv2D(8, 1, name="conv")(inputs)
    y = activation(K.Add(name="add")([x, inputs]))
    y = K.Add(name="broadcast")([y, K.GlobalAveragePooling2D(keepdims=True)(y)])
    return keras.Model(inputs, K.ReLU(name="after_broadcast")(y))


@pytest.mark.parametrize(
    "activation",
    [K.Activation("relu", name="act"), K.ReLU(6.0, name="act"), K.Activation("gelu", name="act")],
)
def test_sum_and_activation_are_joined(activation, tmp_path):
    model = residual(activation)
    small = tfc.compress(model, tfc.Sparse(), batch_size=None)
    kinds = {layer.name: type(layer) for layer in small.layers}
    assert kinds["add"] is layers.Add
    assert kinds["act"] is layers.Absorbed
    assert kinds["broadcast"] is K.Add
    assert kinds["after_broadcast"] is K.ReLU
    x = normal(3, 6, 5, 8)
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-5)
    small.save(tmp_path / "small.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "small.keras")(x), small(x))
    np.testing.assert_allclose(tfc.decompress(small)(x), model(x), rtol=1e-5, atol=1e-5)
    tfc.report(model, small)
    # What nothing was asked for, or was asked to be left alone, stays.
    for formats in ({"conv": tfc.Sparse()}, {"add": None, "*": tfc.Sparse()}):
        other = tfc.compress(model, formats, batch_size=None)
        assert type(other.get_layer("add")) is K.Add


def test_sums_that_stay(monkeypatch):
    """Of unequal shapes, on a GPU or in another dtype the layer runs as Keras' does."""
    layer = layers.Add("relu")
    a, b = normal(2, 3, 4), normal(2, 1, 4)
    np.testing.assert_allclose(layer([a, b]), np.maximum(a + b, 0), rtol=1e-6)
    assert "Tfcompress>Add" not in ops_of(
        layer, [tf.TensorSpec((2, 3, 4)), tf.TensorSpec((2, 1, 4))]
    )
    assert "Tfcompress>Add" in ops_of(layer, [tf.TensorSpec((None, 3, 4))] * 2)
    assert "Tfcompress>Add" not in ops_of(layer, [tf.TensorSpec((None, None, 4))] * 2)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    assert "Tfcompress>Add" not in ops_of(layer, [tf.TensorSpec((None, 3, 4))] * 2)
    norm = layers.LayerNormalization()
    assert "Tfcompress>LayerNorm" not in ops_of(norm, tf.TensorSpec((None, 4)))
    small = tfc.compress(encoder(), tfc.Sparse(), batch_size=None)
    assert "Tfcompress>Attention" not in ops_of(small, tf.TensorSpec((None, 9), tf.int32))
