"""The Binary and Ternary formats: what is packed, what it stands for, what it computes."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tfcompress_ops as tfc
from tfcompress_ops import kernels
from tfcompress_ops.formats import Binary, Ternary

OPTIONS = [
    *(Binary(activations) for activations in ("float", "int8", "binary")),
    Binary(center=True),
    Binary("int8", center=True),
    Binary("binary", center=True, scale_inputs=True),
    *(Ternary(activations) for activations in ("float", "int8")),
    Ternary("int8", threshold="absmean"),
]
# Inputs and outputs around the sizes of words and panels, and none at all.
SIZES = [(0, 3), (3, 0), (1, 1), (15, 17), (31, 16), (32, 63), (33, 64), (65, 65), (130, 129)]
BATCHES = (0, 1, 2, 15, 17, 101)


def by_label(format_):
    return format_.label


def matrix(k, n, seed=0):
    return np.random.default_rng(seed).standard_normal((k, n)).astype(np.float32)


def levels_of(format_, kernel):
    """Levels, scale and mean by the papers' formulas, in float64."""
    w = kernel.astype(np.float64)
    if isinstance(format_, Binary):
        mean = w.mean(axis=0).astype(np.float32) if format_.center else np.float32(0)
        centred = kernel - mean
        return np.where(centred >= 0, 1, -1), np.abs(centred.astype(np.float64)).mean(axis=0), mean
    if format_.threshold == "twn":
        keep = np.abs(w) > 0.7 * np.abs(w).mean(axis=0)
        scale = (np.abs(w) * keep).sum(axis=0) / np.maximum(keep.sum(axis=0), 1)
        return np.sign(w) * keep, scale, np.float32(0)
    gamma = np.abs(w).mean()
    return np.clip(np.rint(w / (gamma or 1)), -1, 1), np.full(kernel.shape[1], gamma), np.float32(0)


def prepared(format_, x):
    """Integers, as float64, that stand for each row of `x`, and the row's scale."""
    rows = len(x)
    if format_.activations == "int8":
        largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
        inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
        return np.rint(x * inverse).astype(np.float64), largest.astype(np.float64) / 127
    if format_.activations == "binary":
        scale = np.ones((rows, 1))
        if format_.scales_inputs:
            scale = np.abs(x).astype(np.float64).sum(axis=1, keepdims=True) / max(x.shape[1], 1)
        return np.where(x >= 0, 1.0, -1.0), scale
    return x.astype(np.float64), np.ones((rows, 1))


class TestOptions:
    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda: Binary("bool"), ValueError, "`activations` must be one of .*'bool'"),
            (lambda: Ternary("binary"), ValueError, "`activations` must be one of .*'binary'"),
            (lambda: Ternary(threshold="mean"), ValueError, "`threshold` must be one of .*'mean'"),
            (lambda: Binary(center=1), TypeError, "`center` must be a bool; received 1"),
            (lambda: Binary("binary", scale_inputs="yes"), TypeError, "`scale_inputs` must be a"),
            (lambda: Binary(scale_inputs=True), ValueError, "goes with activations='binary' only"),
        ],
    )
    def test_errors(self, make, error, message):
        with pytest.raises(error, match=message):
            make()

    @pytest.mark.parametrize("format_", OPTIONS, ids=by_label)
    def test_round_trip_through_keras(self, format_):
        config = keras.saving.serialize_keras_object(format_)
        assert keras.saving.deserialize_keras_object(config) == format_
        assert tfc.formats.get(config) == format_

    def test_names_and_labels(self):
        assert tfc.formats.get("binary") == Binary()
        assert tfc.formats.get("ternary") == Ternary()
        assert len({format_.label for format_ in OPTIONS}) == len(OPTIONS)
        assert [label for label, _ in Binary.variants()] == ["binary float", "binary binary"]
        assert [label for label, _ in Ternary.variants()] == ["ternary int8"]
        assert Binary("binary", True, True).label == "binary binary center scaled"
        assert Ternary(threshold="absmean").label == "ternary float absmean"


class TestPack:
    @pytest.mark.parametrize("shape", SIZES)
    @pytest.mark.parametrize("format_", OPTIONS, ids=by_label)
    def test_levels_and_scales_are_the_published_ones(self, format_, shape):
        kernel = matrix(*shape)
        if kernel.size:
            kernel[0, 0], kernel[-1, -1] = 0.0, -0.0
        arrays = format_.pack(kernel)
        format_.check_arrays(arrays, *shape)
        with np.errstate(invalid="ignore"):
            expected, scale, mean = levels_of(format_, kernel) if kernel.size else (None, 0, None)
        if kernel.size:
            np.testing.assert_allclose(arrays["scale"], scale, rtol=1e-6)
            levels = kernels.binary_unpack(arrays["kernel"], *shape, format_.levels)
            np.testing.assert_array_equal(levels, expected)
            # Exactly what the arrays say, in float32.
            weights = expected.astype(np.float32) * arrays["scale"] + mean
            np.testing.assert_array_equal(format_.unpack(arrays), weights)
        assert format_.unpack(arrays).shape == shape
        assert ("mean" in arrays) == (format_.has_mean)

    def test_sign_of_zero_is_one(self):
        kernel = np.array([[0.0, -0.0], [1.0, -3.0]], np.float32)
        np.testing.assert_array_equal(
            Binary().unpack(Binary().pack(kernel)), [[0.5, 1.5], [0.5, -1.5]]
        )

    @pytest.mark.parametrize(("format_", "share"), [(Binary(), 32), (Ternary(), 16)])
    def test_bytes(self, format_, share):
        arrays = format_.pack(matrix(256, 128))
        assert arrays["kernel"].nbytes == 256 * 128 * 4 // share
        others = sum(array.nbytes for name, array in arrays.items() if name != "kernel")
        assert others == 128 * 4 + 8

    @settings(max_examples=40, deadline=None)
    @given(
        k=st.integers(1, 90),
        n=st.integers(1, 40),
        exponent=st.integers(-30, 30),
        seed=st.integers(0, 1000),
    )
    def test_what_is_quantised_already_is_kept(self, k, n, exponent, seed):
        rng = np.random.default_rng(seed)
        scale = np.ldexp(rng.uniform(0.5, 1, n), exponent).astype(np.float32)
        binary = rng.choice(np.array([-1, 1], np.float32), (k, n)) * scale
        ternary = rng.choice(np.array([-1, 0, 1], np.float32), (k, n)) * scale
        for format_, kernel in ((Binary(), binary), (Ternary(), binary), (Ternary(), ternary)):
            np.testing.assert_array_equal(format_.unpack(format_.pack(kernel)), kernel)
        same = np.sign(binary) * scale[0]
        absmean = Ternary(threshold="absmean")
        np.testing.assert_array_equal(absmean.unpack(absmean.pack(same)), same)

    def test_thresholds_are_exclusive(self):
        # Mean magnitudes 1: |w| = 0.5 is rounded to even, to 0.
        kernel = np.array([[0.5], [-0.5], [1.5], [-1.5]], np.float32)
        levels = np.sign(
            Ternary(threshold="absmean").unpack(Ternary(threshold="absmean").pack(kernel))
        )
        np.testing.assert_array_equal(levels, [[0], [0], [1], [-1]])
        scale = Ternary().pack(np.array([[0.69], [0.71], [1.6]], np.float32))["scale"]
        np.testing.assert_allclose(scale, [(0.71 + 1.6) / 2], rtol=1e-6)

    def test_columns_of_zeros(self):
        for format_ in OPTIONS:
            np.testing.assert_array_equal(format_.unpack(format_.pack(np.zeros((40, 3)))), 0)

    @pytest.mark.parametrize("format_", [Binary(), Ternary()], ids=by_label)
    @pytest.mark.parametrize(
        ("kernel", "error", "message"),
        [
            (np.ones((3, 3), np.int32), TypeError, "`kernel` must be"),
            (np.ones(3, np.float32), ValueError, "`kernel` must be"),
            (np.full((2, 2), np.nan, np.float32), ValueError, "`kernel` must be"),
            (np.zeros(((1 << 22) + 1, 0), np.float32), ValueError, "at most 4194304 rows.*4194305"),
        ],
    )
    def test_errors(self, format_, kernel, error, message):
        with pytest.raises(error, match=message):
            format_.pack(kernel)

    def test_range_that_overflows(self):
        largest = np.finfo(np.float32).max
        kernel = np.array([[largest], [-largest], [-largest]], np.float32)
        with pytest.raises(ValueError, match="whose range overflows float32"):
            Binary(center=True).pack(kernel)
        np.testing.assert_array_equal(Binary().unpack(Binary().pack(kernel)), kernel)

    def test_describe(self):
        kernel = np.array([[0.0], [1.0], [-1.0], [0.0]], np.float32)
        assert Ternary().describe(Ternary().pack(kernel)) == {"zeros": "50.0%"}
        assert Ternary().describe(Ternary().pack(np.zeros((0, 3), np.float32))) == {"zeros": "0.0%"}


class TestCheckArrays:
    @pytest.mark.parametrize("format_", OPTIONS, ids=by_label)
    def test_malformed(self, format_):
        arrays = format_.pack(matrix(33, 20))
        format_.check_arrays(arrays, 33, 20)
        for changes, message in (
            ({"kernel": arrays["kernel"][:-1]}, "must have shape"),
            ({"kernel": arrays["kernel"].astype(np.int8)}, "must be uint8"),
            ({"kernel": arrays["kernel"][None]}, "must have shape"),
            ({"scale": arrays["scale"][:-1]}, "must have shape"),
            ({"scale": arrays["scale"].astype(np.float64)}, "must be float32"),
            ({"scale": arrays["scale"] * np.float32(np.nan)}, "`scale` must be finite"),
            ({"scale": np.full(20, np.inf, np.float32)}, "`scale` must be finite"),
            ({"shape": np.array([20, 33], np.int32)}, r"`shape` must hold \(33, 20\)"),
            ({"more": arrays["scale"]}, "must be named"),
        ):
            with pytest.raises(ValueError, match=message):
                format_.check_arrays({**arrays, **changes}, 33, 20)
        for name in arrays:
            less = {other: array for other, array in arrays.items() if other != name}
            with pytest.raises(ValueError, match=r"must be named|must hold|must have shape"):
                format_.unpack(less)
        if format_.has_mean:
            with pytest.raises(ValueError, match="`mean` must be finite"):
                format_.unpack({**arrays, "mean": arrays["mean"] / np.float32(np.nan)})

    @pytest.mark.parametrize("shape", [[-1, 20], [33, -20], [2**22 + 1, 20], [33, 20, 1]])
    def test_absurd_shapes(self, shape):
        arrays = Binary().pack(matrix(33, 20))
        with pytest.raises(ValueError, match="must"):
            Binary().unpack({**arrays, "shape": np.array(shape, np.int32)})


class TestMatMul:
    # The long ones: narrow sums must be widened in time, whatever their worst case.
    @pytest.mark.parametrize(("k", "n"), [*SIZES, (4129, 17), (9001, 17)])
    @pytest.mark.parametrize("format_", OPTIONS, ids=by_label)
    def test_against_numpy(self, format_, k, n):
        rng = np.random.default_rng(k * 1000 + n)
        arrays = format_.pack(matrix(k, n))
        levels = kernels.binary_unpack(arrays["kernel"], k, n, format_.levels).astype(np.float64)
        mean = arrays.get("mean", np.float32(0))
        for m in BATCHES:
            x = rng.standard_normal((m, k)).astype(np.float32)
            bias = rng.standard_normal(n).astype(np.float32)
            integers, row_scale = prepared(format_, x)
            if format_.activations != "float":
                sums = kernels.binary_matmul(
                    x,
                    arrays["kernel"],
                    arrays["scale"],
                    k,
                    levels=format_.levels,
                    activations=format_.activations,
                    sums=True,
                    threads=2,
                )
                assert sums.dtype == np.int32
                np.testing.assert_array_equal(sums, integers @ levels)
            y = format_.matmul(x, arrays, bias, activation="relu").numpy()
            weights = levels * arrays["scale"].astype(np.float64) + mean
            expected = np.maximum(row_scale * (integers @ weights) + bias, 0)
            assert y.shape == (m, n)
            size = (row_scale * (np.abs(integers) @ np.abs(weights))).max(initial=1)
            np.testing.assert_allclose(y, expected, atol=2e-6 * size + 1e-6)

    @pytest.mark.parametrize("format_", OPTIONS, ids=by_label)
    @pytest.mark.parametrize("rows", [3, 40])
    def test_special_values(self, format_, rows):
        x = matrix(rows, 50, 1)
        x[0] = -0.0
        x[1, 5] = np.nan
        x[2, 7] = np.inf
        bias = np.arange(20, dtype=np.float32)
        arrays = format_.pack(matrix(50, 20))
        y = format_.matmul(x, arrays, bias).numpy()
        if format_.activations == "binary":
            # -0 is no negative number, and an infinity has a sign, but no finite magnitude.
            ones = 0 if format_.scales_inputs else np.ones((1, 50)) @ format_.unpack(arrays)
            np.testing.assert_allclose(y[0], np.ravel(ones + bias), atol=1e-4)
            assert np.isfinite(y[2]).all() == (not format_.scales_inputs)
        else:
            np.testing.assert_array_equal(y[0], bias)
            zeros = format_.unpack(arrays)[7] == 0  # of which an infinity makes anything
            assert not np.isfinite(y[2][~zeros]).any()
        assert np.isnan(y[1]).all() or format_.levels == "ternary"
        weights = format_.unpack(arrays)
        assert np.isnan(y[1][weights[5] != 0]).all()
        assert np.isfinite(y[3:]).all()

    def test_infinite_rows_of_int8_are_void(self):
        x = np.full((1, 50), np.inf, np.float32)
        for format_ in (Binary("int8"), Ternary("int8")):
            assert np.isnan(format_.matmul(x, format_.pack(matrix(50, 20)))).all()

    def test_unknown_width(self):
        arrays = Binary().pack(matrix(3, 2))
        for spec in (None, [None, None]):
            with pytest.raises(ValueError, match="`x` must have a known last dimension"):
                tf.function(
                    lambda x: Binary().matmul(x, arrays), input_signature=[tf.TensorSpec(spec)]
                ).get_concrete_function()


class TestKernels:
    @pytest.mark.parametrize("levels", ["binary", "ternary"])
    @pytest.mark.parametrize("k", [64, 1000, 4096, 9001])
    @pytest.mark.parametrize("rows", [1, 3, 20])
    def test_largest_sums(self, levels, k, rows):
        weights = np.ones((k, 20), np.int8)
        weights[:, ::2] = -1
        x = np.where(np.arange(rows) % 2, -1, 1)[:, None] * np.full((rows, k), 0.3, np.float32)
        packed, scale = kernels.binary_pack(weights, levels), np.ones(20, np.float32)
        for activations, step in (("int8", 127), ("binary", 1)):
            if levels == "binary" or activations == "int8":
                sums = kernels.binary_matmul(
                    x.astype(np.float32),
                    packed,
                    scale,
                    k,
                    levels=levels,
                    activations=activations,
                    sums=True,
                )
                expected = step * np.sign(x).astype(np.int64) @ weights.astype(np.int64)
                np.testing.assert_array_equal(sums, expected)

    def test_layout_is_the_documented_one(self):
        weights = np.full((40, 100), -1, np.int8)
        weights[35, 70] = 1
        packed = kernels.binary_pack(weights)
        assert packed.size == 896
        words = packed.view("<u4")
        assert words[64 * 2 + 1 * 48 + 6] == 1 << 3
        assert np.count_nonzero(words) == 1

    @pytest.mark.parametrize("levels", ["binary", "ternary"])
    @pytest.mark.parametrize("shape", SIZES)
    def test_round_trip(self, levels, shape):
        values = [-1, 1] if levels == "binary" else [-1, 0, 1]
        weights = np.random.default_rng(0).choice(np.array(values, np.int8), shape)
        packed = kernels.binary_pack(weights, levels)
        assert packed.shape == (kernels.binary_packed_size(*shape, levels),)
        np.testing.assert_array_equal(kernels.binary_unpack(packed, *shape, levels), weights)

    @pytest.mark.parametrize("threads", [2, 3, 7])
    def test_threads_do_not_change_the_result(self, threads):
        weights = matrix(300, 500)
        for format_, rows in itertools.product((Binary("binary"), Ternary("int8")), (1, 17, 150)):
            arrays, x = format_.pack(weights), matrix(rows, 300, 1)
            options = {"levels": format_.levels, "activations": format_.activations}
            one, several = (
                kernels.binary_matmul(
                    x, arrays["kernel"], arrays["scale"], 300, threads=t, **options
                )
                for t in (1, threads)
            )
            np.testing.assert_array_equal(several, one)

    ONE = np.ones((2, 3), np.float32)
    PACKED = kernels.binary_pack(np.ones((3, 4), np.int8))
    TERNARY = kernels.binary_pack(np.ones((3, 4), np.int8), "ternary")
    SCALE = np.ones(4, np.float32)
    WORDS = np.zeros((2, 1), np.uint32)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda s: kernels.binary_pack(np.ones(3, np.int8)), "`weights` must have rank 2"),
            (lambda s: kernels.binary_pack(np.zeros((3, 3), np.int8)), "`weights` must be -1 or 1"),
            (lambda s: kernels.binary_pack(np.full((3, 3), 2, np.int8), "ternary"), "-1, 0 or 1"),
            (lambda s: kernels.binary_pack(np.ones((3, 3), np.int8), "int2"), "`levels` must be"),
            (lambda s: kernels.binary_unpack(s.PACKED[1:], 3, 4), "`packed` must have shape"),
            (lambda s: kernels.binary_packed_size(-1, 1), "`in_features` must be from 0 to"),
            (lambda s: kernels.binary_packed_size(2**22 + 1, 1), "must be from 0 to 4194304"),
            (lambda s: kernels.binary_packed_size(1, -1), "`out_features` must be >= 0"),
            (lambda s: kernels.binary_quantize_pack(s.ONE[0]), "`kernel` must have rank 2"),
            (lambda s: kernels.binary_quantize_pack(s.ONE, "round"), "`rule` must be"),
            (lambda s: kernels.binary_quantize_pack(s.ONE, "twn", True), "`center` goes with"),
            (lambda s: kernels.binary_quantize_pack(s.ONE * np.nan), "`kernel` must be finite"),
            (lambda s: kernels.binary_quantize_pack(s.ONE * np.inf, "twn"), "must be finite"),
            (lambda s: s.matmul(x=s.ONE[0]), "`x` must have rank 2"),
            (lambda s: s.matmul(x=s.ONE[:, :2]), "`x` must have 3 columns for in_features = 3"),
            (lambda s: s.matmul(x=np.zeros((2, 3), np.uint32)), "`x` must have 1 columns"),
            (lambda s: s.matmul(packed=s.PACKED[1:]), "`packed` must have shape"),
            (lambda s: s.matmul(packed=s.TERNARY[:-4], levels="ternary"), "`packed` must have"),
            (lambda s: s.matmul(scale=s.SCALE[None]), "`scale` must have rank 1"),
            (lambda s: s.matmul(mean=s.SCALE[1:]), "`mean` must have shape"),
            (lambda s: s.matmul(bias=s.SCALE[1:]), "`bias` must have shape"),
            (lambda s: s.matmul(threshold=np.zeros(3, np.int32)), "`threshold` must have shape"),
            (lambda s: s.matmul(levels="int2"), "`levels` must be"),
            (lambda s: s.matmul(activations="int4"), "`activations` must be"),
            (lambda s: s.matmul(activation="swish"), "`activation` must be"),
            (lambda s: s.matmul(threads=0), "`threads` must be from 1"),
            (lambda s: s.matmul(sums=True), "integer sums .* only where activations are"),
            (lambda s: s.matmul(scale_x=True), "exist only where activations are binary"),
            (lambda s: s.matmul(x=s.WORDS), "exist only where activations are binary"),
            (lambda s: s.matmul(x=s.WORDS, activations="binary", scale_x=True), "as numbers, not"),
            (
                lambda s: s.matmul(packed=s.TERNARY, levels="ternary", activations="binary"),
                "activations can be binary only where weights are",
            ),
            (
                lambda s: s.matmul(
                    threshold=np.zeros(4, np.int32), activations="binary", sums=True
                ),
                "`threshold` and `sums` do not go together",
            ),
        ],
    )
    def test_errors(self, call, message):
        with pytest.raises(ValueError, match=message):
            call(self)

    def matmul(self, **changes):
        arguments = {"x": self.ONE, "packed": self.PACKED, "scale": self.SCALE, "in_features": 3}
        return kernels.binary_matmul(**{**arguments, **changes})

    def test_variants(self):
        variants = kernels.binary_variants()
        available = [variant["tier"] for variant in variants if variant["available"]]
        assert available == kernels.cpu_info()["tiers"]
        assert all(variant[kind] for variant in variants for kind in ("float", "int8", "binary"))
