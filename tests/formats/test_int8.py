"""Int8 against an independent NumPy model of its arithmetic."""

import dataclasses

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, example, given
from hypothesis import strategies as st

import tfcompress_ops as tfc
from tfcompress_ops import _kernels, formats, kernels
from tfcompress_ops.formats import Format, Int8, register_format

SIZES = st.one_of(st.integers(0, 20), st.sampled_from([31, 47, 64, 65, 127, 130]))
SEEDS = st.integers(0, 2**32 - 1)
EVERY_FORMAT = [format_ for _, format_ in Int8.variants()]


def matrix(seed, rows, columns, spread=1.0):
    """Normal values whose columns differ in scale, some columns zero."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0.1, 1, (rows, columns)) * np.exp(spread * rng.normal(size=columns))
    values[:, rng.random(columns) < 0.1] = 0
    return values.astype(np.float32)


def pack(format_, kernel, x=None):
    calibration = None
    if format_.needs_calibration:
        calibration = format_.observe(None, tf.constant(x if x is not None else [1.0]))
    return format_.pack(kernel, calibration)


def quantize_rows(x):
    """The model of dynamic activations: (x_q, scale of each row)."""
    largest = np.abs(x).max(axis=1, initial=0).astype(np.float32)
    ignored = largest < np.float32(2.0**-100)
    with np.errstate(divide="ignore"):
        inverse = np.where(ignored, 0, np.float32(127) / largest).astype(np.float32)
    x_q = np.clip(np.rint(x * inverse[:, None]), -127, 127).astype(np.int64)
    return x_q, np.where(ignored, 0, largest / np.float32(127)).astype(np.float32)


def unpack_integers(arrays):
    return kernels.int8_unpack(arrays["kernel"], *arrays["shape"]).astype(np.int64)


@given(seed=SEEDS, k=SIZES, n=SIZES, center=st.booleans())
@example(seed=0, k=0, n=3, center=True)
@example(seed=0, k=3, n=0, center=True)
@example(seed=0, k=1, n=1, center=True)
def test_weights_are_within_half_a_step(seed, k, n, center):
    kernel = matrix(seed, k, n)
    format_ = Int8(center=center)
    arrays = format_.pack(kernel)
    quantized, unpacked = unpack_integers(arrays), format_.unpack(arrays)
    assert unpacked.shape == (k, n)
    assert unpacked.dtype == np.float32
    assert np.abs(quantized).max(initial=0) <= 127
    mean = arrays["mean"] if center else np.zeros(n, np.float32)
    if center and k:
        np.testing.assert_allclose(mean, kernel.mean(axis=0, dtype=np.float64), atol=1e-6)
    centred = kernel - mean
    np.testing.assert_allclose(
        arrays["scale"], np.abs(centred).max(axis=0, initial=0) / np.float32(127), rtol=1e-6
    )
    # Half a step, and what float32 rounds off beside it.
    bound = 0.5 * arrays["scale"] + 4e-7 * (np.abs(mean) + 127 * arrays["scale"])
    assert (np.abs(unpacked - kernel) <= bound).all()
    np.testing.assert_array_equal(
        unpacked, quantized.astype(np.float32) * arrays["scale"] + mean, strict=True
    )


@given(seed=SEEDS, k=SIZES, n=SIZES)
def test_integers_survive_packing(seed, k, n):
    rng = np.random.default_rng(seed)
    quantized = rng.integers(-127, 128, (k, n), dtype=np.int8)
    scale = rng.random(n).astype(np.float32)
    arrays = Int8().pack_quantized(quantized, scale)
    np.testing.assert_array_equal(unpack_integers(arrays), quantized)
    np.testing.assert_array_equal(Int8().unpack(arrays), scale * quantized.astype(np.float32))
    assert arrays["kernel"].nbytes == kernels.int8_packed_size(k, n)
    # The layout is the same on every machine, as the header of the kernels draws it.
    where = [
        64 * (o // 64) * (-(-k // 4) * 4)
        + (i // 4) * min(64, -(-n // 16) * 16 - o // 64 * 64) * 4
        + (o % 64) * 4
        + i % 4
        for i in range(k)
        for o in range(n)
    ]
    np.testing.assert_array_equal(arrays["kernel"][where], quantized.ravel().astype(int) + 128)


@given(seed=SEEDS, m=st.integers(0, 9), k=SIZES, n=SIZES)
@example(seed=0, m=2, k=4099, n=17)
def test_integer_sums_are_exact(seed, m, k, n):
    assume(n > 0)
    arrays = Int8().pack(matrix(seed, k, n))
    x = matrix(seed + 1, m, k)
    x_q, x_scale = quantize_rows(x)
    sums, row_scale = kernels.int8_sums(x, arrays["kernel"], n)
    np.testing.assert_array_equal(sums, x_q @ unpack_integers(arrays))
    np.testing.assert_array_equal(row_scale, x_scale)


@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_sums_do_not_saturate(sign):
    k = 65536
    quantized = np.full((k, 3), 127 * sign, np.int8)
    arrays = Int8().pack_quantized(quantized, np.ones(3, np.float32))
    x = np.ones((2, k), np.float32)
    sums, _ = kernels.int8_sums(x, arrays["kernel"], 3)
    np.testing.assert_array_equal(sums, np.full((2, 3), sign * 127 * 127 * k))


# The extension module by itself: no TensorFlow, so that a process for each tier is quick.
TIER = """
    import importlib.util
    import numpy as np

    spec = importlib.util.spec_from_file_location("_kernels", {module!r})
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    results = {{"tier": kernels.cpu_info()["tier"]}}
    rng = np.random.default_rng(0)
    for m, k, n in [(1, 1, 1), (3, 5, 17), (2, 130, 70), (7, 257, 100), (33, 64, 129)]:
        w, x = (rng.normal(size=shape).astype(np.float32) for shape in ((k, n), (m, k)))
        for center in (False, True):
            packed, scale, mean = kernels.int8_quantize_pack(w, center)
            name = f"{{m}} {{k}} {{n}} {{center}} "
            results[name + "exact packed"] = packed
            results[name + "exact scale"] = scale
            results[name + "exact sums"], results[name + "exact rows"] = kernels.int8_sums(
                x, packed, n)
            results[name + "exact static"], _ = kernels.int8_sums(x, packed, n, x_scale=0.01)
            for activations in ("dynamic", "float"):
                results[name + activations] = kernels.int8_matmul(
                    x, packed, scale, mean, activations=activations, activation="gelu")
    np.savez("results.npz", **results)
"""


def test_every_tier_gives_the_same(run_python, tmp_path):
    results = {}
    tiers = kernels.cpu_info()["tiers"]
    for tier in tiers:
        run_python(TIER.format(module=_kernels.__file__), env={"TFCOMPRESS_ISA": tier})
        with np.load(tmp_path / "results.npz") as file:
            results[tier] = dict(file)
        assert results[tier].pop("tier") == tier
    assert tiers[0] == "portable"
    for tier in tiers[1:]:
        for name, values in results[tier].items():
            compare = (
                np.testing.assert_array_equal
                if "exact" in name
                else lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
            )
            compare(values, results["portable"][name])


def test_an_unknown_tier_is_refused(run_python):
    process = run_python(
        TIER.format(module=_kernels.__file__), env={"TFCOMPRESS_ISA": "sse9"}, check=False
    )
    assert "TFCOMPRESS_ISA" in process.stderr
    assert "sse9" in process.stderr
    assert all(variant["tier"] in process.stderr for variant in kernels.int8_variants())


@pytest.mark.parametrize("format_", EVERY_FORMAT, ids=lambda format_: format_.label)
@given(seed=SEEDS, m=st.integers(0, 5), k=SIZES, n=SIZES, with_bias=st.booleans())
def test_matmul_is_the_model(format_, seed, m, k, n, with_bias):
    kernel, x = matrix(seed, k, n), matrix(seed + 1, m, k)
    bias = matrix(seed + 2, 1, n)[0] if with_bias else None
    arrays = pack(format_, kernel, x)
    weights = unpack_integers(arrays)
    if format_.activations == "float":
        x_q, x_scale = x.astype(np.float64), np.ones(m)
    elif format_.activations == "static":
        step = arrays["x_scale"]
        x_q = np.clip(np.rint(x * (np.float32(1) / step)), -127, 127)
        x_scale = np.full(m, step, np.float64)
    else:
        x_q, x_scale = quantize_rows(x)
    expected = arrays["scale"].astype(np.float64) * (x_q @ weights)
    if format_.center:
        expected += arrays["mean"].astype(np.float64) * x_q.sum(axis=1, keepdims=True)
    expected *= x_scale[:, None]
    if bias is not None:
        expected += bias
    actual = format_.matmul(tf.constant(x), arrays, bias=bias)
    magnitude = np.abs(x) @ np.abs(format_.unpack(arrays)) + 1e-30
    assert actual.shape == (m, n)
    assert (np.abs(actual - expected) <= 2e-6 * (magnitude + np.abs(expected))).all()


def test_close_to_the_float_product():
    kernel, x = matrix(0, 300, 70, spread=0.3), matrix(1, 20, 300, spread=0)
    exact = x @ kernel
    for label, format_ in Int8.variants():
        actual = format_.matmul(tf.constant(x), pack(format_, kernel, x)).numpy()
        assert np.linalg.norm(actual - exact) < 0.02 * np.linalg.norm(exact), label


def test_centring_helps_where_weights_have_a_mean():
    kernel = np.random.default_rng(0).normal(1, 0.05, (200, 10)).astype(np.float32)
    errors = {
        center: np.abs(Int8(center=center).unpack(Int8(center=center).pack(kernel)) - kernel).max()
        for center in (False, True)
    }
    assert errors[True] < 0.25 * errors[False]


def test_rows_that_are_not_finite():
    kernel = matrix(0, 8, 5)
    x = np.ones((4, 8), np.float32)
    x[1, 3], x[2, 3], x[3] = np.nan, np.inf, 0
    dynamic = Int8().matmul(tf.constant(x), Int8().pack(kernel)).numpy()
    np.testing.assert_array_equal(np.isnan(dynamic).all(axis=1), [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(dynamic).any(axis=1), [False, True, True, False])
    np.testing.assert_array_equal(dynamic[3], 0)
    static_format = Int8("static")
    static = static_format.matmul(tf.constant(x), static_format.pack(kernel, 1.0)).numpy()
    np.testing.assert_array_equal(np.isnan(static).all(axis=1), [False, True, False, False])
    np.testing.assert_allclose(static[2], static[0], rtol=1e-5)  # infinity saturates to 127 = 1.0


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16, ">f4"])
def test_packs_every_floating_point_dtype(dtype):
    kernel = matrix(0, 9, 7).astype(dtype)
    arrays = Int8().pack(kernel[:, ::-1])  # not contiguous
    expected = Int8().pack(np.ascontiguousarray(kernel[:, ::-1], np.float32))
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], expected[name])


@pytest.mark.parametrize("format_", EVERY_FORMAT, ids=lambda format_: format_.label)
def test_arrays_are_as_specified(format_):
    arrays = pack(format_, matrix(0, 11, 21))
    specs = format_.array_specs(11, 21)
    assert list(arrays) == list(specs)
    for name, (shape, dtype) in specs.items():
        assert (arrays[name].shape, arrays[name].dtype) == (shape, dtype)
    format_.check_arrays(arrays, 11, 21)
    assert format_.nbytes(arrays) == sum(array.nbytes for array in arrays.values())


def test_a_quarter_of_the_bytes():
    kernel = matrix(0, 256, 256)
    assert Int8().nbytes(Int8().pack(kernel)) < kernel.nbytes / 3.9


@pytest.mark.parametrize("format_", EVERY_FORMAT, ids=lambda format_: format_.label)
def test_config_round_trip(format_):
    assert Int8.from_config(format_.get_config()) == format_
    config = keras.saving.serialize_keras_object(format_)
    assert formats.get(config) == format_
    assert keras.saving.deserialize_keras_object(config) == format_
    assert config["registered_name"] == "tfcompress>Int8"


def test_calibration():
    static = Int8("static")
    assert static.needs_calibration
    assert not Int8().needs_calibration
    state = None
    for batch in ([[-3.0, 1.0]], [[2.0, 0.5]], np.zeros((0, 2))):
        state = static.observe(state, tf.constant(batch, tf.float32))
    assert state == 3.0
    np.testing.assert_array_equal(
        static.pack(np.eye(2, dtype="float32"), state)["x_scale"], np.float32([3 / 127])
    )
    assert np.isfinite(1 / static.pack(np.eye(2, dtype="float32"), 0.0)["x_scale"])
    assert np.isnan(static.observe(1.0, tf.constant([[np.nan]])))
    for calibration in (None, np.nan, np.inf, -1.0):
        with pytest.raises(ValueError, match=r"`calibration` must .*Pass `calibration_data`"):
            static.pack(np.eye(2, dtype="float32"), calibration)


@pytest.mark.parametrize(
    ("kernel", "error", "message"),
    [
        (np.ones((2, 2), np.int8), TypeError, r"`kernel` must be floating-point; received int8"),
        (np.ones(3, np.float32), ValueError, r"`kernel` must be a matrix .* shape \(3,\)"),
        (np.ones((1, 2, 3), np.float32), ValueError, r"shape \(1, 2, 3\)"),
        (np.float32([[1, np.nan]]), ValueError, r"must be finite; received 1 NaN or infinite"),
        (np.float32([[np.inf, -np.inf]]), ValueError, r"must be finite; received 2 NaN"),
        (np.ones((65537, 1), np.float32), ValueError, r"at most 65536 rows.*received 65537"),
    ],
)
def test_pack_refuses(kernel, error, message):
    with pytest.raises(error, match=message):
        Int8().pack(kernel)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"quantized": np.ones((2, 3))}, TypeError, "`quantized` must be int8; received float64"),
        ({"quantized": np.ones(3, np.int8)}, ValueError, r"must be a matrix .*\(3,\)"),
        ({"quantized": np.full((2, 3), -128, np.int8)}, ValueError, "received -128"),
        ({"quantized": np.ones((65537, 3), np.int8)}, ValueError, "at most 65536 rows"),
        ({"scale": np.ones(2)}, ValueError, r"`scale` must have shape \(3,\)"),
        ({"scale": [1, np.inf, 1]}, ValueError, "`scale` must be finite"),
        ({"mean": np.ones(3)}, ValueError, r"`mean` must be None .*center=True"),
    ],
)
def test_pack_quantized_refuses(changes, error, message):
    arguments = {"quantized": np.ones((2, 3), np.int8), "scale": np.ones(3), **changes}
    with pytest.raises(error, match=message):
        Int8().pack_quantized(**arguments)


def test_pack_quantized_with_a_mean():
    quantized, scale = np.int8([[1, -2], [3, 127]]), np.float32([0.5, 0.25])
    centred = Int8(center=True)
    np.testing.assert_array_equal(
        centred.unpack(centred.pack_quantized(quantized, scale, mean=[1, 2])),
        quantized * scale + np.float32([1, 2]),
    )
    np.testing.assert_array_equal(
        centred.unpack(centred.pack_quantized(quantized, scale)), quantized * scale
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kernel", None, r"`arrays` must be named \['kernel', 'scale', 'shape'\]"),
        ("extra", np.ones(1), r"received \['extra', 'kernel'"),
        ("kernel", np.zeros(5, np.uint8), r"`kernel` must have shape \(64,\); received \(5,\)"),
        ("kernel", np.zeros(64, np.int8), "`kernel` must be uint8; received int8"),
        ("scale", np.ones((3, 1), np.float32), r"`scale` must have shape \(3,\)"),
        ("scale", np.full(3, np.nan, np.float32), "`scale` must be finite"),
        ("shape", np.int32([2, 4]), r"must have shape"),
        ("shape", np.int32([-2, 3]), r"from 0 to 65536"),
        ("shape", np.int32([2]), r"must have shape"),
        ("shape", None, r"must be named"),
    ],
)
def test_unpack_refuses(name, value, message):
    arrays = Int8().pack(np.ones((2, 3), np.float32))
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    with pytest.raises(ValueError, match=message):
        Int8().unpack(arrays)


def test_check_arrays_knows_its_matrix():
    arrays = Int8().pack(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"`shape` must hold \(3, 3\); received \(2, 3\)"):
        Int8().check_arrays(arrays, 3, 3)


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"`activations` must be one of .*received 'sometimes'"):
        Int8("sometimes")
    with pytest.raises(TypeError, match="`center` must be a bool; received 1"):
        Int8(center=1)


def test_registry():
    assert {"int8", "sparse", "binary", "ternary"} <= set(formats.names())
    assert formats.get("int8") == Int8() == tfc.Int8()
    assert formats.get(Int8("float")) == Int8("float")
    with pytest.raises(ValueError, match=r"`format` must be one of .*'int8'.*; received 'int9'"):
        formats.get("int9")
    with pytest.raises(TypeError, match=r"`format` must be a Format .*received 8"):
        formats.get(8)
    with pytest.raises(ValueError, match="`name` must be unused; received 'int8'"):

        @register_format
        class Int8Again(Int8):
            pass

    assert formats.get("int8") == Int8()
    assert all(isinstance(format_, Format) for _, format_ in Int8.variants())
    assert [field.name for field in dataclasses.fields(Int8)] == ["activations", "center"]
    assert len({label for label, _ in Int8.variants()}) == len(Int8.variants())
    assert repr(Int8()) == "Int8(activations='dynamic', center=False)"


def test_base_class_defaults():
    """What a format need not write: one variant, no calibration, int8 weights dequantised."""

    @dataclasses.dataclass(frozen=True)
    class Plain(Format):
        name = "plain"

        def pack(self, kernel, calibration=None):
            return {"kernel": np.asarray(kernel, np.float32)}

        def unpack(self, arrays):
            return arrays["kernel"]

        def matmul(self, x, arrays, bias=None, activation=None):
            return x @ arrays["kernel"]

        def array_specs(self, in_features, out_features):
            return {"kernel": ((in_features, None), "float32")}

    plain = Plain()
    assert plain.variants() == [("plain", plain)]
    assert not plain.needs_calibration
    with pytest.raises(NotImplementedError, match=r"Plain\(\) takes no calibration"):
        plain.observe(None, None)
    quantized = np.int8([[1, 2]])
    arrays = plain.pack_quantized(quantized, [2.0, 3.0], mean=[1.0, 0.0])
    np.testing.assert_array_equal(plain.unpack(arrays), [[3, 6]])
    plain.check_arrays(arrays, 1, 7)  # the open dimension takes any size
    assert Plain.from_config(plain.get_config()) == plain
