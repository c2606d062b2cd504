"""Loads models from files of Keras, or says in one line why they cannot be read."""

import zipfile
from pathlib import Path

import keras

from zoo.errors import UserError
from zoo.training.storage import files

#: Keras puts this before the reason, below lines about a class and the model's config.
_REASON = "Exception encountered: "


def load(path: Path) -> keras.Model:
    """Returns the model in a .keras file, or in an older .h5.

    Raises:
        UserError: If it is damaged, or Keras cannot build it.
    """
    if path.is_dir():
        own = path / "model.keras"
        hint = f" Its model is {own}." if own.is_file() else ""
        raise UserError(f"{path} is a folder, and a model is a .keras file, or an older .h5.{hint}")
    # Keras reports a file that is no zip archive as missing.
    if path.suffix == ".keras" and not files.is_whole_zip(path):
        raise UserError(f"{path} is damaged: it is not a whole .keras file.")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Returns the line that says why, without the quotes around a `KeyError`'s."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text.rpartition(_REASON)[2].strip().partition("\n")[0]
