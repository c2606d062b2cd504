"""A file's hash, and the check against a record's."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.training.storage import files
from zoo.weights.errors import WrongHashError
from zoo.weights.record import HashKind, Record

#: What a web page begins with, where a checkpoint was expected.
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")


def hash_of(file: io.BufferedReader, kind: HashKind) -> str:
    """Returns the hash of a file from its beginning to its end, and rewinds it.

    Args:
        file: An open file.
        kind: "sha256" or "md5".

    Returns:
        Hexadecimal digits.
    """
    # Where cryptography must be approved, as under FIPS, plain hashlib.md5() is refused.
    digests: dict[str, Callable[[], Any]] = {
        "sha256": hashlib.sha256,
        "md5": lambda: hashlib.md5(usedforsecurity=False),
    }
    digest = files.digest_of(file, digests[kind]())
    file.seek(0)
    return digest


def matches(record: Record, file: io.BufferedReader) -> bool:
    """Returns whether an open file is a record's file."""
    return hash_of(file, record.hash_kind) == record.hash


def check(record: Record, file: io.BufferedReader, path: Path, advice: str) -> None:
    """Raises unless an open file, `path`, is a record's file.

    Args:
        record: The record.
        file: The open file, which is rewound.
        path: Its name, for the message.
        advice: What to do, for the message.

    Raises:
        WrongHashError: If it is another.
    """
    if not matches(record, file):
        raise WrongHashError(
            f"The file {path} is not the published {record.name}: {difference(record, file)}. "
            f"Nothing was loaded. {advice}"
        )


def difference(record: Record, file: io.BufferedReader) -> str:
    """Describes how an open file differs from a record's file."""
    digest = hash_of(file, record.hash_kind)
    size = file.seek(0, 2)
    file.seek(0)
    beginning = file.read(64).lstrip().lower()
    file.seek(0)
    expected = f"expected {record.hash_kind} {record.hash}"
    if record.bytes is not None:
        expected += f" and {record.bytes:,} bytes"
    page = ", a web page" if beginning.startswith(_PAGES) else ""
    return f"{expected}, got {record.hash_kind} {digest} and {size:,} bytes{page}"
