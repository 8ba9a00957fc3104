"""Schedules of sparsity."""

import numpy as np
import pytest

import tfcompress_ops as tfc
from tfcompress_ops.schedules import Constant, Polynomial


@pytest.mark.parametrize("power", [1, 3, 0.5])
def test_polynomial(power):
    """s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt)) ** power, Zhu and Gupta's equation."""
    schedule = Polynomial(0.2, 0.9, begin_step=30, end_step=230, power=power, frequency=10)
    for t in range(30, 231, 10):
        expected = 0.9 + (0.2 - 0.9) * (1 - (t - 30) / (20 * 10)) ** power
        assert schedule(t) == pytest.approx(expected, abs=1e-12)
    assert schedule(10**6) == pytest.approx(0.9)
    values = [schedule(t) for t in range(30, 300)]
    assert (np.diff(values) >= 0).all()


def test_constant():
    schedule = Constant(0.75, begin_step=5)
    assert [schedule(step) for step in (5, 50)] == [0.75, 0.75]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(0.5, 3, None, 4), [3, 7, 11, 15, 19]),
        (Constant(0.5, 3, 10, 4), [3, 7, 10]),
        (Constant(0.5, 3, 3, 4), [3]),
        (Polynomial(0, 0.5, 0, 8, frequency=4), [0, 4, 8]),
        (Polynomial(0, 0.5, 2, 5, frequency=100), [2, 5]),
    ],
)
def test_when_zeros_change(schedule, expected):
    for step in range(20):
        before = [one for one in expected if one <= step]
        assert schedule.last_change(step) == (before[-1] if before else None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(1.0), "`sparsity` must be a fraction of zeros, 0 <= sparsity < 1; rec"),
        (lambda: Constant("0.5"), "`sparsity` must be a fraction"),
        (lambda: Constant(0.5, -1), "`begin_step` must be an integer >= 0; received -1"),
        (lambda: Constant(0.5, frequency=0), "`frequency` must be an integer >= 1; received 0"),
        (lambda: Constant(0.5, 10, 9), "`end_step` must not come before `begin_step`; received 9"),
        (lambda: Polynomial(0, 0.5, 10, 10), "`end_step` must come after `begin_step`; received"),
        (lambda: Polynomial(0, 0.5, 10, None), "`end_step` must come after `begin_step`; received"),
        (lambda: Polynomial(0.6, 0.5, 0, 10), "`final_sparsity` must not be below"),
        (lambda: Polynomial(-0.1, 0.5, 0, 10), "`initial_sparsity` must be a fraction"),
        (lambda: Polynomial(0, 0.5, 0, 10, power=0), "`power` must be a positive number; received"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_values():
    """Schedules are values: equal where their options are."""
    assert tfc.schedules.Constant(0.5) == Constant(0.5, 0)
    assert Constant(0.5) != Constant(0.6)
