"""The Sparse format: what is packed, what it stands for, what it computes."""

import pickle

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tfcompress_ops as tfc
from tfcompress_ops import kernels, patterns
from tfcompress_ops.formats import Sparse

VALUES = ("float32", "bfloat16", "int8")


def matrix(k, n, seed=0, density=1.0):
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((k, n)).astype(np.float32)
    return np.where(rng.random((k, n)) < density, weights, np.float32(0))


def int8_of(weights):
    """The integers and scales that an independent quantisation gives, zeros kept."""
    largest = np.abs(weights).max(axis=0, initial=0)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return np.rint(weights * inverse).astype(np.int8), largest / np.float32(127)


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"sparsity": 1.0}, "`sparsity` must be a fraction of zeros"),
            ({"sparsity": 0.5, "threshold": 0.1}, "`threshold` must be None where"),
            ({"pattern": "9:8"}, "`pattern` must be None, 'balanced' or 'N:M'"),
            ({"pattern": "2:5"}, "`pattern` must be None, 'balanced' or 'N:M'"),
            ({"pattern": "balanced"}, "`sparsity` must be given with pattern='balanced'"),
            ({"pattern": "2:4", "block": (4, 4)}, "`block` must be"),
            ({"block": (0, 4)}, "`block` must be two positive integers"),
            ({"values": "int4"}, "`values` must be one of"),
            ({"values": "int8", "activations": "float"}, "`activations` must be one of"),
            ({"activations": "static"}, "`activations` must be 'dynamic' unless values='int8'"),
        ],
    )
    def test_errors(self, options, message):
        with pytest.raises(ValueError, match=message):
            Sparse(**options)

    def test_round_trip_through_keras(self):
        for format_ in (
            Sparse(),
            Sparse(sparsity=0.75, block=(16, 1)),
            Sparse(pattern="4:64", values="int8", activations="static"),
        ):
            config = keras.saving.serialize_keras_object(format_)
            assert keras.saving.deserialize_keras_object(config) == format_
            assert tfc.formats.get(config) == format_

    def test_labels_tell_variants_apart(self):
        labels = [label for label, _ in Sparse.variants()]
        assert len(set(labels)) == len(labels)
        assert Sparse(pattern="8:64", values="int8").label == "sparse 8:64 int8"
        assert Sparse(sparsity=0.5, block=(16, 1)).label == "sparse 50 % 16x1 float32"
        assert Sparse(threshold=0.1).label == "sparse |w| >= 0.1 float32"

    def test_only_float32_values_are_trained(self):
        trained = {values: Sparse(values=values).trainable_arrays for values in VALUES}
        assert trained == {"float32": ("values",), "bfloat16": (), "int8": ()}


class TestPack:
    @settings(max_examples=60, deadline=None)
    @given(
        k=st.integers(0, 200),
        n=st.integers(0, 70),
        density=st.sampled_from([0.0, 0.03, 0.1, 0.5, 1.0]),
        values=st.sampled_from(VALUES),
        seed=st.integers(0, 1000),
    )
    def test_unpack_is_the_inverse(self, k, n, density, values, seed):
        weights = matrix(k, n, seed, density)
        format_ = Sparse(values=values)
        unpacked = format_.unpack(format_.pack(weights))
        if values == "float32":
            expected = weights
        elif values == "bfloat16":
            expected = weights.astype(ml_dtypes.bfloat16).astype(np.float32)
        else:
            quantized, scale = int8_of(weights)
            expected = quantized.astype(np.float32) * scale
        np.testing.assert_array_equal(unpacked, expected)

    @pytest.mark.parametrize(
        "options",
        [
            {"sparsity": 0.9},
            {"threshold": 0.7},
            {"pattern": "2:4"},
            {"pattern": "8:64"},
            {"pattern": "16:128"},
            {"pattern": "balanced", "sparsity": 0.8},
            {"sparsity": 0.5, "block": (1, 16)},
            {"sparsity": 0.5, "block": (16, 1)},
        ],
    )
    @pytest.mark.parametrize("shape", [(256, 64), (131, 37)])
    def test_prunes_as_patterns_say(self, options, shape):
        weights = matrix(*shape)
        keep = patterns.keep_mask(weights, **options)
        format_ = Sparse(**options)
        np.testing.assert_array_equal(format_.unpack(format_.pack(weights)), weights * keep)
        # Pruned once, there is nothing more to prune.
        np.testing.assert_array_equal(format_.unpack(format_.pack(weights * keep)), weights * keep)

    def test_int8_are_the_integers_of_the_int8_format(self):
        weights = matrix(300, 50)
        pruned = weights * patterns.keep_mask(weights, pattern="8:64")
        sparse = Sparse(pattern="8:64", values="int8")
        arrays, dense = sparse.pack(weights), tfc.Int8().pack(pruned)
        np.testing.assert_array_equal(arrays["scale"], dense["scale"])
        np.testing.assert_array_equal(sparse.unpack(arrays), tfc.Int8().unpack(dense))

    def test_pack_quantized_keeps_integers(self):
        rng = np.random.default_rng(3)
        quantized = rng.integers(-127, 128, (100, 33), dtype=np.int8)
        scale = rng.uniform(0.1, 1, 33).astype(np.float32)
        format_ = Sparse(values="int8")
        unpacked = format_.unpack(format_.pack_quantized(quantized, scale))
        np.testing.assert_array_equal(unpacked, quantized.astype(np.float32) * scale)
        pruning = Sparse(values="int8", sparsity=0.5)
        kept = pruning.unpack(pruning.pack_quantized(quantized, scale))
        assert (kept == 0).mean() >= 0.5
        np.testing.assert_array_equal(kept[kept != 0], unpacked[kept != 0])

    @pytest.mark.parametrize("values", VALUES)
    @pytest.mark.parametrize(
        "options", [{"pattern": "8:64"}, {"pattern": "balanced", "sparsity": 0.75}]
    )
    def test_patterns_fill_every_place(self, options, values):
        format_ = Sparse(**options, values=values)
        arrays = format_.pack(matrix(256, 64))
        work = format_.work(arrays)
        assert work == pytest.approx(0.125 if "sparsity" not in options else 0.25, abs=1e-3)
        assert format_.describe(arrays)["fill"] in ("100 %", "99 %")  # int8: some round to 0

    def test_unstructured_fill(self):
        fill = {}
        for values in VALUES:
            format_ = Sparse(sparsity=0.9, values=values)
            facts = format_.describe(format_.pack(matrix(1024, 64)))
            assert facts["sparsity"].startswith("90.")
            fill[values] = int(facts["fill"].split()[0])
        assert min(fill.values()) >= 68

    def test_outputs_of_like_fill_share_panels(self):
        weights = np.zeros((1024, 64), np.float32)
        weights[:, ::4] = matrix(1024, 16)
        for values in VALUES:
            format_ = Sparse(values=values)
            arrays = format_.pack(weights)
            assert format_.work(arrays) <= 0.26
            x = matrix(5, 1024, 1)
            y = format_.matmul(x, arrays).numpy()
            np.testing.assert_allclose(y, x @ format_.unpack(arrays), atol=2, rtol=0.03)
            assert (y[:, 1::4] == 0).all()

    def test_bytes_are_fewer_than_those_of_csr(self):
        weights = matrix(1024, 256)
        for values in VALUES:
            format_ = Sparse(sparsity=0.9, values=values)
            arrays = format_.pack(weights)
            csr = int(format_.describe(arrays)["CSR bytes"].replace(",", ""))
            assert format_.nbytes(arrays) < csr

    @pytest.mark.parametrize(
        ("kernel", "error"),
        [
            (np.ones((3, 3), np.int32), TypeError),
            (np.ones(3, np.float32), ValueError),
            (np.full((2, 2), np.nan, np.float32), ValueError),
        ],
    )
    def test_errors(self, kernel, error):
        with pytest.raises(error, match="`kernel` must be"):
            Sparse().pack(kernel)

    def test_too_many_rows_for_int8(self):
        with pytest.raises(ValueError, match=r"65,?536"):
            Sparse(values="int8").pack(np.zeros((65537, 1), np.float32))


class TestCalibration:
    def test_static_scale(self):
        format_ = Sparse(pattern="8:64", values="int8", activations="static")
        assert format_.needs_calibration
        state = format_.observe(format_.observe(None, tf.constant([[1.0, -3.0]])), tf.zeros([1, 2]))
        arrays = format_.pack(matrix(64, 16), state)
        np.testing.assert_allclose(arrays["x_scale"], [3 / 127], rtol=1e-6)
        assert format_.calibration_of(arrays) == pytest.approx(3.0)
        with pytest.raises(ValueError, match="`calibration` must be the largest magnitude"):
            format_.pack(matrix(64, 16))


class TestCheckArrays:
    @pytest.fixture
    def arrays(self):
        return Sparse(sparsity=0.5, values="int8").pack(matrix(100, 20))

    def check(self, arrays, message):
        with pytest.raises(ValueError, match=message):
            Sparse(sparsity=0.5, values="int8").check_arrays(arrays, 100, 20)

    def test_names_shapes_dtypes(self, arrays):
        Sparse(sparsity=0.5, values="int8").check_arrays(arrays, 100, 20)
        self.check({k: v for k, v in arrays.items() if k != "scale"}, "must be named")
        self.check({**arrays, "values": arrays["values"].astype(np.float32)}, "must be int8")
        self.check({**arrays, "values": arrays["values"][:, :16]}, "must have shape")
        self.check({**arrays, "values": arrays["values"][:-1]}, "structure must have a size")
        self.check({**arrays, "structure": arrays["structure"][:-2]}, "structure must have a size")
        self.check({**arrays, "structure": arrays["structure"][:-4]}, "in_features must be 19")
        self.check({**arrays, "scale": arrays["scale"] * np.nan}, "`scale` must be finite")
        self.check({**arrays, "shape": np.array([20, 100], np.int32)}, "`shape` must hold")

    def test_contents(self, arrays):
        steps, entries = arrays["values"].shape
        panels = steps * entries  # where the int32 numbers begin
        for offset, message in ((4 * 2, "panels must ascend"), (4 * 3, "order must hold")):
            broken = arrays["structure"].copy()
            broken[panels + offset : panels + offset + 4] = 255
            self.check({**arrays, "structure": broken}, message)
        broken = arrays["structure"].copy()
        broken[-2:] = 255
        self.check({**arrays, "structure": broken}, "windows must be below 2")

    def test_of_another_matrix(self, arrays):
        other = Sparse(sparsity=0.5, values="int8").pack(matrix(120, 20))
        self.check(
            {**arrays, "structure": other["structure"], "values": other["values"]}, "in_feat"
        )
        floats = Sparse(sparsity=0.5).pack(matrix(100, 20))
        infinite = np.full_like(floats["values"], np.inf)
        with pytest.raises(ValueError, match="`values` must be finite"):
            Sparse(sparsity=0.5).check_arrays({**floats, "values": infinite}, 100, 20)


# The kernels alone: a process that imports no TensorFlow starts in no time.
CODE = """
import pickle
import numpy as np
import tfcompress_command
from tfcompress_ops import _kernels as kernels
rng = np.random.default_rng(0)
with open("problems.pickle", "rb") as file:
    problems = pickle.load(file)
for name, weights, given in problems:
    k, n = weights.shape
    dense = weights.astype(np.float64)
    given = {key: value for key, value in given.items() if key not in ("bias", "x_scale")}
    for m in (1, 2, 3, 7, 8, 9, 16, 17, 18, 31, 33, 50, 70):
        x = rng.standard_normal((m, k)).astype(np.float32)
        bias = rng.standard_normal(n).astype(np.float32)
        if "int8" in name:
            inverse = np.float32(127) / np.abs(x).max(axis=1, keepdims=True)
            q = np.rint(x * inverse).astype(np.int64)
            w = np.rint(dense / np.where(given["scale"] > 0, given["scale"], 1))
            sums = kernels.sparse_matmul(x, **{**given, "scale": None}, sums=True)
            assert (sums == q @ w.astype(np.int64)).all(), (name, m)
        y = kernels.sparse_matmul(x, **given, bias=bias, activation="relu")
        expected = np.maximum(x @ dense + bias, 0)
        bound = {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.03}[name.split()[0]]
        limit = bound * (np.abs(x) @ np.abs(dense)).max() + 1e-6
        assert np.abs(y - expected).max() <= limit, (name, m)
print(kernels.cpu_info()["tier"], len(problems))
"""


@pytest.mark.parametrize("tier", kernels.cpu_info()["tiers"])
def test_matmul_on_every_tier(tier, run_python, tmp_path):
    problems = []
    for k, n in ((1, 1), (64, 16), (100, 37), (300, 130)):
        for options in ({"sparsity": 0.8}, {"pattern": "4:64"}, {}):
            for values in VALUES:
                format_ = Sparse(**options, values=values)
                arrays = format_.pack(matrix(k, n))
                given = format_.kernel(arrays).keywords
                problems.append((f"{values} {k} {n} {options}", format_.unpack(arrays), given))
    (tmp_path / "problems.pickle").write_bytes(pickle.dumps(problems))
    process = run_python(CODE, env={"TFCOMPRESS_ISA": tier})
    assert process.stdout.split() == [tier, "36"], process.stderr[-2000:]


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("activation", [None, "relu", "gelu", "tanh", "silu"])
def test_dtypes_and_activations(values, dtype, activation):
    format_ = Sparse(pattern="8:64", values=values)
    arrays = format_.pack(matrix(128, 48))
    x = tf.cast(tf.constant(matrix(9, 128, 1)), dtype)
    y = format_.matmul(x, arrays, bias=np.ones(48, np.float32), activation=activation)
    assert y.dtype == dtype
    z = tf.cast(x, tf.float32) @ format_.unpack(arrays) + 1
    expected = keras.activations.get(activation)(z)
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, atol=0.25, rtol=0.05)


def test_special_values():
    """int8: as the int8 op. Float: a NaN or an infinity stays in its row."""
    x = matrix(4, 64, 1)
    x[0] = 0
    x[1, 5] = np.nan
    x[2, 7] = np.inf
    bias = np.arange(16, dtype=np.float32)
    for values in VALUES:
        format_ = Sparse(values=values)
        y = format_.matmul(x, format_.pack(matrix(64, 16)), bias=bias).numpy()
        np.testing.assert_array_equal(y[0], bias)
        assert np.isnan(y[1]).all()
        assert not np.isfinite(y[2]).any()
        assert np.isfinite(y[3]).all()
