"""Damaged model files: a clear error or the right model, never a crash."""

import json
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress_ops as tfc
from tfcompress_ops.cli.console import CommandError
from tfcompress_ops.cli.model_files import load

FORMATS = (
    tfc.Int8(center=True),
    tfc.Int8("static"),
    tfc.Sparse(0.6),
    tfc.Sparse(pattern="4:8", values="int8"),
    tfc.Binary("binary"),
    tfc.Ternary("int8"),
)
X = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
every_format = pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.label)


def compressed_model(format_):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((40,)), keras.layers.Dense(33, "relu"), keras.layers.Dense(20)]
    return tfc.compress(keras.Sequential(layers), format_, X, batch_size=None)


def outcome(path, expected):
    """ "error" or "model": what comes of loading a file."""
    try:
        model = keras.saving.load_model(path)
    except Exception:  # whatever Keras, h5py or zipfile find wrong
        return "error"
    y = model(X).numpy()
    assert y.shape == expected.shape
    return "model"


def rewrite(source, target, change):
    """Copies a .keras file with `change(name, bytes)` applied to its members: checksums are right,
    so that what is changed reaches the code that reads it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


@every_format
def test_truncated_and_flipped_files(tmp_path, format_):
    model = compressed_model(format_)
    path, broken = tmp_path / "model.keras", tmp_path / "broken.keras"
    model.save(path)
    expected = model(X).numpy()
    whole = path.read_bytes()
    rng = np.random.default_rng(2)
    for size in (0, 1, 21, 22, 100, *rng.integers(100, len(whole), 12), len(whole) - 1):
        broken.write_bytes(whole[: int(size)])
        assert outcome(broken, expected) == "error"
        with pytest.raises(
            CommandError, match=r"is not a \.keras file|is damaged|cannot be loaded"
        ):
            load(broken)
    for _ in range(20):
        changed = bytearray(whole)
        for at in rng.integers(0, len(whole), int(rng.integers(1, 4))):
            changed[at] ^= 1 << int(rng.integers(8))
        broken.write_bytes(changed)
        outcome(broken, expected)


@every_format
def test_flipped_bytes_of_the_weights(tmp_path, format_):
    """The zip's checksums fit: what is wrong must be found in the weights file, or do no harm."""
    model = compressed_model(format_)
    path, broken = tmp_path / "model.keras", tmp_path / "broken.keras"
    model.save(path)
    expected = model(X).numpy()
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(25):

        def flip(name, content):
            if not name.endswith(".h5"):
                return content
            changed = bytearray(content)
            for at in rng.integers(0, len(content), int(rng.integers(1, 30))):
                changed[at] = int(rng.integers(256))
            return bytes(changed)

        rewrite(path, broken, flip)
        seen.add(outcome(broken, expected))
    assert "error" in seen


@every_format
def test_arrays_of_the_weights_file_that_do_not_fit(tmp_path, format_):
    """Each packed array with random contents, another shape, another dtype, or missing."""
    model = compressed_model(format_)
    path, weights = tmp_path / "model.keras", tmp_path / "w.weights.h5"
    model.save(path)
    expected = model(X).numpy()
    model.save_weights(weights)
    rng = np.random.default_rng(4)
    names = []
    with h5py.File(weights) as file:
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    assert len(names) >= 4
    for name in names:
        for kind in ("contents", "shape", "dtype", "missing", "nan"):
            broken = tmp_path / "broken.weights.h5"
            shutil.copy(weights, broken)
            with h5py.File(broken, "r+") as file:
                old = file[name][()]
                del file[name]
                if kind == "contents":
                    octets = rng.integers(0, 256, old.nbytes, np.uint8)
                    file[name] = octets.view(old.dtype).reshape(old.shape)
                elif kind == "shape":
                    file[name] = np.resize(old, (*old.shape[:-1], old.shape[-1] + 1))
                elif kind == "dtype":
                    file[name] = old.astype(np.float64)
                elif kind == "nan":
                    file[name] = old * np.nan if old.dtype.kind == "f" else old * 0 - 1
            try:
                model.load_weights(broken)
                noticed = ""
            except (ValueError, KeyError) as error:
                noticed = str(error)
            assert len(noticed) > 20 or kind in ("contents", "nan"), f"{name}: {kind}"
            assert model(X).shape == expected.shape
    model.load_weights(weights)
    np.testing.assert_array_equal(model(X), expected)


@every_format
def test_changed_configurations(tmp_path, format_):
    """Sizes in the configuration that do not go with the weights."""
    model = compressed_model(format_)
    path, broken = tmp_path / "model.keras", tmp_path / "broken.keras"
    model.save(path)
    for old, new in (('"units": 33', '"units": 34'), ('"units": 20', '"units": 0')):

        def change(name, content, old=old, new=new):
            if name != "config.json":
                return content
            assert old.encode() in content
            return content.replace(old.encode(), new.encode())

        rewrite(path, broken, change)
        assert outcome(broken, model(X).numpy()) == "error"

    def shapes(name, content):
        if name != "config.json":
            return content
        config = json.loads(content)
        for layer in config["config"]["layers"]:
            found = (layer.get("build_config") or {}).get("packed_shapes")
            for array in found or ():
                found[array] = [size * 1000 for size in found[array]]
        return json.dumps(config)

    rewrite(path, broken, shapes)
    assert outcome(broken, model(X).numpy()) == "error"


@every_format
def test_damaged_saved_models(tmp_path, format_):
    model = compressed_model(format_)
    model.export(tmp_path / "saved", verbose=False)
    expected = model(X).numpy()
    rng = np.random.default_rng(5)
    seen = 0
    data = "variables/variables.data-00000-of-00001"
    for number, file in enumerate(
        (data, data, data, "variables/variables.index", "saved_model.pb") * 2
    ):
        broken = tmp_path / f"broken{number}"
        shutil.copytree(tmp_path / "saved", broken)
        content = bytearray((broken / file).read_bytes())
        if number % 5 == 0:
            content = content[: int(rng.integers(len(content)))]
        else:
            for at in rng.integers(0, len(content), 3):
                content[at] = int(rng.integers(256))
        (broken / file).write_bytes(content)
        try:
            y = tf.saved_model.load(str(broken)).serve(X)
            assert y.shape == expected.shape
        except Exception:  # whatever TensorFlow finds wrong
            seen += 1
        shutil.rmtree(broken)
    assert seen > 0
