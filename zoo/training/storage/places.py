"""Checks where a program may write, before it does anything else."""

import os
from pathlib import Path

from zoo.errors import UserError


def new_path(output: str | Path, suffix: str = "", purpose: str = "") -> Path:
    """Returns the path of a file or folder to write, which replaces nothing.

    Args:
        output: What was received as `--output`.
        suffix: What its name must end in.
        purpose: What asks for the suffix, such as " for --format=keras".

    Raises:
        UserError: If it exists, has no folder, or another suffix.
    """
    path = Path(output).expanduser()
    if not path.name.endswith(suffix):
        raise UserError(f"--output must end in {suffix}{purpose}, received {output!s}.")
    # A dangling link counts: somebody chose where it points.
    if os.path.lexists(path):
        raise UserError(f"{path} exists already and is not overwritten: choose another --output.")
    if not path.absolute().parent.is_dir():
        raise UserError(f"There is no folder {path.parent} to write {path.name} to.")
    return path


def check_name(path: Path, flag: str) -> None:
    """Raises a `UserError` for a name that TensorFlow does not take.

    Args:
        path: What was received.
        flag: The flag that gave it, such as "--workdir".
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{flag}={ascii(str(path))[1:-1]} holds a byte that is no UTF-8 here, and TensorFlow "
            "cannot write there. Choose another name, or set PYTHONUTF8=1 if the name is UTF-8 and "
            "the locale is not."
        ) from error


def check_folder(path: Path) -> None:
    """Raises a `UserError` unless a working directory can be written, or made.

    Args:
        path: What was received as `--workdir`.
    """
    existing = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise UserError(f"--workdir={path}: {existing} is not a folder.")
    effective = os.access in os.supports_effective_ids
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=effective):
        raise UserError(f"--workdir={path}: you may not write into {existing}.")
