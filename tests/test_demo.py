"""The demonstration: `tfcompress demo --quick` and what it leaves behind."""

import base64
import html.parser
import io
import json
import re
import shutil

import keras
import numpy as np
import pytest
from test_demo_methods import METHODS, STEPS, measured
from typer.testing import CliRunner

import tfcompress_ops as tfc
from tfcompress_ops.bench.timing import Timing
from tfcompress_ops.cli import app as app_module
from tfcompress_ops.cli import demo_command
from tfcompress_ops.demo import (
    classifier,
    digits,
    geometry,
    measure,
    method_results,
    methods,
    page,
    results,
)
from tfcompress_ops.demo import seeds as seeds_lib
from tfcompress_ops.demo.contestants import variants
from tfcompress_ops.demo.method_results import PIPELINE
from tfcompress_ops.demo.run import COMPRESSED_MODEL, FLOAT_MODEL, write_models

# What Keras does with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

BASELINES = [results.FLOAT32, results.KERAS_INT8]


class Page(html.parser.HTMLParser):
    """Reads a page: whether tags balance, which resources it names, its text."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.resources, self.images, self.text = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.resources += [attributes[key] for key in ("src", "href") if key in attributes]
        if tag == "img":
            self.images.append(attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        """Elements of SVG that close themselves."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def demo(out, *options):
    arguments = ["demo", "--quick", "--all", "--seed", "3", "--out", str(out), *options]
    return CliRunner().invoke(app_module.app, arguments)


def known_methods(seeds, sizes, done):
    """In place of the run of every method, which test_demo_methods.py covers: rows as it makes."""
    assert (list(seeds), sizes) == ([3], methods.QUICK)
    rows = [
        *(measured(label, 0.9, 1000 - i, (50 + i, 400), PIPELINE) for i, label in enumerate(STEPS)),
        *(measured(label, 0.8, 700 + i, (40 + i, 300)) for i, label in enumerate(METHODS)),
    ]
    done(1.0)
    return method_results.summarise([rows], seeds=list(seeds), layers=[784, 64, 64, 10], members=5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One quick demo: the result of the command, and its directory."""
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "run", known_methods)
        return demo(out, "--json", str(out.parent / "copy.json")), out


@pytest.fixture(scope="module")
def found(run):
    return json.loads((run[1] / "results.json").read_text())


@pytest.fixture(scope="module")
def text(run):
    return (run[1] / "report.html").read_text()


def test_succeeds_and_prints_a_table(run):
    result, out = run
    assert result.exit_code == 0, result.output
    for label in [*BASELINES, *(label for label, _ in variants())]:
        assert label in result.output
    for words in ("Accuracy", "Batch 1", "Batch 32", "Batch 256", "smaller"):
        assert words in result.output
    assert str(out / "report.html") in "".join(result.output.split("\n"))


def test_files(run, found):
    _, out = run
    names = {"float32.keras", "compressed.keras", "saved_model", "results.json", "report.html"}
    assert {path.name for path in out.iterdir()} == names
    assert json.loads((out.parent / "copy.json").read_text()) == found


def test_every_variant_is_measured(found):
    labels = [variant["label"] for variant in found["variants"]]
    assert labels == [*BASELINES, *(label for label, _ in variants())]
    for variant in found["variants"]:
        assert variant["accuracy"] > 0.7
        assert variant["correct"] == round(variant["accuracy"] * found["training"]["test_digits"])
        assert list(variant["latency"]) == ["1", "32", "256"]
        for latency in variant["latency"].values():
            assert 0 < latency["q1_us"] <= latency["median_us"] <= latency["q3_us"]
            assert 0 <= latency["in_graph_us"] <= latency["median_us"]
    plain = found["variants"][0]
    assert {latency["speedup"] for latency in plain["latency"].values()} == {1.0}
    assert plain["changed"] == 0


def test_saved_files_are_the_headline_variant(run, found):
    _, out = run
    rows = {variant["label"]: variant for variant in found["variants"]}
    chosen, plain = rows[found["headline"]["label"]], rows[results.FLOAT32]
    assert chosen["compressed"]
    sizes = {name: (out / name).stat().st_size for name in ("float32.keras", "compressed.keras")}
    assert sizes["float32.keras"] == pytest.approx(plain["file_bytes"], rel=0.01)
    assert sizes["compressed.keras"] == pytest.approx(chosen["file_bytes"], rel=0.01)
    assert found["headline"]["smaller"] == plain["file_bytes"] / chosen["file_bytes"]
    model = keras.saving.load_model(out / "compressed.keras")
    assert repr(model.get_layer("shapes").format) == chosen["format"]
    data = digits.load(seed=3)
    read = np.argmax(model(data.test_images), axis=1)
    assert int((read == data.test_labels).sum()) == pytest.approx(chosen["correct"], abs=1)


def test_saved_model_runs_in_a_fresh_process(run, run_python):
    _, out = run
    pixels = digits.load(seed=3).test_images[:5]
    np.save(out.parent / "pixels.npy", pixels)
    process = run_python(
        f"""
        import json
        import numpy as np
        import tensorflow as tf
        import tfcompress_ops

        model = tf.saved_model.load({str(out / "saved_model")!r})
        print(json.dumps(model.serve(np.load({str(out.parent / "pixels.npy")!r})).numpy().tolist()))
        """
    )
    logits = json.loads(process.stdout)
    expected = keras.saving.load_model(out / "compressed.keras")(pixels)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_page_is_self_contained_html(text):
    parsed = Page(text)
    assert parsed.open == []
    assert parsed.resources
    assert all(resource.startswith("data:") for resource in parsed.resources)
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "<script" not in text
    assert all(image["alt"].startswith("Handwritten ") for image in parsed.images)
    assert len(parsed.images) == 21


def test_seeds(found, text):
    """Each is a classifier of its own, and page and file say the same."""
    seeds = found["seeds"]
    assert seeds["seeds"] == [3, 4]
    labels = [row["label"] for row in seeds["rows"]]
    assert labels == [results.FLOAT32, *seeds_lib.FORMATS]
    for row in seeds["rows"]:
        assert len(set(row["accuracies"])) > 1
        assert min(row["accuracies"]) > 0.3  # trained for moments
        mean = sum(row["accuracies"]) / 2
        cells = [page.percentage(value) for value in (*row["accuracies"], mean)]
        shown = " ".join(" ".join(Page(text).text).split())
        assert f"{row['label']} {' '.join(cells)}" in shown


@pytest.mark.slow
def test_everything(tmp_path):
    """With the run of every method, as a user has it."""
    result = demo(tmp_path)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "results.json").read_text())
    assert {row["label"] for row in found["methods"]["rows"]} == {*STEPS, *METHODS}
    assert all(row["accuracy"]["mean"] > 0.3 for row in found["methods"]["rows"])


@pytest.mark.slow
def test_one_bit_costs_what_the_documentation_says():
    """W1A32 stays within a point of float32, W1A1 within three, over three seeds."""
    plain, w1a32, w1a1 = seeds_lib.study(512, [0, 1, 2], epochs=8)
    assert plain.mean > 0.93
    assert w1a32.mean > plain.mean - 0.01, w1a32
    assert w1a1.mean > plain.mean - 0.03, w1a1


def test_numbers_of_the_page_are_those_of_the_json(text, found):
    words = " ".join(" ".join(Page(text).text).split())
    headline = found["headline"]
    assert f"{page.ratio(headline['smaller'])} smaller" in words
    assert page.speed_words(headline["faster"]) in words
    for variant in found["variants"]:
        label = re.escape(variant["label"].replace('"', "&#34;"))
        numbers = text[text.index('id="table"') :]
        row = re.search(rf'<th scope="row">{label}</th>(.*?)</tr>', numbers, re.DOTALL)
        shown = " ".join(re.sub(r"<[^>]+>", " ", row[1]).split())
        expected = [page.percentage(variant["accuracy"]), page.size(variant["file_bytes"])]
        for latency in variant["latency"].values():
            expected += [
                page.microseconds(latency["median_us"]),
                page.microseconds(latency["in_graph_us"]),
                page.ratio(latency["speedup"]),
                page.ratio(latency["speedup_over_keras_int8"]),
            ]
        assert shown == " ".join(expected)


def test_the_page_shows_the_methods(run, text, found):
    """Both tables, with the numbers of the JSON, and what they come to."""
    assert len(found["methods"]["rows"]) > 15
    for row in found["methods"]["rows"]:
        shown = re.search(rf'<th scope="row">{re.escape(row["label"])}</th>(.*?)</tr>', text, re.S)
        for value in (
            page.percentage(row["accuracy"]["mean"]),
            page.size(row["file_bytes"]["mean"]),
            page.microseconds(row["call_us"]["128"]["mean"]),
            page.ratio(row["faster"]["1"]["mean"]),
        ):
            assert value in shown[1]
    assert "One after the other: " in text
    assert "One after the other: " in run[0].output
    assert found["command"].endswith(" --all --seeds 1")


def test_a_second_run_replaces_the_models(run, tmp_path):
    _, out = run
    again = tmp_path / "out"
    shutil.copytree(out, again)
    (again / "saved_model" / "old.txt").touch()
    (again / "compressed.keras").write_text("old")
    (again / "mine.txt").write_text("mine")
    models = [keras.saving.load_model(out / name) for name in (FLOAT_MODEL, COMPRESSED_MODEL)]
    write_models(again, *models)
    assert {path.name for path in again.iterdir()} == {path.name for path in out.iterdir()} | {
        "mine.txt"
    }
    assert not (again / "saved_model" / "old.txt").exists()
    assert keras.saving.load_model(again / COMPRESSED_MODEL).name == models[1].name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "{file}"], "is not a directory"),
        (["--out", "{file}/below"], "cannot be written to: Not a directory. Choose another"),
        (["--json", "{missing}/results.json"], "does not exist"),
        (["--seeds", "3"], "--seeds 3 goes with --all"),
    ],
)
def test_errors(arguments, message, tmp_path):
    file = tmp_path / "file"
    file.touch()
    places = {"file": file, "missing": tmp_path / "missing"}
    arguments = ["demo", *(argument.format(**places) for argument in arguments)]
    result = CliRunner().invoke(app_module.app, arguments)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_says_what_to_install(monkeypatch):
    monkeypatch.setattr(demo_command, "_REQUIRED", ("jinja2", "no_such_package"))
    result = CliRunner().invoke(app_module.app, ["demo"])
    assert result.exit_code == 1
    assert "needs no_such_package" in result.output
    assert "pip install 'tfcompress_ops[demo]'" in " ".join(result.output.split())


def test_adam_in_one_pass_is_adam():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(96, 7)).astype(np.float32), rng.integers(0, 3, 96)
    found = []
    for optimizer in (keras.optimizers.Adam, classifier.OnePassAdam):
        keras.utils.set_random_seed(1)
        layers = [keras.Input((7,)), keras.layers.Dense(9, "relu"), keras.layers.Dense(3)]
        model = keras.Sequential(layers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        decay = keras.optimizers.schedules.CosineDecay(0.03, 9)
        model.compile(optimizer(decay, epsilon=1e-3), loss, jit_compile=False)
        before = model.get_weights()
        model.fit(x, y, batch_size=32, epochs=3, shuffle=False, verbose=0)
        found.append(model.get_weights())
    for start, adam, one_pass in zip(before, *found, strict=True):
        assert np.abs(adam - start).max() > 0.03
        np.testing.assert_allclose(one_pass, adam, atol=1e-6)


class TestDigits:
    def test_split_is_complete_and_follows_the_seed(self):
        first, again, other = digits.load(0), digits.load(0), digits.load(1)
        assert first.train_images.shape == (4000, 784)
        assert first.test_images.shape == (1000, 784)
        assert first.test_images.min() == 0
        assert first.test_images.max() == 1
        np.testing.assert_array_equal(first.test_images, again.test_images)
        assert (first.test_labels != other.test_labels).any()
        labels = np.concatenate([first.train_labels, first.test_labels])
        np.testing.assert_array_equal(np.bincount(labels), np.full(10, 500))

    def test_shifts_keep_the_ink_and_the_label(self):
        images = np.zeros((6, 784), np.float32)
        images[np.arange(6), 14 * 28 + np.arange(6) + 10] = 1
        data = digits.Digits(images, np.arange(6), images[:0], np.arange(0))
        shifted, labels = digits.shifted(data, passes=3, seed=0)
        assert shifted.shape == (18, 784)
        assert shifted.dtype == np.float32
        for start in (0, 6, 12):
            assert sorted(labels[start : start + 6]) == list(range(6))
        for image, label in zip(shifted, labels, strict=True):
            (position,) = np.flatnonzero(image)
            assert abs(position // 28 - 14) <= 2
            assert abs(position % 28 - 10 - label) <= 2


class TestResults:
    def test_latency_separates_the_call_from_the_model(self):
        calls = {
            results.FLOAT32: Timing.from_samples([500.0]),
            results.KERAS_INT8: Timing.from_samples([900.0]),
            "ours": Timing.from_samples([250.0]),
        }
        chains = {
            results.FLOAT32: Timing.from_samples([1100.0]),
            results.KERAS_INT8: Timing.from_samples([800.0]),
            "ours": Timing.from_samples([1000.0]),
        }
        found = results.latencies(calls, chains, repetitions=3)
        assert found[results.FLOAT32].in_graph_us == 300
        assert found["ours"].speedup == 2
        assert found["ours"].speedup_over_keras_int8 == 3.6
        assert found[results.KERAS_INT8].in_graph_us == 0
        assert found["ours"].in_graph_us == 250

    @pytest.mark.parametrize(
        ("accuracies", "speedups", "expected"),
        [((0.955, 0.953), (2, 3), "b"), ((0.955, 0.9), (2, 3), "a"), ((0.8, 0.9), (3, 2), "b")],
    )
    def test_headline(self, accuracies, speedups, expected):
        def row(label, accuracy, speedup, compressed=True):
            latency = {"1": results.Latency(1, 1, 1, 1, 1, speedup, 1)}
            return results.VariantResult(
                label, compressed, None, False, accuracy, 0, 0, 100 // speedup, latency
            )

        rows = [row(results.FLOAT32, 0.96, 1, compressed=False)]
        rows += [row(*each) for each in zip("ab", accuracies, speedups, strict=True)]
        assert results.headline(rows).label == expected


class TestGeometry:
    def test_png_holds_the_ink(self):
        image = np.linspace(0, 1, 28 * 28, dtype=np.float32).reshape(28, 28)
        pil = pytest.importorskip("PIL.Image", reason="Pillow decodes the PNG")
        header, data = geometry.ink_png(image).split(",")
        assert header == "data:image/png;base64"
        with pil.open(io.BytesIO(base64.b64decode(data))) as decoded:
            pixels = np.asarray(decoded)
        np.testing.assert_array_equal(pixels[..., 1], np.rint(image * 255))
        assert (pixels[..., 0] == 0).all()

    def test_examples_start_with_disagreements(self):
        rng = np.random.default_rng(0)
        before = rng.dirichlet(np.ones(10), 100).astype(np.float32)
        after = before.copy()
        after[[40, 60]] = after[[40, 60], ::-1]
        shown = measure.examples(np.zeros(100, np.int64), before, after)
        assert [one.index for one in shown[:2]] == [40, 60]
        assert len({one.index for one in shown}) == 21
        assert (
            shown[2].float_confidence
            == before.max(axis=1)[[i for i in range(100) if i not in (40, 60)]].min()
        )

    def test_accuracy_axis_holds_all_intervals(self):
        latency = {}
        rows = [
            results.VariantResult("x", True, None, False, accuracy, 0, 0, 1, latency)
            for accuracy in (0.31, 0.96, 1.0)
        ]
        axis = geometry.accuracy_axis(rows, 1000)
        for row in rows:
            low, high = geometry.accuracy_interval(row, 1000)
            assert axis.low <= low < row.accuracy <= high + 1e-9
            assert high <= axis.high + 1e-9
        assert axis.ticks[-1] == axis.high == 1
        assert axis.place(axis.low) == "0.00%"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.234, "1.23 µs"), (87.26, "87.3 µs"), (412.4, "412 µs"), (1183, "1.18 ms")],
)
def test_microseconds(value, text):
    assert page.microseconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(12, "12 bytes"), (5_842_000, "5.84 MB"), (23_320_962, "23.3 MB")]
)
def test_size(value, text):
    assert page.size(value) == text


def test_points_and_ratios():
    assert [page.points(value) for value in (-0.1, 0.04, 0.2)] == [
        "\N{MINUS SIGN}0.1",
        "±0.0",
        "+0.2",
    ]
    times = "\N{MULTIPLICATION SIGN}"
    ratios = [page.ratio(value) for value in (0.38, 1, 4.06, 12.4)]
    assert ratios == [f"0.38{times}", f"1.0{times}", f"4.1{times}", f"12{times}"]
    assert page.speed_words(0.5) == f"2.0{times} slower"


def test_formats_are_taken_from_the_registry():
    assert {type(variant).name for _, variant in variants()} == set(tfc.formats.names())
