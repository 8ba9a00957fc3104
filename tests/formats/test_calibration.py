"""How the range of a layer's inputs is found."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops.formats.calibration import METHODS

RNG = np.random.default_rng(0)


def calibration(method, *batches):
    observer = METHODS[method](tfc.Int8("static"))
    for batch in batches:
        observer.observe(tf.constant(batch))
    return observer.calibration()


def test_percentile_leaves_outliers_out():
    x = RNG.uniform(-1, 1, 100_000).astype(np.float32)
    x[:5] = 50  # 0.005 %
    assert calibration("max", x) == 50
    assert calibration("percentile", x[:10], x[10:]) == pytest.approx(1, abs=0.03)
    x[:20] = 50  # 0.02 %
    assert calibration("percentile", x) == pytest.approx(50, abs=0.1)


def test_mse_is_the_best_of_all_ranges():
    x = RNG.standard_t(3, 50_000).astype(np.float32)

    def error(clip):
        step = clip / 127
        return np.mean(np.square(np.clip(np.round(x / step), -127, 127) * step - x))

    found = calibration("mse", *np.split(x, 5))
    best = min(error(clip) for clip in np.linspace(0.05, 1, 96) * np.abs(x).max())
    assert error(found) <= 1.05 * best
    assert error(found) < 0.9 * error(np.abs(x).max())


@pytest.mark.parametrize("method", METHODS)
def test_special_values(method):
    assert calibration(method, np.zeros((3, 2), np.float32)) == 0
    assert np.isnan(calibration(method, np.array([1, np.nan], np.float32))) or method == "max"
    assert calibration(method, np.zeros((0, 2), np.float32), np.float32([2, -2])) == 2


def test_in_compress(capsys):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])
    x = RNG.uniform(-1, 1, (30_000, 4)).astype(np.float32)
    x[0, 0] = 50
    for method, largest in (("max", 50), ("percentile", 1)):
        small = tfc.compress(model, tfc.Int8("static"), x, calibration=method, progress=True)
        scale = small.get_layer("dense").packed_arrays()["x_scale"]
        np.testing.assert_allclose(scale, [largest / 127], rtol=0.05)
    assert "Calibrating" in capsys.readouterr().err
    tfc.compress(model, tfc.Int8("static"), x, progress=False)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ValueError, match=r"`calibration` must be one of .*'mse'.*received 'kl'"):
        tfc.compress(model, tfc.Int8("static"), x, calibration="kl")
    with pytest.raises(ValueError, match=r"`calibration_data` must hold inputs as 'seq.*\(9, 5\)"):
        tfc.compress(model, tfc.Int8("static"), np.zeros((9, 5)))


@pytest.mark.parametrize("x_scale", [0.0, -1.0, 2.0**-112, 2.0**101])
def test_steps_that_kernels_refuse(x_scale):
    format_ = tfc.Int8("static")
    arrays = format_.pack(np.eye(3, dtype=np.float32), 1.0)
    arrays["x_scale"] = np.array([x_scale], np.float32)
    with pytest.raises(ValueError, match=r"`x_scale` must be from 2\^-110 to 2\^100"):
        format_.check_arrays(arrays, 3, 3)
    with pytest.raises(ValueError, match=r"`x_scale` must be"):
        format_.pack(np.eye(3, dtype=np.float32), 2.0**110)
