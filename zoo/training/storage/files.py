"""Files that are either complete or absent, whatever kills the program."""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

# Files with this prefix in a folder of ours are unfinished: the next run may delete them.
TEMPORARY_PREFIX = ".tmp-"


def sync(path: Path) -> None:
    """Waits until the file or folder `path` is on the disk, as a rename alone does not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Returns the hash of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return digest_of(file, hashlib.sha256())


def digest_of(file: BinaryIO, algorithm: Any) -> str:
    """Returns the hash of an open file from its beginning to its end, read part by part.

    Args:
        file: The file.
        algorithm: What `hashlib` makes, such as `hashlib.sha256()`.

    Returns:
        Hexadecimal digits.
    """
    file.seek(0)
    while part := file.read(1 << 20):
        algorithm.update(part)
    return str(algorithm.hexdigest())


def is_whole_zip(path: Path) -> bool:
    """Returns whether a file is an undamaged zip archive, as a .keras file is.

    Raises:
        PermissionError: When it may not be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except PermissionError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, zlib.error):
        return False


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds a file's name to an `OSError` of the body: a write to a full disk names none.

    Args:
        path: The file that the body reads or writes.

    Yields:
        Nothing.

    Raises:
        OSError: With a file name, when the body raises one.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        # HDF5 has its own words and no number.
        reason = error.strerror or str(error).partition("\n")[0]
        raise OSError(error.errno or errno.EIO, reason, os.fspath(path)) from error


@contextlib.contextmanager
def replacing(path: Path, *, existing: bool = True) -> Iterator[Path]:
    """Yields a temporary path to write; renames it to `path` when the body has succeeded.

    A reader sees the old file or the new one, never half of one. When the body fails, `path` is
    untouched and the temporary file is removed.

    Args:
        path: The file to replace. Its suffixes are kept by the temporary path.
        existing: Whether to replace a file that is there when the body has ended.

    Yields:
        The path to write to, in the same folder.

    Raises:
        FileExistsError: If it exists and may not.
        IsADirectoryError: If it is a folder.
    """
    # A name that no other file has: every file in somebody else's folder is theirs.
    name = f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}{''.join(path.suffixes)}"
    temporary = path.with_name(name)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with naming(path):
            yield temporary
            sync(temporary)
        if existing and path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if existing:
            os.replace(temporary, path)
        else:
            _rename_to_new(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Renames a file. Where a file system has links, nothing can come in between.

    Raises:
        FileExistsError: If the new name is taken.
    """
    try:
        os.link(temporary, path)
    except OSError:
        if os.path.lexists(path):
            why = "something else wrote it meanwhile"
            raise FileExistsError(errno.EEXIST, why, os.fspath(path)) from None
        os.replace(temporary, path)


def write_text(path: Path, text: str, *, existing: bool = True) -> None:
    """Writes `text` to `path` in one piece (see `replacing`)."""
    with replacing(path, existing=existing) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, existing: bool = True) -> None:
    """Writes `value` as indented JSON to `path` in one piece (see `replacing`)."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n", existing=existing)


def is_unfinished(path: Path, of: Path) -> bool:
    """Returns whether `replacing(of)` may have left `path` when it was killed."""
    pattern = re.escape(TEMPORARY_PREFIX) + "[0-9a-f]{8}" + re.escape("".join(of.suffixes))
    return path.parent == of.parent and re.fullmatch(pattern, path.name) is not None


def remove_temporary(folder: Path) -> None:
    """Removes from `folder` what an interrupted program left unfinished."""
    for path in folder.glob(TEMPORARY_PREFIX + "*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
