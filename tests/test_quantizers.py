"""Quantisers against their published formulas, in plain NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops import quantizers
from tfcompress_ops.quantizers import ApproxSign, FakeInt8, SteSign, SteTern

RNG = np.random.default_rng(0)
W = np.concatenate([RNG.normal(size=(50, 7)) * 1.2, np.zeros((1, 7)), np.ones((1, 7))])
W = W.astype(np.float32)
UPSTREAM = RNG.normal(size=W.shape).astype(np.float32)
SIGN = np.where(W >= 0, 1, -1).astype(np.float32)


def value_and_gradient(quantizer, w=W):
    w = tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch(w)
        q = quantizer(w)
    return q.numpy(), tape.gradient(q, w, UPSTREAM).numpy()


@pytest.mark.parametrize("clip_value", [1.0, 0.5])
def test_ste_sign(clip_value):
    q, gradient = value_and_gradient(SteSign(clip_value))
    np.testing.assert_array_equal(q, SIGN)
    np.testing.assert_array_equal(gradient, UPSTREAM * (np.abs(W) <= clip_value))


def test_approx_sign():
    q, gradient = value_and_gradient(ApproxSign())
    np.testing.assert_array_equal(q, SIGN)
    expected = np.select([W < -1, W < 0, W < 1], [0 * W, 2 + 2 * W, 2 - 2 * W], 0 * W)
    np.testing.assert_allclose(gradient, UPSTREAM * expected, atol=1e-6)


@pytest.mark.parametrize("make", [SteSign, ApproxSign])
def test_scaled_sign(make):
    q, gradient = value_and_gradient(make(scale=True))
    alpha = np.abs(W).mean(axis=0)
    np.testing.assert_allclose(q, alpha * SIGN, rtol=1e-6)
    _, of_sign = value_and_gradient(make())
    of_scale = np.sign(W) * (UPSTREAM * SIGN).sum(axis=0) / len(W)
    np.testing.assert_allclose(gradient, alpha * of_sign + of_scale, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip_value", [None, 0.8])
@pytest.mark.parametrize("threshold", ["twn", "absmean"])
def test_ternary(threshold, clip_value):
    q, gradient = value_and_gradient(SteTern(threshold, clip_value))
    if threshold == "twn":
        t = np.where(np.abs(W) > 0.7 * np.abs(W).mean(axis=0), np.sign(W), 0)
        scale = np.abs(W * t).sum(axis=0) / np.abs(t).sum(axis=0)
    else:
        scale = np.abs(W).mean()
        t = np.clip(np.round(W / scale), -1, 1)
    np.testing.assert_allclose(q, t * scale, rtol=1e-6)
    passed = UPSTREAM if clip_value is None else UPSTREAM * (np.abs(W) <= clip_value)
    np.testing.assert_allclose(gradient, passed, rtol=1e-5)


def test_fake_int8():
    q, gradient = value_and_gradient(FakeInt8())
    scale = np.abs(W).max(axis=0) / 127
    np.testing.assert_allclose(q, np.round(W / scale) * scale, rtol=1e-6)
    np.testing.assert_allclose(gradient, UPSTREAM, rtol=1e-5)
    assert np.abs(q - W).max() <= scale.max() * 0.51


@pytest.mark.parametrize(
    "quantizer", [SteSign(scale=True), SteTern(), SteTern("absmean"), FakeInt8()]
)
def test_zeros(quantizer):
    q, gradient = value_and_gradient(quantizer, np.zeros_like(W))
    np.testing.assert_array_equal(np.abs(q), np.zeros_like(W))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("kernel", "inputs", "expected"),
    [
        (SteSign(), None, tfc.Binary()),
        (ApproxSign(), FakeInt8(), tfc.Binary("int8")),
        (SteSign(), ApproxSign(), tfc.Binary("binary")),
        (SteSign(), SteSign(scale=True), tfc.Binary("binary", scale_inputs=True)),
        (SteTern(), None, tfc.Ternary()),
        (SteTern("absmean"), FakeInt8(), tfc.Ternary("int8")),
        (FakeInt8(), None, tfc.Int8("float")),
        (FakeInt8(), FakeInt8(), tfc.Int8()),
    ],
)
def test_formats(kernel, inputs, expected):
    """A format packs the quantised kernel and unpacks to the same weights."""
    format_ = quantizers.format_of(kernel, inputs)
    assert format_ == expected
    quantized = kernel(W).numpy()
    unpacked = format_.unpack(format_.pack(quantized))
    if isinstance(format_, tfc.Int8):
        np.testing.assert_allclose(unpacked, quantized, rtol=2e-7)
    else:
        np.testing.assert_array_equal(unpacked, quantized)


@pytest.mark.parametrize(
    ("kernel", "inputs", "message"),
    [
        (SteTern(), SteSign(), "kernel_quantizer=SteTern with input_quantizer=SteSign"),
        (FakeInt8(), SteSign(scale=True), "kernel_quantizer=FakeInt8 with input_quantizer=SteSign"),
        (SteSign(), SteTern(), "kernel_quantizer=SteSign with input_quantizer=SteTern"),
        (None, FakeInt8(), "kernel_quantizer=None with input_quantizer=FakeInt8"),
    ],
)
def test_no_format(kernel, inputs, message):
    with pytest.raises(ValueError, match=message):
        quantizers.format_of(kernel, inputs)


@pytest.mark.parametrize(
    "quantizer", [SteSign(0.5, scale=True), ApproxSign(), SteTern("absmean", 2.0), FakeInt8()]
)
def test_serialisation(quantizer):
    again = quantizers.get(keras.saving.serialize_keras_object(quantizer))
    assert type(again) is type(quantizer)
    assert again.get_config() == quantizer.get_config()
    assert type(quantizers.get(type(quantizer).__name__)) is type(quantizer)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SteSign(0), ValueError, "`clip_value` must be a positive number; received 0"),
        (lambda: SteSign(scale=1), TypeError, "`scale` must be a bool; received 1"),
        (lambda: SteTern("mean"), ValueError, "`threshold` must be one of"),
        (lambda: tfc.constraints.WeightClip(-1), ValueError, "`clip_value` must be a positive"),
        (lambda: quantizers.get("Sign"), ValueError, "must be one of .*'SteSign'.*'Sign'"),
        (lambda: quantizers.get(3), TypeError, "A quantizer must be None"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_weight_clip():
    clip = tfc.constraints.WeightClip(0.5)
    np.testing.assert_array_equal(clip(W), np.clip(W, -0.5, 0.5))
    config = keras.constraints.serialize(clip)
    assert keras.constraints.deserialize(config).clip_value == 0.5
