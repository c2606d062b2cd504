"""Models in files that Keras wrote, whole or with a message in one line."""

import zipfile
from pathlib import Path

import keras

from zoo.errors import UserError
from zoo.training.storage import files

#: What Keras puts before the reason, below a line about any class and the config of the model.
_REASON = "Exception encountered: "


def load(path: Path) -> keras.Model:
    """Returns the model in a .keras file, or in an older .h5.

    Raises:
        UserError: If it is damaged, or Keras cannot build it.
    """
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
