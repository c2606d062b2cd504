"""Inspects every file of a folder, and remembers what it found."""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from zoo.data.inspection import Finding, quietly_inspect
from zoo.training.storage import files
from zoo.weights.places import home_folder

#: A new version voids what older releases remembered.
_VERSION = 2

#: For each file: size in bytes, time of the last change in nanoseconds, and what was found.
_Known = dict[str, tuple[int, int, Finding]]


def scan(root: bytes, paths: Sequence[bytes]) -> list[Finding]:
    """Finds out what files are, and which of them cannot be used.

    What is known of a file stays in the cache (`$ZOO_HOME/scans`), and holds while its size and
    time are the same. A bar shows on a terminal how far it has come.

    Args:
        root: The folder of the files. The cache belongs to its path.
        paths: The files.

    Returns:
        A finding for each.
    """
    cache = _cache_file(root)
    known = _read(cache)
    states = {path: _state(path) for path in paths}
    unknown = [path for path in paths if known.get(os.fsdecode(path), ())[:2] != states[path]]
    for path, finding in zip(unknown, _with_bar(unknown), strict=True):
        known[os.fsdecode(path)] = (*states[path], finding)
    if unknown:
        _write(cache, known)
    return [known[os.fsdecode(path)][2] for path in paths]


def _state(path: bytes) -> tuple[int, int]:
    """Returns what shows whether a file has changed; zeros if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _cache_file(root: bytes) -> Path:
    name = hashlib.sha256(os.path.realpath(root)).hexdigest()[:16]
    return home_folder() / "scans" / f"{name}.json"


def _read(cache: Path) -> _Known:
    """Returns what is remembered; nothing if the file is missing or damaged."""
    try:
        stored = json.loads(cache.read_text(encoding="utf-8"))
        if stored["version"] != _VERSION:
            return {}
        return {name: (a, b, Finding(*c)) for name, (a, b, c) in stored["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write(cache: Path, known: _Known) -> None:
    """Remembers what was found, where that is possible: else the next scan takes longer."""
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(cache, json.dumps({"version": _VERSION, "files": known}))


def _with_bar(paths: list[bytes]) -> list[Finding]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return list(
        track(
            quietly_inspect(paths),
            f"looking at {len(paths):,} files",
            total=len(paths),
            console=console,
            disable=not sys.stderr or not console.is_terminal,
            transient=True,
        )
    )
