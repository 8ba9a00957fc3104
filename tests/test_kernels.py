"""tfc.kernels: the NumPy side of the kernels, against float64 formulas and its own contract."""

import math
import platform

import numpy as np
import pytest

from tfcompress_ops import kernels

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def sigmoid(x):
    return np.where(
        x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x)))
    )


def elu(x, alpha=1.0):
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


ERFC = np.vectorize(math.erfc, otypes=[np.float64])

# Keras' definitions, in float64.
ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x < 0, 0.2 * x, x),
    "elu": elu,
    "selu": lambda x: SELU_SCALE * elu(x, SELU_ALPHA),
    "gelu": lambda x: 0.5 * x * ERFC(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "exponential": np.exp,
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard_silu": lambda x: x * np.clip(x + 3, 0, 6) / 6,
}


def apply(activation: str, values: np.ndarray) -> np.ndarray:
    """The kernel's activation of each value: the bias of a layer without inputs."""
    return kernels.int8_matmul(
        np.zeros((1, 0), np.float32),
        np.zeros(0, np.uint8),
        np.zeros(values.size, np.float32),
        bias=values,
        activation=activation,
    )[0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_is_accurate(activation: str) -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate(
        [
            np.linspace(-20, 20, 20_011),
            rng.standard_normal(10_000),
            np.sign(rng.standard_normal(2000)) * 10.0 ** rng.uniform(-6, 1.5, 2000),
        ]
    ).astype(np.float32)
    expected = ACTIVATIONS[activation](x.astype(np.float64))
    # exp multiplies the rounding error of its argument by the argument.
    condition = np.maximum(1, np.abs(x)) if activation == "exponential" else 1
    bound = 3e-7 + 1e-6 * np.abs(expected) * condition
    error = np.abs(apply(activation, x) - expected)
    worst = np.argmax(error / bound)
    assert (error <= bound).all(), (x[worst], expected[worst], error[worst])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_of_special_values(activation: str) -> None:
    x = np.array([np.nan, 0.0, 1e30, -1e30, 100.0, -100.0], np.float32)
    y = apply(activation, x)
    assert np.isnan(y[0])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = ACTIVATIONS[activation](x[1:].astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(y[1:], expected, rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (3, 17), (64, 64), (65, 129)])
def test_pack_round_trip_and_size(shape: tuple[int, int]) -> None:
    weights = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    packed = kernels.int8_pack(weights)
    assert packed.shape == (kernels.int8_packed_size(*shape),)
    assert packed.size == -(-shape[0] // 4) * 4 * (-(-shape[1] // 16) * 16)
    np.testing.assert_array_equal(kernels.int8_unpack(packed, *shape), weights)


def test_layout_is_the_documented_one() -> None:
    weights = np.zeros((10, 100), np.int8)
    weights[5, 70] = 77
    packed = kernels.int8_pack(weights)
    assert packed.size == 1344
    assert packed[985] == 77 + 128
    assert np.count_nonzero(packed != 128) == 1


def test_rounding_is_to_nearest_even() -> None:
    kernel = np.array([[127.0, 254.0], [0.5, 5.0], [1.5, 3.0], [-2.5, -7.0]], np.float32)
    packed, scale, mean = kernels.int8_quantize_pack(kernel, False)
    assert mean is None
    np.testing.assert_array_equal(scale, [1.0, 2.0])
    expected = [[127, 127], [0, 2], [2, 2], [-2, -4]]
    np.testing.assert_array_equal(kernels.int8_unpack(packed, 4, 2), expected)


def test_rows_of_any_size_of_value_are_quantised() -> None:
    """From 2^-100 to the largest float, the row's scale adapts; below, the row counts as zero."""
    packed = kernels.int8_pack(np.ones((3, 1), np.int8))
    for exponent, expected in ((-101, 0), (-100, 127), (0, 127), (127, 127)):
        x = np.ldexp(np.array([[1.0, 0.5, -0.5]], np.float32), exponent)
        sums, row_scale = kernels.int8_sums(x, packed, 1)
        assert sums[0, 0] == expected  # 127 + 64 - 64
        assert row_scale[0] == (np.float32(x[0, 0] / np.float32(127)) if expected else 0)


def test_arrays_of_any_layout_are_taken() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 30)).astype(np.float32)
    packed, scale, _ = kernels.int8_quantize_pack(
        rng.standard_normal((15, 9)).astype(np.float32), False
    )
    strided = x[::2, ::2]
    expected = kernels.int8_matmul(np.ascontiguousarray(strided), packed, scale)
    np.testing.assert_array_equal(kernels.int8_matmul(strided, packed, scale), expected)
    transposed = np.asfortranarray(strided)
    np.testing.assert_array_equal(kernels.int8_matmul(transposed, packed, scale), expected)


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("activations", ["dynamic", "float"])
def test_threads_do_not_change_the_result(threads: int, activations: str) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((700, 900)).astype(np.float32)
    packed, scale, _ = kernels.int8_quantize_pack(kernel, False)
    for rows in (1, 5, 64, 201):
        x = rng.standard_normal((rows, 700)).astype(np.float32)
        one = kernels.int8_matmul(x, packed, scale, activations=activations)
        several = kernels.int8_matmul(x, packed, scale, activations=activations, threads=threads)
        if activations == "dynamic":
            np.testing.assert_array_equal(several, one)
        else:  # another cut into tiles, another order of additions
            np.testing.assert_allclose(several, one, rtol=1e-4, atol=1e-3)


ONE = np.ones((2, 3), np.float32)
PACKED = kernels.int8_pack(np.ones((3, 4), np.int8))
SCALE = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.int8_pack(np.zeros(3, np.int8)), "`weights` must have rank 2"),
        (lambda: kernels.int8_unpack(PACKED[:-1], 3, 4), r"`packed` must have shape \(64,\)"),
        (lambda: kernels.int8_packed_size(65_537, 1), "`in_features` must be from 0 to 65536"),
        (lambda: kernels.int8_packed_size(-1, 1), "`in_features` must be from 0"),
        (lambda: kernels.int8_packed_size(1, -1), "`out_features` must be >= 0"),
        (lambda: kernels.int8_quantize_pack(np.full((2, 2), np.nan), False), "must be finite"),
        (lambda: kernels.int8_quantize_pack(np.full((2, 2), np.inf), True), "must be finite"),
        (lambda: kernels.int8_matmul(ONE[0], PACKED, SCALE), "`x` must have rank 2"),
        (lambda: kernels.int8_matmul(ONE, PACKED, SCALE[:3, None]), "`scale` must have rank 1"),
        (lambda: kernels.int8_matmul(ONE, PACKED[1:], SCALE), "`packed` must have shape"),
        (lambda: kernels.int8_matmul(ONE, PACKED, SCALE, mean=SCALE[1:]), "`mean` must have shape"),
        (lambda: kernels.int8_matmul(ONE, PACKED, SCALE, bias=SCALE[1:]), "`bias` must have shape"),
        (
            lambda: kernels.int8_matmul(ONE, PACKED, SCALE, activation="swish"),
            "`activation` must be",
        ),
        (
            lambda: kernels.int8_matmul(ONE, PACKED, SCALE, activations="int4"),
            "`activations` must be",
        ),
        (
            lambda: kernels.int8_matmul(ONE, PACKED, SCALE, activations="static"),
            "`x_scale` must be given",
        ),
        (lambda: kernels.int8_matmul(ONE, PACKED, SCALE, x_scale=0.1), "`x_scale` must be given"),
        (
            lambda: kernels.int8_matmul(ONE, PACKED, SCALE, activations="static", x_scale=0.0),
            "x_scale must be a finite number",
        ),
        (lambda: kernels.int8_matmul(ONE, PACKED, SCALE, threads=0), "`threads` must be from 1"),
    ],
)
def test_errors_say_what_is_wrong(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_cpu_info_and_variants() -> None:
    info = kernels.cpu_info()
    assert info["tier"] in info["tiers"]
    assert info["tiers"][0] == "portable"
    assert info["num_cpus"] >= 1
    variants = kernels.int8_variants()
    tiers = {
        "x86_64": ["avx2", "avx512", "avx512vnni", "avx512vbmi", "avx512bf16"],
        "aarch64": ["neon", "dotprod"],
    }
    assert [v["tier"] for v in variants] == ["portable", *tiers.get(platform.machine(), [])]
    assert [v["tier"] for v in variants if v["available"]] == info["tiers"]


def test_measured_peaks_are_rates() -> None:
    peaks = kernels.measure_peaks(1)
    assert set(peaks) == {
        *("float32_gflops", "int8_gops", "binary_gops"),
        *("l2_read_gbs", "dram_read_gbs"),
    }
    assert all(0.1 < value < 1e6 for value in peaks.values())
