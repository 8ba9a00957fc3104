"""The command line: what it prints, what it writes, how it fails."""

import dataclasses
import json
import logging
import os
import re
import runpy
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import tfcompress_ops as tfc
from tfcompress_ops import _kernels, break_even, kernels
from tfcompress_ops.bench.cli import app as bench_app
from tfcompress_ops.cli import app as app_module
from tfcompress_ops.cli import console, environment, files, format_options
from tfcompress_ops.cli.console import CommandError
from tfcompress_ops.formats import format as format_module

PACKAGE_PARENT = Path(tfc.__file__).parents[1]

# What Keras does with NumPy 2.
pytestmark = [
    pytest.mark.usefixtures("quick_timing"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
]

CUSTOM_LAYER = """
import keras

class Doubling(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs
"""

SUBCLASSED = """
import keras

@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(8)

    def call(self, inputs):
        return self.dense(inputs)
"""


def run(*arguments):
    """Runs `tfcompress` in this process."""
    return CliRunner().invoke(app_module.app, [str(argument) for argument in arguments])


def run_process(*arguments):
    """Runs `tfcompress` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "tfcompress_command", *map(str, arguments)],
        capture_output=True,
        text=True,
        # Not in the source tree, which Python would take the package from.
        cwd=tempfile.gettempdir(),
        env={**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)},
        timeout=120,
        check=False,
    )


def fails(*arguments, code=1):
    """Runs a command that must fail, and gives what it says on one line."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((64,), name="pixels")
    hidden = keras.layers.Dense(96, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(10, name="head")(hidden), name="small")


@pytest.fixture
def model_file(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    return path


@pytest.fixture
def inputs():
    return np.random.default_rng(2).standard_normal((50, 64)).astype(np.float32)


class TestHelp:
    def test_teaches_by_example(self):
        result = run("--help")
        assert result.exit_code == 0
        for line in (
            "tfcompress demo",
            "tfcompress compress model.keras -o small.keras --format int8",
            "tfcompress inspect small.keras",
            "tfcompress info",
            "tfcompress bench int8",
            "Exit codes",
        ):
            assert line in result.output

    def test_version(self):
        result = run("--version")
        assert result.exit_code == 0
        assert result.output.strip() == f"tfcompress {tfc.__version__}"

    @pytest.mark.parametrize("command", ["demo", "info", "compress", "inspect", "bench"])
    def test_each_command_has_help(self, command):
        result = run(command, "--help")
        assert result.exit_code == 0, result.output
        assert f"tfcompress {command}" in result.output or f"root {command}" in result.output

    @pytest.mark.parametrize(
        "arguments",
        [["nonsense"], ["compress"], ["compress", "m.keras"], ["inspect"], ["info", "x"]],
    )
    def test_wrong_usage_is_exit_code_2(self, arguments):
        fails(*arguments, code=2)

    def test_exit_codes_are_told(self):
        told = " ".join(run("--help").output.split())
        for text in ("0 success", "1 an error", "2 wrong usage", "130 interrupted"):
            assert text in told

    @pytest.mark.parametrize("command", [["demo"], ["info"], ["compress"], ["inspect"]])
    def test_every_command_gives_json(self, command):
        assert "--json" in run(*command, "--help").output

    def test_every_benchmark_gives_json(self):
        bench = typer.main.get_command(bench_app)
        for name, command in bench.commands.items():
            if name == "report":  # reads what --json wrote
                continue
            assert "--json" in [option for each in command.params for option in each.opts], name

    def test_options_of_formats_are_shown(self):
        output = run("compress", "--help").output
        for text in ("--activations", "dynamic |", "--center", "--no-center"):
            assert text in output


class TestCompletion:
    """What a shell asks for while a command is typed."""

    def complete(self, typed):
        words = typed.split(" ")
        result = CliRunner().invoke(
            app_module.app,
            prog_name="tfcompress",
            env={
                "_TFCOMPRESS_COMPLETE": "complete_bash",
                "COMP_WORDS": typed,
                "COMP_CWORD": str(len(words) - 1),
            },
        )
        return result.output.split()

    @pytest.mark.parametrize(
        ("typed", "offered"),
        [
            ("tfcompress ", "compress"),
            ("tfcompress inf", "info"),
            ("tfcompress compress --cal", "--calibration"),
            ("tfcompress compress --format sp", "sparse"),
            ("tfcompress inspect --js", "--json"),
            ("tfcompress bench in", "int8"),
            ("tfcompress bench int8 --thr", "--threads"),
        ],
    )
    def test_offers(self, typed, offered):
        assert offered in self.complete(typed)

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_script(self, shell, monkeypatch):
        monkeypatch.setenv("_TFCOMPRESS_COMPLETE", f"source_{shell}")
        assert (
            "_TFCOMPRESS_COMPLETE"
            in CliRunner().invoke(app_module.app, prog_name="tfcompress").output
        )


class TestLog:
    """What is done goes to the log: to stderr where -v asks for it."""

    def test_verbose(self, model_file, tmp_path, caplog):
        out = tmp_path / "small.keras"
        quiet = run("compress", model_file, "-o", out, "--batch-size", 0)
        assert "becomes" not in quiet.stderr
        told = run("-v", "compress", model_file, "-o", out, "--batch-size", 0, "--force")
        assert "hidden becomes int8 dynamic" in " ".join(told.stderr.split())
        assert "becomes" not in told.stdout
        console.set_verbose(False)

    def test_python(self, model, caplog):
        with caplog.at_level(logging.INFO, logger="tfcompress_ops"):
            tfc.compress(model, tfc.Int8(), batch_size=None)
        assert "hidden becomes int8 dynamic" in caplog.messages
        assert {record.name for record in caplog.records} == {"tfcompress_ops.compression"}


class TestInfo:
    def test_text(self):
        result = run("info")
        assert result.exit_code == 0, result.output
        for text in (
            tfc.__version__,
            kernels.cpu_info()["tier"],
            "Keras",
            "int8 dynamic",
            "Caches",
        ):
            assert text in result.output

    def test_json(self):
        found = json.loads(run("info", "--json").stdout)
        assert found["problem"] is None
        assert found["versions"]["keras"] == keras.__version__
        assert found["isa"]["in_force"] in found["isa"]["available"]
        assert found["kernels"]["int8"] == kernels.int8_variants()
        assert found["formats"]["int8"] == [label for label, _ in tfc.Int8.variants()]
        assert found["threads"]["intra_op"] >= 1
        assert Path(found["build"]["op_library"]).is_file()

    def test_unknown_isa(self, monkeypatch):
        """What the kernels say of TFCOMPRESS_ISA, which they read once in a process."""

        def refuse():
            raise ValueError("TFCOMPRESS_ISA must be one of portable; received 'x'.")

        monkeypatch.setattr(_kernels, "cpu_info", refuse)
        assert fails("info") == "Error: TFCOMPRESS_ISA must be one of portable; received 'x'."

    def test_peaks(self, monkeypatch):
        monkeypatch.setattr(environment, "peaks", lambda threads: {"int8_gops": 10.0 * threads})
        assert "int8 gops" in run("info", "--peaks").output
        found = json.loads(run("info", "--json", "--peaks").stdout)
        assert found["peaks"] == {"int8_gops": 10.0 * environment.available_cpus()}

    @pytest.mark.parametrize("arguments", [[], ["--json"]])
    def test_a_broken_installation_is_shown_and_is_an_error(self, monkeypatch, arguments):
        monkeypatch.setattr(environment, "_load_problem", lambda: "no TensorFlow here")
        result = run("info", *arguments)
        assert result.exit_code == 1
        assert "no TensorFlow here" in result.output
        assert kernels.cpu_info()["tier"] in result.output

    def test_isa_variable(self, run_python):
        code = "import sys, tfcompress_command as c; sys.argv[1:] = 'info', '--json'; c.main()"
        result = run_python(code, {"TFCOMPRESS_ISA": "portable"})
        found = json.loads(result.stdout)
        assert found["isa"]["in_force"] == "portable"
        assert found["isa"]["TFCOMPRESS_ISA"] == "portable"


class TestCompress:
    def test_file_is_what_compress_makes(self, model, model_file, inputs, tmp_path):
        out = tmp_path / "small.keras"
        result = run("compress", model_file, "-o", out, "--format", "int8")
        assert result.exit_code == 0, result.output
        for text in ("hidden", "head", "int8 dynamic", "times smaller"):
            assert text in result.output
        written = keras.saving.load_model(out)
        expected = tfc.compress(model, tfc.Int8())(inputs)
        np.testing.assert_array_equal(written(inputs), expected)
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    def test_json_report(self, model_file, tmp_path):
        out = tmp_path / "small.keras"
        report = json.loads(run("compress", model_file, "-o", out, "--json").stdout)
        assert [layer["path"] for layer in report["layers"]] == ["hidden", "head"]
        assert report["total"]["bytes_after"] < report["total"]["bytes_before"]
        assert report["file_bytes"] == {
            "before": model_file.stat().st_size,
            "after": out.stat().st_size,
        }

    def test_layers_and_options(self, model_file, tmp_path):
        out = tmp_path / "small.keras"
        result = run("compress", model_file, "-o", out, "--layers", "hid*", "--center")
        assert result.exit_code == 0, result.output
        written = keras.saving.load_model(out)
        assert written.get_layer("hidden").format == tfc.Int8(center=True)
        assert type(written.get_layer("head")) is keras.layers.Dense

    @pytest.mark.parametrize("kind", ["npy", "npz", "npz by name"])
    def test_calibration(self, kind, model, model_file, inputs, tmp_path):
        data = tmp_path / f"x.{kind[:3]}"
        if kind == "npy":
            np.save(data, inputs)
        elif kind == "npz":
            np.savez(data, inputs)
        else:
            np.savez(data, pixels=inputs, labels=np.zeros(50))
        out = tmp_path / "small.keras"
        result = run(
            *("compress", model_file, "-o", out), "--activations", "static", "--calibration", data
        )
        assert result.exit_code == 0, result.output
        expected = tfc.compress(model, tfc.Int8("static"), inputs)(inputs)
        np.testing.assert_array_equal(keras.saving.load_model(out)(inputs), expected)

    def test_subclassed_model(self, tmp_path):
        """Its file does not say what it takes: whatever it was built for, or what it is given."""
        module, file = tmp_path / "subclassed.py", tmp_path / "model.keras"
        module.write_text(SUBCLASSED)
        cls = runpy.run_path(str(module))["Subclassed"]
        model, x = cls(), np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
        model(x)
        model.save(file)
        np.save(tmp_path / "x.npy", x)
        np.save(tmp_path / "wrong.npy", x[:, :2])
        out = tmp_path / "small.keras"
        command = ("compress", file, "-o", out, "--import", module)
        assert "int8 dynamic" in run(*command).output
        result = run(*command, "--force", "--calibration", tmp_path / "x.npy")
        assert result.exit_code == 0, result.output
        with keras.saving.custom_object_scope({"tests>Subclassed": cls}):
            written = keras.saving.load_model(out)
        np.testing.assert_array_equal(written(x), tfc.compress(model, "int8")(x))
        message = fails(*command, "--force", "--calibration", tmp_path / "wrong.npy")
        assert "small.keras is written, but no report can be made: `data` must hold" in message
        assert "\x1b" not in message

    def test_tells_where_a_file_has_grown(self, tmp_path):
        tiny = tmp_path / "tiny.keras"
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tiny)
        output = run("compress", tiny, "-o", tmp_path / "larger.keras").output
        assert re.search(r"MB, 1\.\d times as large as ", output), output

    def test_refuses_to_overwrite(self, model_file, tmp_path):
        out = tmp_path / "small.keras"
        out.write_text("precious")
        assert "--force" in fails("compress", model_file, "-o", out)
        assert out.read_text() == "precious"
        assert run("compress", model_file, "-o", out, "--force").exit_code == 0
        assert zipfile.is_zipfile(out)

    def test_in_place_with_force(self, model_file):
        assert run("compress", model_file, "-o", model_file, "--force").exit_code == 0
        assert isinstance(keras.saving.load_model(model_file).get_layer("hidden"), tfc.layers.Dense)


class TestCompressErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--format", "nope"], "--format must be one of binary, int8"),
            (["--activations", "nope"], "`activations` must be one of"),
            (["--activations", "static"], "--calibration FILE.npy"),
            (["--layers", "nothing*"], "'nothing*', which matches none"),
            (["--calibration", "missing.npy"], "missing.npy does not exist"),
        ],
    )
    def test_options(self, arguments, message, model_file, tmp_path):
        out = tmp_path / "out.keras"
        assert message in fails("compress", model_file, "-o", out, *arguments)
        assert not out.exists()

    def test_calibration_data(self, model_file, inputs, tmp_path):
        wrong, text, names = tmp_path / "wrong.npy", tmp_path / "text.npy", tmp_path / "names.npz"
        np.save(wrong, inputs[:, :5])
        text.write_text("hello")
        np.savez(names, a=inputs, b=inputs)
        command = ["compress", model_file, "-o", tmp_path / "out.keras", "--calibration"]
        assert "takes shape (batch, 64); got (50, 5)" in fails(*command, wrong)
        assert "is not a .npy or .npz file" in fails(*command, text)
        assert "an array for each input, pixels; got a, b" in fails(*command, names)

    def test_output(self, model_file, tmp_path):
        missing = tmp_path / "missing" / "out.keras"
        assert f"mkdir -p {missing.parent}" in fails("compress", model_file, "-o", missing)
        assert "must be named *.keras" in fails("compress", model_file, "-o", tmp_path / "out.h5")

    def test_nothing_to_compress(self, model_file, tmp_path):
        keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.DepthwiseConv2D(3, 1, "same", 2, name="edges")]
        ).save(tmp_path / "conv.keras")
        keras.Sequential([keras.Input((4,)), keras.layers.ReLU()]).save(tmp_path / "relu.keras")
        out = tmp_path / "out.keras"
        message = fails("compress", tmp_path / "conv.keras", "-o", out)
        assert "conv.keras has nothing to compress (edges: its depth_multiplier is 2" in message
        message = fails("compress", tmp_path / "relu.keras", "-o", out)
        assert "nothing to compress (no layer has weights)" in message
        assert run("compress", model_file, "-o", out).exit_code == 0
        message = fails("compress", out, "-o", tmp_path / "twice.keras")
        assert "hidden: it is compressed already" in message


class TestModelFiles:
    """Errors of reading a model, the same for `inspect` and `compress`."""

    def test_missing(self, tmp_path):
        assert "missing.keras does not exist." in fails("inspect", tmp_path / "missing.keras")

    def test_directory(self, tmp_path):
        assert "is a directory, not a .keras file" in fails("inspect", tmp_path)

    def test_not_a_model(self, tmp_path):
        text = tmp_path / "text.keras"
        text.write_text("hello")
        other = tmp_path / "other.keras"
        with zipfile.ZipFile(other, "w") as archive:
            archive.writestr("something", "else")
        for path in (text, other):
            assert f"{path.name} is not a .keras file" in fails("inspect", path)

    def test_truncated(self, model_file):
        model_file.write_bytes(model_file.read_bytes()[:-1000])
        assert "It may be damaged" in fails("inspect", model_file)

    def test_damaged(self, model_file):
        content = bytearray(model_file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        model_file.write_bytes(bytes(content))
        assert "is damaged: the checksum of model.weights.h5" in fails("inspect", model_file)

    def test_foreign_weights(self, model_file, tmp_path):
        other = tmp_path / "other.keras"
        with zipfile.ZipFile(model_file) as source, zipfile.ZipFile(other, "w") as target:
            for name in source.namelist():
                is_weights = name == "model.weights.h5"
                target.writestr(name, b"not HDF5" if is_weights else source.read(name))
        assert "other.keras cannot be loaded" in fails("inspect", other)

    def test_lambda(self, tmp_path):
        path = tmp_path / "lambda.keras"
        keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x)]).save(path)
        assert "safe_mode=False" in fails("inspect", path)

    def test_custom_objects(self, tmp_path, monkeypatch):
        (tmp_path / "my_layers.py").write_text(CUSTOM_LAYER)
        monkeypatch.syspath_prepend(tmp_path)
        import my_layers

        path = tmp_path / "custom.keras"
        keras.Sequential(
            [keras.Input((64,)), my_layers.Doubling(), keras.layers.Dense(64, name="dense")]
        ).save(path)
        message = fails("inspect", path)
        assert "custom.keras needs Doubling, which Keras does not know" in message
        assert "--import MODULE" in message
        for module in ("my_layers", tmp_path / "my_layers.py"):
            result = run("inspect", path, "--import", module)
            assert result.exit_code == 0, result.output
            assert "Doubling" in result.output
        small = tmp_path / "small.keras"
        result = run("compress", path, "-o", small, "--import", "my_layers")
        assert result.exit_code == 0, result.output
        assert run("inspect", small, "--import", "my_layers").exit_code == 0

    def test_import_that_fails(self, model_file):
        message = fails("inspect", model_file, "--import", "no_such_module")
        assert "--import no_such_module failed: ModuleNotFoundError" in message


class TestInspect:
    def test_plain_model(self, model_file):
        found = json.loads(run("inspect", model_file, "--json").stdout)
        assert found["file_bytes"] == model_file.stat().st_size
        hidden, head = found["layers"]
        assert hidden["shapes"] == [[64, 96], [96]]
        assert (hidden["kind"], hidden["format"], hidden["dtype"]) == ("Dense", None, "float32")
        assert hidden["note"] == "can be compressed"
        assert head["bytes"] == 4 * (96 * 10 + 10)
        assert "64x96, 96" in run("inspect", model_file).output

    def test_compressed_model(self, model, tmp_path):
        path = tmp_path / "small.keras"
        small = tfc.compress(model, {"hidden": tfc.Int8(center=True)})
        small.save(path)
        found = json.loads(run("inspect", path, "--json").stdout)
        hidden = found["layers"][0]
        arrays = small.get_layer("hidden").packed_arrays()
        assert hidden["format"] == "int8 dynamic center"
        assert hidden["options"] == {"activations": "dynamic", "center": True}
        assert hidden["shapes"] == [[64, 96]]
        assert hidden["bytes"] == sum(array.nbytes for array in arrays.values()) + 4 * 96
        assert hidden["float32_bytes"] == 4 * (64 * 96 + 96)
        assert hidden["arrays"]["scale"]["range"] == [
            float(arrays["scale"].min()),
            float(arrays["scale"].max()),
        ]
        output = run("inspect", path).output
        assert "64x96" in output
        assert "scale 0.00" in output


class TestSparse:
    OPTIONS = ("--format", "sparse", "--pattern", "8:64", "--values", "int8", "--batch-size", "0")

    def test_compress_and_inspect(self, model, model_file, tmp_path):
        out = tmp_path / "sparse.keras"
        found = json.loads(run("compress", model_file, "-o", out, *self.OPTIONS, "--json").stdout)
        assert found["total"]["format"] == "sparse 8:64 int8"
        matrix = keras.saving.load_model(out).get_layer("hidden").weight_matrix()
        assert (np.count_nonzero(matrix[:64], axis=0) <= 8).all()
        hidden = json.loads(run("inspect", out, "--json").stdout)["layers"][0]
        assert hidden["facts"]["pattern"] == "8:64"
        assert hidden["facts"]["fill"].endswith(" %")
        assert float(hidden["facts"]["sparsity"].split()[0]) >= 87.5
        assert "sparsity" in run("inspect", out).output

    def test_what_does_not_pay_stays_dense(self, model_file, tmp_path, monkeypatch):
        # Sparse, the original, dense int8: of layers as small measurements may say anything.
        latencies = lambda layers, *_: (3.0, 2.0, 2.5)[: len(layers)]  # noqa: E731
        monkeypatch.setattr(break_even, "layer_latencies_us", latencies)
        monkeypatch.setattr(break_even, "_MEASURED", {})
        out = tmp_path / "sparse.keras"
        options = ("--format", "sparse", "--sparsity", "0", "--batch-size", "512")
        result = run("compress", model_file, "-o", out, *options)
        assert result.exit_code == 0, result.output
        assert "kept dense: 0 % zeros; sparse pays from about" in result.output


class TestBinaryAndTernary:
    """Nothing of the command line knows these formats: their registration is enough."""

    @pytest.mark.parametrize(
        ("options", "format_"),
        [
            (("binary",), tfc.Binary()),
            (("binary", "--activations", "int8", "--center"), tfc.Binary("int8", center=True)),
            (
                ("binary", "--activations", "binary", "--scale-inputs"),
                tfc.Binary("binary", scale_inputs=True),
            ),
            (("ternary", "--threshold", "absmean"), tfc.Ternary(threshold="absmean")),
        ],
    )
    def test_compress_and_inspect(self, model, model_file, inputs, tmp_path, options, format_):
        out = tmp_path / "small.keras"
        arguments = (model_file, "-o", out, "--batch-size", "0", "--json", "--format", *options)
        found = json.loads(run("compress", *arguments).stdout)
        assert found["total"]["format"] == format_.label
        loaded = keras.saving.load_model(out)
        assert loaded.get_layer("hidden").format == format_
        np.testing.assert_array_equal(
            loaded(inputs), tfc.compress(model, format_, batch_size=None)(inputs)
        )
        hidden = json.loads(run("inspect", out, "--json").stdout)["layers"][0]
        assert set(hidden["facts"]) == ({"zeros"} if format_.name == "ternary" else set())
        assert format_.label in " ".join(run("inspect", out).output.split())

    def test_errors(self, model_file, tmp_path):
        arguments = ("compress", model_file, "-o", tmp_path / "small.keras", "--format")
        assert "has no --pattern" in fails(*arguments, "binary", "--pattern", "8:64")
        assert "`activations` must be" in fails(*arguments, "ternary", "--activations", "binary")
        assert "`scale_inputs` goes with" in fails(*arguments, "binary", "--scale-inputs")
        assert "`threshold` must be one of" in fails(*arguments, "ternary", "--threshold", "mean")


@dataclasses.dataclass(frozen=True)
class Later(tfc.Format):
    """A format that is registered later.

    Args:
        sparsity: Fraction of zeros, 0 <= s < 1. Much text follows
            on other lines.
        center: Another meaning of center.
    """

    name = "later"
    sparsity: float | None = None
    block: tuple[int, int] = (1, 1)
    pattern: str | None = None
    values: Literal["float32", "int8"] = "float32"
    center: bool = False

    def pack(self, kernel, calibration=None):
        raise NotImplementedError

    unpack = matmul = array_specs = pack


class TestFormatOptions:
    @pytest.fixture(autouse=True)
    def _registered(self, monkeypatch):
        monkeypatch.setitem(format_module._FORMATS, "later", Later)
        monkeypatch.delitem(format_module._FORMATS, "sparse")

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, Later()),
            ({"sparsity": "0.9"}, Later(sparsity=0.9)),
            ({"block": "16x1"}, Later(block=(16, 1))),
            ({"block": "16,1"}, Later(block=(16, 1))),
            ({"pattern": "8:64", "center": True}, Later(pattern="8:64", center=True)),
            ({"pattern": "none", "sparsity": "none"}, Later()),
            ({"values": "int8"}, Later(values="int8")),
        ],
    )
    def test_values_follow_the_types_of_the_fields(self, options, expected):
        assert format_options.make_format("later", options) == expected

    def test_errors(self):
        with pytest.raises(CommandError, match="--sparsity must be a number"):
            format_options.make_format("later", {"sparsity": "many"})
        with pytest.raises(CommandError, match="has no --activations; its options: --sparsity"):
            format_options.make_format("later", {"activations": "static"})

    def test_every_field_becomes_an_option(self):
        seen = {}

        @format_options.with_format_options
        def command(options: dict, force: bool = False) -> None:
            seen.update(options, force=force)

        parameters = command.__signature__.parameters
        assert set(parameters) == {
            *("force", "activations", "center", "sparsity", "block", "pattern", "values"),
            *("scale_inputs", "threshold"),
        }
        option = parameters["sparsity"].annotation.__metadata__[0]
        assert option.help == "Fraction of zeros, 0 <= s < 1. (later: default none)"
        values = dict.fromkeys(parameters)
        command(**{**values, "center": False, "force": True, "block": "2x2"})
        assert seen == {"center": False, "force": True, "block": "2x2"}


class TestFiles:
    def test_a_failure_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "file.txt"
        path.write_text("old")

        def write_half():
            with files.replacing(path) as temporary:
                temporary.write_text("half")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            write_half()
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_directories_are_replaced(self, tmp_path):
        path = tmp_path / "directory"
        for number in (1, 2):
            with files.replacing(path) as temporary:
                temporary.mkdir()
                (temporary / f"file{number}").touch()
        assert [file.name for file in path.iterdir()] == ["file2"]
        assert list(tmp_path.iterdir()) == [path]


class TestProcess:
    """What only a process of its own shows."""

    def test_help_does_not_load_tensorflow(self, tmp_path):
        code = (
            "import sys; from tfcompress_command import main\n"
            "try: main()\n"
            "finally: assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
        )
        result = subprocess.run(
            [sys.executable, "-c", code, "--help"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)},
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert "tfcompress demo" in result.stdout

    def test_interruption(self, monkeypatch):
        def interrupted():
            raise KeyboardInterrupt

        monkeypatch.setattr(environment, "collect", interrupted)
        assert run("info").exit_code == 130

    def test_error(self, tmp_path):
        result = run_process("inspect", tmp_path / "missing.keras")
        assert result.returncode == 1
        assert result.stdout == ""
        # Nothing else: not what TensorFlow says of itself as it is loaded.
        (line,) = result.stderr.splitlines()
        assert line.startswith("Error: ")
        assert "Traceback" not in result.stderr

    def test_success(self, model_file, tmp_path):
        out = tmp_path / "small.keras"
        result = run_process("compress", model_file, "-o", out, "--json")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["total"]["format"] == "int8 dynamic"
        assert Path(out).is_file()
