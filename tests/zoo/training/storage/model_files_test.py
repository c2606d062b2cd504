import re
import zipfile

import keras
import pytest

from zoo.errors import UserError
from zoo.training.storage import model_files


class Unknown(keras.layers.Layer):
    """A layer that is registered nowhere."""

    def call(self, x):
        return x


@pytest.mark.parametrize("name", ["whole.keras", "whole.h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_model_comes_back(tmp_path, name):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(tmp_path / name)
    loaded = model_files.load(tmp_path / name)
    assert (loaded.get_weights()[0] == model.get_weights()[0]).all()


@pytest.mark.parametrize("finished", [False, True])
def test_a_folder_is_no_model(tmp_path, finished):
    """Keras takes one with a config.json for a model."""
    (tmp_path / "config.json").write_text("{}")
    hint = ""
    if finished:
        (tmp_path / "model.keras").write_bytes(b"")
        hint = f" Its model is {tmp_path / 'model.keras'}."
    message = f"{tmp_path} is a folder, and a model is a .keras file, or an older .h5.{hint}"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        model_files.load(tmp_path)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Unknown(), "Could not locate class 'Unknown'. Make sure custom classes and functions are"),
        (
            keras.layers.Lambda(lambda x: x),
            "Requested the deserialization of a `Lambda` layer whose `function` is a Python lambda",
        ),
    ],
)
def test_the_reason_is_one_line(tmp_path, layer, reason):
    path = tmp_path / "theirs.keras"
    keras.Sequential([keras.Input((3,)), layer]).save(path)
    with pytest.raises(
        UserError, match=f"^{re.escape(f'{path} cannot be read: {reason}')}"
    ) as info:
        model_files.load(path)
    assert "\n" not in str(info.value)


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "x.keras"
    for content in (b"", b"words"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.keras is damaged: it is not a whole \.keras file"):
            model_files.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    message = f"{path} cannot be read: There is no item named 'config.json' in the archive"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        model_files.load(path)
    (tmp_path / "x.h5").write_bytes(b"words")
    with pytest.raises(UserError, match=r"x\.h5 cannot be read: "):
        model_files.load(tmp_path / "x.h5")
