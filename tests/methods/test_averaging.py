"""tfc.average_weights: uniform and greedy soups."""

import keras
import numpy as np
import pytest

import tfcompress_ops as tfc


def make_model(value, units=3):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(units), keras.layers.BatchNormalization()]
    )
    model.set_weights([np.full(weight.shape, value, "f") for weight in model.get_weights()])
    return model


def value_of(model):
    values = np.unique(np.concatenate([np.ravel(weight) for weight in model.get_weights()]))
    assert len(values) == 1
    return float(values[0])


def test_uniform():
    models = [make_model(value) for value in (1, 2, 6)]
    mean = tfc.average_weights(models)
    assert value_of(mean) == 3
    assert [value_of(model) for model in models] == [1, 2, 6]
    assert not set(map(id, mean.variables)) & set(map(id, models[0].variables))


@pytest.mark.parametrize(
    ("values", "target", "expected"),
    [
        ((10, 4, 6), 5.0, 5.0),  # 4 and 6 (equally good) meet the target; 10 leads away from it.
        ((0, 9), 10.0, 9.0),  # The best alone.
        ((2, 2), 2.0, 2.0),
    ],
)
def test_greedy(values, target, expected):
    models = [make_model(value) for value in values]
    soup = tfc.average_weights(models, score=lambda model: -abs(value_of(model) - target))
    assert value_of(soup) == expected


def test_errors():
    with pytest.raises(ValueError, match="`models` must hold a model; received none"):
        tfc.average_weights([])
    with pytest.raises(TypeError, match=r"`models\[1\]` must be a keras\.Model"):
        tfc.average_weights([make_model(1), "model"])
    with pytest.raises(TypeError, match="`models` must be a list of"):
        tfc.average_weights(3)
    with pytest.raises(ValueError, match="must have the same architecture; received"):
        tfc.average_weights([make_model(1), make_model(1, units=5)])
    with pytest.raises(ValueError, match="must not be compressed"):
        tfc.average_weights([tfc.compress(make_model(1), "int8")])
