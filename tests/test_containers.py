"""Compressing what custom layers and subclassed models hold."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops import layers, structure
from tfcompress_ops.layers.container import Container
from tfcompress_ops.rebuilding import rebuild

# What Keras does with NumPy 2.
pytestmark = [
    pytest.mark.usefixtures("quick_timing"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 8)).astype(np.float32)
D = keras.layers.Dense


@keras.saving.register_keras_serializable("tfcompress_tests")
class Block(keras.layers.Layer):
    """Holds layers in attributes, a list, a tuple and nested dicts; no `build`."""

    def __init__(self, units=8, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.up = D(2 * units, activation="relu")
        self.norm = keras.layers.LayerNormalization()
        self.stack = [D(units), D(units, name="named")]
        self.pair = (D(units), keras.layers.Dropout(0.5))
        self.by_name = {"a": D(units), "b": {"c": [D(units)]}}

    def call(self, x, training=False):
        y = self.norm(self.up(x))
        y = self.stack[1](self.stack[0](y)) + self.pair[1](self.pair[0](x), training=training)
        return y + self.by_name["a"](x) + self.by_name["b"]["c"][0](y)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tfcompress_tests")
class Custom(keras.Model):
    """A subclassed model: variables of its own, a graph, a layer used twice, nested containers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block(8), Block(8, name="second")]
        self.graph = keras.Sequential([keras.Input((8,)), D(8, activation="tanh", name="inner")])
        self.shared = D(8)
        self.also = self.shared
        self.head = D(3)

    def build(self, shape):
        self.factor = self.add_weight(shape=(8,), initializer="ones", name="factor")
        for layer in (*self.blocks, self.shared, self.head):
            layer(keras.KerasTensor(shape)) if isinstance(layer, Block) else layer.build(shape)

    def call(self, x, training=False):
        for block in self.blocks:
            x = block(x, training=training)
        x = self.also(self.shared(self.graph(x)))
        return {"y": self.head(x * self.factor), "x": x}


PATHS = [
    *("blocks/0/up", "blocks/0/stack/0", "blocks/0/named", "blocks/0/pair/0", "blocks/0/by_name/a"),
    *("blocks/0/by_name/b/c/0", "second/up", "second/stack/0", "second/named", "second/pair/0"),
    *("second/by_name/a", "second/by_name/b/c/0", "graph/inner", "shared", "head"),
]


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    model = Custom()
    model(X)
    model.factor.assign(np.linspace(0.5, 1.5, 8))
    return model


def assert_close(actual, expected, tolerance=0.1):
    for one, other in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other)


def compressed_paths(model):
    paths = structure.layer_paths(model)
    return [path for path, layer in paths.items() if isinstance(layer, layers.CompressedLayer)]


def test_a_copy_shares_nothing(model):
    expected = model(X)
    copy = rebuild(model, lambda layer: None)
    assert type(copy) is Custom
    for one, other in zip(keras.tree.flatten(copy(X)), keras.tree.flatten(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [v.shape for v in copy.variables] == [v.shape for v in model.variables]
    assert not set(map(id, copy.variables)) & set(map(id, model.variables))
    assert not set(map(id, copy._flatten_layers())) & set(map(id, model._flatten_layers()))
    assert copy.also is copy.shared
    for variable in copy.variables:
        variable.assign(variable * 0 if keras.backend.is_float_dtype(variable.dtype) else variable)
    assert_close(model(X), expected, 0)


def test_every_layer_is_found(model):
    small = tfc.compress(model, "int8")
    assert sorted(compressed_paths(small)) == sorted(PATHS)
    assert isinstance(small, Custom)
    assert isinstance(small.blocks[0], Block)
    assert isinstance(small.blocks[0].stack[0], layers.Dense)
    assert isinstance(small.blocks[1].pair, tuple)
    assert isinstance(small.blocks[1].by_name["b"]["c"][0], layers.Dense)
    assert small.also is small.shared
    assert_close(small(X), model(X))
    assert all(type(layer) is not layers.Dense for layer in model._flatten_layers())
    assert small.predict(X, verbose=0)["y"].shape == (6, 3)
    graph = tf.function(small).get_concrete_function(tf.TensorSpec((None, 8))).graph
    assert "MatMul" not in {node.type for node in graph.get_operations()}


def test_patterns_over_attributes(model):
    small = tfc.compress(
        model,
        {
            "blocks/0/stack/*": None,
            "blocks/0": tfc.Int8("float"),
            "*/by_name/a": None,
            "second": "int8",
        },
    )
    paths = structure.layer_paths(small)
    formats = {path: getattr(paths[path], "format", None) for path in PATHS}
    assert formats["blocks/0/stack/0"] is None
    assert formats["blocks/0/up"] == formats["blocks/0/by_name/a"] == tfc.Int8("float")
    assert formats["second/by_name/a"] is None
    assert formats["second/named"] == tfc.Int8()
    assert formats["head"] is None
    with pytest.raises(ValueError, match=r"'blocks/1/up', which matches none.*'blocks/0/up'"):
        tfc.compress(model, {"blocks/1/up": "int8"})


def test_saved_and_loaded(model, tmp_path):
    small = tfc.compress(model, {"*/pair/*": None, "*": tfc.Int8(center=True)})
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert isinstance(loaded, Custom)
    assert isinstance(loaded, Container)
    assert compressed_paths(loaded) == compressed_paths(small)
    assert loaded.also is loaded.shared
    assert_close(loaded(X), small(X), 1e-6)
    small.save_weights(tmp_path / "small.weights.h5")
    other = tfc.compress(model, {"*/pair/*": None, "*": tfc.Int8(center=True)})
    for variable in other.variables:
        variable.assign(np.zeros(variable.shape))
    other.load_weights(tmp_path / "small.weights.h5")
    assert_close(other(X), small(X), 1e-6)


def test_inside_a_functional_model(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    block = Block(8, name="block")
    model = keras.Model(inputs, D(2, name="out")(block(block(inputs))))
    model.compile("adam", "mse")
    y = model.predict(X, verbose=0)
    small = tfc.compress(model, "int8")
    assert_close(small.predict(X, verbose=0), y)
    assert len(small.layers) == len(model.layers)
    small.fit(X, np.zeros((6, 2)), verbose=0)  # biases
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert_close(loaded(X), small(X), 1e-6)
    small.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    assert_close(served.serve(X), small(X), 1e-5)


def test_decompress(model):
    small = tfc.compress(model, "int8")
    plain = tfc.decompress(small)
    assert type(plain) is Custom
    assert not isinstance(plain.blocks[0], Container)
    assert compressed_paths(plain) == []
    assert_close(plain(X), small(X), 0.05)


def test_compressing_the_rest_later(model):
    some = tfc.compress(model, {"second/*": tfc.Int8("float")})
    rest = tfc.compress(some, "int8")
    assert sorted(compressed_paths(rest)) == sorted(PATHS)
    assert rest.blocks[1].up.format == tfc.Int8("float")
    assert_close(rest(X), model(X))


def test_compile_state(model):
    model.compile(keras.optimizers.Adam(0.01), {"y": "mse", "x": None})
    model.predict(X, verbose=0)
    small = tfc.compress(model, "int8")
    assert small.compiled
    assert small.predict_function is None
    assert small.optimizer is not model.optimizer
    small.fit(X, {"y": np.zeros((6, 3)), "x": np.zeros((6, 8))}, verbose=0)
    model.fit(X, {"y": np.zeros((6, 3)), "x": np.zeros((6, 8))}, verbose=0)


def test_state_of_layers_in_containers():
    class Stateful(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = D(4)
            self.drop = keras.layers.Dropout(0.5, seed=1)
            self.seen = keras.metrics.Mean(name="seen")
            self.table = {"plain": np.ones(3)}
            self.method = self.double

        def double(self, x):
            return 2 * self.dense(x)

        def call(self, x):
            self.seen.update_state(x)
            return self.method(x)

    layer = Stateful()
    model = keras.Sequential([keras.Input((8,)), layer])
    model(X)
    layer.drop.seed_generator.state.assign([3, 4])
    small = tfc.compress(model, "int8")
    new = small.layers[0]
    np.testing.assert_array_equal(new.drop.seed_generator.state, [3, 4])
    assert float(new.seen.result()) == pytest.approx(float(layer.seen.result()))
    assert new.seen is not layer.seen
    assert new.table["plain"] is not layer.table["plain"]
    assert new.method.__self__ is new
    assert_close(small(X), model(X))


def test_tied_weights_are_left():
    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.other = D(8), D(8), D(8)

        def build(self, shape):
            for layer in (self.one, self.two, self.other):
                layer.build(shape)
            self.two._tracker.unlock()
            self.two._kernel = self.one._kernel

        def call(self, x):
            return self.other(self.two(self.one(x)))

    model = Tied()
    model(X)
    small = tfc.compress(model, "int8")
    assert compressed_paths(small) == ["other"]
    assert small.one.kernel is small.two.kernel
    assert_close(small(X), model(X))
    with pytest.raises(ValueError, match="one: it shares a weight with layer 'dense"):
        tfc.compress(model, {"one": "int8"})


def test_weights_that_are_used_outside():
    class Reversed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = D(8)

        def call(self, x):
            return keras.ops.matmul(self.dense(x), keras.ops.transpose(self.dense.kernel))

    model = Reversed()
    model(X)
    with pytest.raises(AttributeError, match=r"`kernel` of layer 'dense\w*' is packed as Int8"):
        tfc.compress(model, "int8")(X)


def test_report(model):
    # Each compressed layer is timed: not all of them here.
    small = tfc.compress(model, {"head": None, "second/*": "int8"})
    report = tfc.report(model, small, X)
    rows = {change.path: change for change in report.layers}
    assert set(PATHS) <= set(rows)
    assert rows["head"].note == "no format was chosen for it"
    assert rows["second/norm"].note == "it has no matrix; one op does its work"
    assert rows["second/up"].bytes_after < rows["second/up"].bytes_before
    assert report.total.bytes_before == sum(row.bytes_before for row in report.layers) + 8 * 4
    assert 0 < report.total.output_error < 0.1


def test_report_without_data():
    """Of a subclassed model Keras knows the shapes that it was built for, but no dtypes."""

    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = D(8)

        def call(self, x):
            return self.dense(x["one"]) + self.dense(x["other"])

    class Lookup(Two):
        def call(self, x):
            return self.dense(tf.gather(tf.constant(X[:, :8]), x))

    model = Two()
    model({"one": X, "other": X})
    report = tfc.report(model, tfc.compress(model, "int8"))
    assert [change.path for change in report.layers] == ["dense"]
    assert report.total.output_error is None
    model = Lookup()
    model(tf.constant([[0, 1]]))
    small = tfc.compress(model, "int8")
    with pytest.raises(
        ValueError, match=r"`data` must be given for 'lookup\w*', a .*received None"
    ):
        tfc.report(model, small)
    assert tfc.report(model, small, tf.constant([[0, 1]])).batch_size == 1
