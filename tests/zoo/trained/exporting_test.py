import errno
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from rich.console import Console

from zoo.errors import UserError
from zoo.trained import exporting
from zoo.trained.exporting import export

#: Loads a .keras file where this package cannot be found.
WITHOUT = """
import sys
import keras
import numpy as np
assert "keras_renorm" not in sys.modules
model = keras.saving.load_model(sys.argv[1])
print(model(np.load(sys.argv[2])).numpy().tolist())
"""


@pytest.fixture
def exported(model_file, photos, tmp_path):
    def run(name, kind):
        path = tmp_path / name
        export(str(model_file), str(path), kind, Console(quiet=True), names=[str(photos)])
        return path

    return run


def test_keras_alone_loads_the_folded_file(exported, tmp_path, model_file, rng):
    path = exported("served.keras", "keras")
    images = rng.random((2, 16, 16, 3), np.float32)
    np.save(tmp_path / "x.npy", images)
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT, path, tmp_path / "x.npy"],
        capture_output=True,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = tf.keras.models.load_model(model_file)(images)
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)


def test_a_saved_model_takes_the_bytes_of_files(exported, photos, model_file, made):
    loaded = tf.saved_model.load(str(exported("served", "saved_model")))
    paths = [photos / "red" / "0.jpg", photos / "green" / "1.png", photos / "blue" / "4.jpg"]
    contents = tf.constant([path.read_bytes() for path in paths])
    told = loaded.signatures["serving_default"](images=contents)
    expected = [made.expected_probabilities(path, model_file) for path in paths]
    np.testing.assert_allclose(told["probabilities"], expected, atol=2e-3)
    names = [name.decode() for name in told["class"].numpy()]
    assert names == [made.CLASSES[i] for i in np.argmax(expected, axis=1)]
    pixels = tf.fill([1, 16, 16, 3], 51.0)
    model = tf.keras.models.load_model(model_file)
    told = loaded.signatures["pixels"](images=pixels)["probabilities"]
    np.testing.assert_allclose(told, model(pixels / 255), atol=1e-5)


@pytest.mark.parametrize("kind", ["keras", "saved_model"])
def test_images_that_only_pillow_decodes_are_compared(exported, photos, kind):
    for path in photos.glob("*/*"):
        PIL.Image.open(path).save(path.with_suffix(".webp"))
        path.unlink()
    assert exported(f"served{'.keras' * (kind == 'keras')}", kind).exists()


def test_what_cannot_be_removed_does_not_hide_what_went_wrong(exported, monkeypatch):
    def read_only(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "temporary")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(exporting, "_write", full)
    monkeypatch.setattr(exporting, "_remove", read_only)
    with pytest.raises(UserError, match=r"x\.keras cannot be written: No space left on device\."):
        exported("x.keras", "keras")


def test_litert_takes_pixels(exported, model_file, rng):
    path = exported("served.tflite", "litert")
    pixels = rng.uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    model = tf.keras.models.load_model(model_file)
    np.testing.assert_allclose(exporting._run_litert(path, pixels), model(pixels / 255), atol=1e-5)


# Keras, which patches tf2onnx, asks NumPy for a name that it no longer has.
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")
@pytest.mark.parametrize("model_file", ["mixed_bfloat16", "mixed_float16"], indirect=True)
@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.keras", "keras"), ("b", "saved_model"), ("c.tflite", "litert"), ("d.onnx", "onnx")],
)
def test_what_trained_in_half_precision_computes_in_float32(
    model_file, photos, tmp_path, name, kind
):
    if kind == "onnx":
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")
    console, path = Console(file=io.StringIO(), width=200), tmp_path / name
    assert export(str(model_file), str(path), kind, console, names=[str(photos)]) < 1e-4
    assert path.exists()
    said = console.file.getvalue()
    assert re.search(r" from the model's in float32, and those by [\d.e-]+ from its own\n$", said)


def test_what_does_not_agree_is_not_written(exported, monkeypatch, tmp_path, made):
    monkeypatch.setattr(exporting.convert, "fold", lambda model: made.small_model_of_another_seed())
    for name, kind in (("a.keras", "keras"), ("b", "saved_model")):
        with pytest.raises(UserError, match=r"does not do what the model does: .* differs by 0\."):
            exported(name, kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "small.keras"]


@pytest.mark.parametrize(
    ("name", "kind"), [("a.keras", "keras"), ("b", "saved_model"), ("c.tflite", "litert")]
)
def test_a_full_disk_is_named_and_keeps_nothing(
    exported, monkeypatch, tmp_path, little_space, name, kind
):
    write = exporting._write  # Keras writes before it, too, to read the model

    def cramped(*arguments):
        with little_space(100):
            return write(*arguments)

    monkeypatch.setattr(exporting, "_write", cramped)
    message = f"{tmp_path / name} cannot be written: File too large."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        exported(name, kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "small.keras"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("x.keras", "litert", "--output must end in .tflite for --format=litert"),
        ("nowhere/x.keras", "keras", "There is no folder"),
        (
            "x\udcff",
            "saved_model",
            r"x\udcff holds a byte that is no UTF-8 here, and TensorFlow can",
        ),
        ("photos", "saved_model", "exists already and is not overwritten"),
        ("small.keras", "keras", "exists already and is not overwritten"),
    ],
)
def test_mistakes(exported, name, kind, message):
    with pytest.raises(UserError, match=re.escape(message)):
        exported(name, kind)
