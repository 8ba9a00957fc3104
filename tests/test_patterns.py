"""Which weights stay: every pattern against plain loops."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress_ops import patterns
from tfcompress_ops.patterns import check_pattern, keep_mask, keep_masks

RNG = np.random.default_rng(0)


def kernels(in_features=(0, 1, 3, 5, 16, 63, 64, 65, 130), out_features=(0, 1, 2, 15, 16, 17, 33)):
    """Matrices of small integers: many ties, many zeros, and sums of squares that are exact."""
    return st.builds(
        lambda k, n, largest, seed: (
            np.random.default_rng(seed)
            .integers(-largest, largest, (k, n), endpoint=True)
            .astype(np.float32)
        ),
        st.sampled_from(in_features),
        st.sampled_from(out_features),
        st.sampled_from((0, 1, 9, 1000)),
        st.integers(0, 2**32 - 1),
    )


SPARSITIES = st.one_of(st.sampled_from((0.0, 0.5, 0.75, 0.9, 0.999)), st.floats(0, 0.999))


def root_mean_square(kernel, places):
    return math.sqrt(sum(float(kernel[place]) ** 2 for place in places) / len(places))


def block_units(kernel, rows, columns):
    """Lists of the places (k, n) of each block."""
    return [
        [
            (k, n)
            for k in range(top, min(top + rows, kernel.shape[0]))
            for n in range(left, min(left + columns, kernel.shape[1]))
        ]
        for top in range(0, kernel.shape[0], rows)
        for left in range(0, kernel.shape[1], columns)
    ]


def balanced_units(kernel):
    """Lists of the places (k, n) of each step, by window, panel and step."""
    units = []
    for top in range(0, kernel.shape[0], 64):
        window = range(top, min(top + 64, kernel.shape[0]))
        for left in range(0, kernel.shape[1], 16):
            panel = range(left, min(left + 16, kernel.shape[1]))
            ranked = {n: sorted(window, key=lambda k: (-abs(kernel[k, n]), k)) for n in panel}
            for first in range(0, len(window), 4):
                units.append([(k, n) for n in panel for k in ranked[n][first : first + 4]])
    return units


def mask_of(kernel, units):
    mask = np.zeros(kernel.shape, bool)
    for unit in units:
        for place in unit:
            mask[place] = True
    return mask


def largest_units(kernel, units, sparsity):
    """Takes units from the largest on until enough weights stay."""
    staying = kernel.size - round(sparsity * kernel.size)
    chosen, count = [], 0
    for unit in sorted(units, key=lambda unit: -root_mean_square(kernel, unit)):  # stable
        if count < staying and any(kernel[place] for place in unit):
            chosen.append(unit)
            count += len(unit)
    return mask_of(kernel, chosen)


@given(kernels())
def test_nothing_asked(kernel):
    np.testing.assert_array_equal(keep_mask(kernel), kernel != 0)


@given(kernels(), SPARSITIES)
def test_sparsity(kernel, sparsity):
    mask = keep_mask(kernel, sparsity=sparsity)
    assert mask.dtype == bool
    np.testing.assert_array_equal(
        mask, largest_units(kernel, block_units(kernel, 1, 1), sparsity), strict=True
    )
    zeros = max(round(sparsity * kernel.size), np.count_nonzero(kernel == 0))
    assert np.count_nonzero(~mask) == zeros


@given(kernels(), st.sampled_from((0, 0.5, 1, 3.0, 9, 2000)))
def test_threshold(kernel, threshold):
    mask = keep_mask(kernel, threshold=threshold)
    np.testing.assert_array_equal(mask, (np.abs(kernel) >= threshold) & (kernel != 0), strict=True)


def test_threshold_that_a_weight_equals():
    values = [0.1, 0.3, 0.7, 1e-3]
    for value in values:
        assert keep_mask(np.array([[value, -value]], "float32"), threshold=value).all()
        assert keep_mask(np.full((3, 5), value, "float32"), threshold=value, block=(2, 3)).all()
    assert not keep_mask(np.full((3, 5), 3e38), threshold=1e300).any()


@given(kernels(), st.sampled_from((4, 8, 16, 32, 64, 128)), st.data())
def test_groups(kernel, m, data):
    n = data.draw(st.integers(1, m))
    expected = np.zeros(kernel.shape, bool)
    for column in range(kernel.shape[1]):
        for top in range(0, kernel.shape[0], m):
            group = range(top, min(top + m, kernel.shape[0]))
            ranked = sorted(group, key=lambda k: (-abs(kernel[k, column]), k))
            expected[ranked[:n], column] = True
    mask = keep_mask(kernel, pattern=f"{n}:{m}")
    np.testing.assert_array_equal(mask, expected & (kernel != 0), strict=True)


@given(kernels(), SPARSITIES)
def test_balanced(kernel, sparsity):
    np.testing.assert_array_equal(
        keep_mask(kernel, sparsity=sparsity, pattern="balanced"),
        largest_units(kernel, balanced_units(kernel), sparsity),
        strict=True,
    )


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.875, 0.9375])
@pytest.mark.parametrize("shape", [(64, 16), (200, 50), (1023, 1000)])
def test_balanced_is_balanced(shape, sparsity):
    kernel = RNG.normal(size=shape).astype(np.float32)
    mask = keep_mask(kernel, sparsity=sparsity, pattern="balanced")
    staying = kernel.size - round(sparsity * kernel.size)
    assert staying <= np.count_nonzero(mask) < staying + 64
    for top in range(0, shape[0], 64):
        rows = min(64, shape[0] - top)
        for left in range(0, shape[1], 16):
            counts = mask[top : top + 64, left : left + 16].sum(axis=0)
            assert len(set(counts)) == 1
            assert counts[0] % 4 == 0 or counts[0] == rows
    # No edge is worth less: the share that stays in the last panel is that of all the others.
    last = mask[:, shape[1] // 16 * 16 :]
    if last.size:
        assert np.count_nonzero(last) / last.size == pytest.approx(1 - sparsity, abs=0.05)


def test_balanced_keeps_first_steps_whatever_the_rounding():
    """Equal weights, whose short last step must not outlive the full one before it."""
    for value in RNG.uniform(0.5, 1.5, 200).astype(np.float32):
        mask = keep_mask(np.full((7, 3), value), sparsity=0.6, pattern="balanced")
        np.testing.assert_array_equal(mask.sum(axis=1), [3, 3, 3, 3, 0, 0, 0])


BLOCKS = st.tuples(st.sampled_from((1, 2, 4, 64, 200)), st.sampled_from((1, 3, 16, 64)))


@given(kernels(), BLOCKS, SPARSITIES)
def test_blocks_by_sparsity(kernel, block, sparsity):
    expected = largest_units(kernel, block_units(kernel, *block), sparsity)
    mask = keep_mask(kernel, sparsity=sparsity, block=block)
    np.testing.assert_array_equal(mask, expected, strict=True)


@given(kernels(), BLOCKS, st.sampled_from((0, 0.5, 1, 7, 550)))
def test_blocks_by_threshold(kernel, block, threshold):
    units = [
        unit
        for unit in block_units(kernel, *block)
        if root_mean_square(kernel, unit) >= threshold and any(kernel[place] for place in unit)
    ]
    mask = keep_mask(kernel, threshold=threshold, block=list(block))
    np.testing.assert_array_equal(mask, mask_of(kernel, units), strict=True)


@given(kernels(), BLOCKS)
def test_blocks_that_are_not_zero(kernel, block):
    units = [unit for unit in block_units(kernel, *block) if any(kernel[place] for place in unit)]
    np.testing.assert_array_equal(keep_mask(kernel, block=block), mask_of(kernel, units))


@pytest.mark.parametrize(
    "options", [{}, {"block": (4, 4)}, {"block": (5, 3)}, {"pattern": "balanced"}]
)
def test_one_ranking_of_several_matrices(options):
    small, large = (RNG.normal(size=(128, 48)).astype(np.float32) * scale for scale in (1, 2))
    masks = keep_masks([small, large], sparsity=0.8, **options)
    kept = [np.count_nonzero(mask) for mask in masks]
    staying = small.size * 2 - round(0.8 * small.size * 2)
    assert staying <= sum(kept) < staying + 64
    assert kept[0] < kept[1] / 3
    # 48 outputs are whole panels and blocks: side by side, the two are one matrix.
    together = np.concatenate([small, large], axis=1)
    expected = keep_mask(together, sparsity=0.8, **options)
    np.testing.assert_array_equal(np.concatenate(masks, axis=1), expected)


def test_several_matrices_that_do_not_meet():
    one, other = (RNG.normal(size=shape).astype(np.float32) for shape in ((70, 5), (3, 20)))
    for options in ({"threshold": 0.5}, {"pattern": "2:4"}, {"threshold": 0.5, "block": (2, 2)}):
        for kernel, mask in zip((one, other), keep_masks([one, other], **options), strict=True):
            np.testing.assert_array_equal(mask, keep_mask(kernel, **options))
    assert keep_masks([], sparsity=0.5) == []


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_dtypes(dtype):
    kernel = RNG.normal(size=(70, 20)).astype(dtype)
    for options in ({"sparsity": 0.5}, {"pattern": "4:16"}, {"threshold": 0.5}):
        np.testing.assert_array_equal(
            keep_mask(kernel, **options), keep_mask(kernel.astype(np.float32), **options)
        )


def test_memory_order():
    kernel = RNG.integers(-9, 9, (70, 20)).astype(np.float32)
    for options in (
        {"sparsity": 0.5},
        {"sparsity": 0.5, "pattern": "balanced"},
        {"sparsity": 0.5, "block": (3, 3)},
        {"pattern": "4:16"},
    ):
        np.testing.assert_array_equal(
            keep_mask(np.asfortranarray(kernel), **options), keep_mask(kernel, **options)
        )


def test_tiny_weights_are_not_zero():
    kernel = np.array([[1e-45, 0.0], [-1e-40, 1e-30]], np.float32)
    np.testing.assert_array_equal(keep_mask(kernel), kernel != 0)
    np.testing.assert_array_equal(keep_mask(kernel, sparsity=0.5), [[False, False], [True, True]])
    assert keep_mask(kernel, block=(1, 2)).all()
    assert keep_mask(kernel, sparsity=0.0, pattern="balanced").all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sparsity": 1.0}, ValueError, "`sparsity` must be a fraction .* received 1.0"),
        ({"sparsity": -0.1}, ValueError, "`sparsity` must be a fraction .* received -0.1"),
        ({"sparsity": math.nan}, ValueError, "`sparsity` must be a fraction .* received nan"),
        ({"sparsity": "half"}, TypeError, "`sparsity` must be None or a number; received 'half'"),
        ({"sparsity": True}, TypeError, "`sparsity` must be None or a number; received True"),
        ({"threshold": -1}, ValueError, "`threshold` must be finite and >= 0; received -1"),
        ({"threshold": math.inf}, ValueError, "`threshold` must be finite and >= 0; received inf"),
        ({"threshold": math.nan}, ValueError, "`threshold` must be finite and >= 0; received nan"),
        ({"threshold": []}, TypeError, r"`threshold` must be None or a number; received \[\]"),
        (
            {"sparsity": 0.5, "threshold": 0.1},
            ValueError,
            "`threshold` must be None where `sparsity` is given; received threshold=0.1 and",
        ),
        ({"pattern": 2}, TypeError, "`pattern` must be None or a string; received 2"),
        ({"pattern": "4:6"}, ValueError, "`pattern` must be None, 'balanced' or .*received '4:6'"),
        ({"pattern": "0:4"}, ValueError, "`pattern` must be .* received '0:4'"),
        ({"pattern": "5:4"}, ValueError, "`pattern` must be .* received '5:4'"),
        ({"pattern": "2:4:8"}, ValueError, "`pattern` must be .* received '2:4:8'"),
        ({"pattern": "Balanced"}, ValueError, "`pattern` must be .* received 'Balanced'"),
        ({"pattern": "2:4\n"}, ValueError, "`pattern` must be .* received"),
        (
            {"pattern": "2:4", "sparsity": 0.5},
            ValueError,
            "must be None with an N:M pattern, .* received sparsity=0.5, threshold=None and",
        ),
        ({"pattern": "2:4", "threshold": 0.0}, ValueError, "with an N:M pattern.*threshold=0.0"),
        ({"pattern": "balanced"}, ValueError, "`sparsity` must be given with pattern='balanced'"),
        (
            {"pattern": "balanced", "threshold": 0.5},
            ValueError,
            r"`sparsity` must be given .* received None \(threshold=0.5\)",
        ),
        (
            {"pattern": "balanced", "sparsity": 0.5, "block": (2, 2)},
            ValueError,
            r"`block` must be \(1, 1\) where `pattern` is given; received block=\(2, 2\)",
        ),
        ({"pattern": "2:4", "block": (1, 2)}, ValueError, r"`block` must be \(1, 1\) where"),
        ({"block": 4}, TypeError, "`block` must be a pair of integers; received 4"),
        ({"block": (4, 1.5)}, TypeError, r"`block` must be a pair of integers; received \(4, 1.5"),
        ({"block": (True, 1)}, TypeError, "`block` must be a pair of integers; received"),
        ({"block": (4,)}, ValueError, r"`block` must be two positive integers.*received \(4,\)"),
        ({"block": (1, 1, 1)}, ValueError, "`block` must be two positive integers"),
        ({"block": ()}, ValueError, "`block` must be two positive integers"),
        ({"block": (0, 1)}, ValueError, r"`block` must be two positive integers.*received \(0, 1"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        check_pattern(**options)
    with pytest.raises(error, match=message):
        keep_mask(np.ones((4, 4)), **options)


def test_options_that_are_right():
    check_pattern()
    check_pattern(sparsity=np.float32(0.5), block=[np.int64(4), 1])
    check_pattern(sparsity=0, pattern="balanced", block=[1, 1])
    assert patterns.parse_groups("16:128") == (16, 128)


@pytest.mark.parametrize(
    ("kernel", "error", "message"),
    [
        (np.ones((2, 2), int), TypeError, r"`kernel` must be floating-point; received int64 \(sh"),
        (np.ones(3), ValueError, r"`kernel` must be a matrix .*; received shape \(3,\)"),
        ([[1.0, np.nan]], ValueError, r"`kernel` must be finite; received 1 NaN or .*\(1, 2\)"),
        ([[-np.inf, np.nan]], ValueError, "`kernel` must be finite; received 2 NaN or infinite"),
        ([[1e300]], ValueError, "`kernel` must be finite; received 1 NaN or infinite"),
    ],
)
def test_kernels_are_checked(kernel, error, message):
    with pytest.raises(error, match=message):
        keep_mask(kernel, sparsity=0.5)
