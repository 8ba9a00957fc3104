"""The demonstration of the five methods: what is made, what is measured, what is shown."""

import json

import keras
import numpy as np
import pytest

import tfcompress_ops as tfc
from tfcompress_ops.cli import demo_command
from tfcompress_ops.demo import digits, method_results, methods, page
from tfcompress_ops.demo.method_results import ALONE, PIPELINE, Labels, Measured, Spread

# What Keras does with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

TINY = methods.Sizes(64, 64, 16, 16, 2, 3, 2, 1, 1, 3)
STEPS = [Labels.TEACHER, Labels.DISTILLED, Labels.REMOVED, Labels.PRUNED, Labels.INT8]
METHODS = [
    *(Labels.TRAINED_ON, Labels.SPARSE_FLOAT, Labels.SPARSE_INT8),
    *(Labels.ROUNDED, Labels.TUNED_INT8, Labels.TUNED_SIGNS),
    *(Labels.STUDENT_ALONE, Labels.STUDENT, Labels.FEW_ALONE, Labels.FEW, Labels.HALF_REMOVED),
    *(Labels.BEST_MEMBER, Labels.ENSEMBLE, Labels.BEST_TUNED, Labels.SOUP),
]


@pytest.fixture(scope="module")
def made():
    """The models of a seed, by label, as they are handed to the measurement."""
    kept = {}
    measure, done = methods._measure, []

    def keeping(entries, *arguments):
        kept.update({entry.label: entry.model for entry in entries})
        return measure(entries, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "_measure", keeping)
        found = methods.run([5], TINY, done.append)
    assert done == sorted(done)
    assert done[-1] == 1.0
    return found, kept


def test_every_step_is_measured(made):
    found, models = made
    assert [row.label for row in found.group(PIPELINE)] == STEPS
    assert sorted(row.label for row in found.group(ALONE)) == sorted(METHODS)
    assert set(models) == {*STEPS, *METHODS}
    data = digits.load(5)
    for row in found.rows:
        read = np.argmax(models[row.label].predict(data.test_images, verbose=0), axis=1)
        assert row.accuracy.mean == pytest.approx((read == data.test_labels).mean(), abs=0.003)
        assert row.smaller.mean == pytest.approx(
            found.row(Labels.TEACHER).file_bytes.mean / row.file_bytes.mean
        )
        for batch in ("1", "128"):
            assert 0 <= row.in_graph_us[batch].mean <= row.call_us[batch].mean
            assert row.faster[batch].mean > 0
    json.dumps([row.label for row in found.rows])


def test_steps_are_what_they_say(made):
    models = made[1]
    assert [models[label].layers[0].units for label in STEPS[:3]] == [64, 64, 32]
    kernels = [
        models[Labels.PRUNED].get_layer(name).kernel.numpy() for name in ("strokes", "digit")
    ]
    assert (kernels[0] == 0).mean() == pytest.approx(0.875, abs=0.02)
    assert (kernels[1] != 0).all()
    dense = models[Labels.TRAINED_ON].get_layer("strokes")
    assert dense.units == 64
    assert (dense.kernel.numpy() != 0).all()
    for label in (Labels.INT8, Labels.SPARSE_INT8):
        formats = [layer.format for layer in models[label].layers]
        sparse = tfc.Sparse(sparsity=0.875, pattern="balanced", values="int8")
        assert formats == [sparse, sparse, tfc.Int8()]
    assert models[Labels.SPARSE_FLOAT].layers[0].format.values == "float32"
    signs = [layer.format for layer in models[Labels.TUNED_SIGNS].layers]
    assert signs == [tfc.Binary("int8"), tfc.Binary("int8"), tfc.Int8()]
    assert models[Labels.HALF_REMOVED].layers[0].units == 32
    assert models[Labels.ENSEMBLE].count_params() == 5 * models[Labels.BEST_MEMBER].count_params()
    assert models[Labels.SOUP].count_params() == models[Labels.BEST_MEMBER].count_params()
    assert all(isinstance(model, keras.Model) for model in models.values())


def measured(label, accuracy, size, times, group=ALONE):
    calls = dict(zip(("1", "128"), times, strict=True))
    return Measured(group, label, accuracy, size, calls, {b: t / 2 for b, t in calls.items()})


def seed(shift):
    """A seed's rows, each metric known."""
    rows = [
        measured(Labels.TEACHER, 0.97 + shift, 1000, (100, 400), PIPELINE),
        measured(Labels.STUDENT_ALONE, 0.95, 500, (50, 200)),
        measured(Labels.STUDENT, 0.96, 500, (50, 200)),
        measured(Labels.FEW_ALONE, 0.90, 500, (50, 200)),
        measured(Labels.FEW, 0.92 + shift, 500, (50, 200)),
        measured(Labels.TRAINED_ON, 0.975, 1000, (100, 400)),
        measured(Labels.SPARSE_INT8, 0.97, 50, (10, 20)),
        measured(Labels.BEST_MEMBER, 0.94, 250, (10, 40)),
        measured(Labels.ENSEMBLE, 0.96, 1250, (20, 100)),
        measured(Labels.BEST_TUNED, 0.95, 250, (10, 40)),
        measured(Labels.SOUP, 0.955, 250, (10, 40)),
        measured(Labels.INT8, 0.96, 50, (10, 20), PIPELINE),
    ]
    return rows


def test_means_and_spreads():
    found = method_results.summarise(
        [seed(0.0), seed(0.02)], seeds=[1, 2], layers=[784, 9, 9, 10], members=5
    )
    teacher, last = found.row(Labels.TEACHER), found.group(PIPELINE)[-1]
    assert teacher.accuracy.mean == pytest.approx(0.98)
    assert teacher.accuracy.deviation == pytest.approx(0.02 / 2**0.5)
    assert last.label == Labels.INT8
    assert last.points.values == pytest.approx([-1.0, -3.0])
    assert last.smaller == Spread(20.0, 0.0, [20.0, 20.0])
    assert [last.faster[batch].mean for batch in ("1", "128")] == [10, 20]
    assert [found.calls_of_members[batch].mean for batch in ("1", "128")] == [2.5, 2.0]
    times = "\N{MULTIPLICATION SIGN}"
    assert page.spread(teacher.accuracy, page.percentage) == "98.0 ± 1.4 %"
    assert page.spread(Spread(4.06, 0.04, [4.1, 4.0]), page.ratio) == f"4.1 ± 0.0{times}"
    assert page.spread(Spread.of([0.5]), page.percentage) == "50.0 %"
    sentences = page.method_sentences(found)
    assert sentences[0].startswith(
        f"One after the other: 20{times} smaller, 10{times} faster at ba"
    )
    assert sentences[1].startswith("Pruned: \N{MINUS SIGN}0.5 ± 0.0 points against the same tr")
    assert "+1.0 ± 0.0 points against the same one without" in sentences[2]
    assert sentences[2].endswith("of a tenth of the digits: +3.0 ± 1.4.")
    assert "+2.0 ± 0.0 points against its best member" in sentences[3]
    assert f"2.5{times} at batch 1 and 2.0{times} at batch 128" in sentences[3]
    assert "+0.5 ± 0.0 points against the best" in sentences[4]


def test_digits_that_are_held_out():
    data = digits.load(3)
    split = digits.held_out(data, 400)
    assert [len(split.train_labels), len(split.test_labels)] == [3600, 400]
    for part in ("images", "labels"):
        train, chosen_by = getattr(split, f"train_{part}"), getattr(split, f"test_{part}")
        np.testing.assert_array_equal(
            np.concatenate([chosen_by, train]), getattr(data, f"train_{part}")
        )


def test_the_table_is_printed(made, capsys):
    demo_command._print_methods(made[0])
    printed = capsys.readouterr().out
    for words in (PIPELINE, ALONE, *STEPS, *METHODS, "Batch 1 ", "Batch 128", "Smaller"):
        assert words in printed
