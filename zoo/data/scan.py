"""Inspects every file of a folder, and remembers what it found."""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo.data.inspection import Finding, quietly_inspect
from zoo.training.cli import terminal
from zoo.training.storage import files
from zoo.weights.places import home_folder

#: A new version voids what older releases remembered.
_VERSION = 2

#: A look at a million files takes an hour, and a kill in it should cost a minute.
_REMEMBER_SECONDS = 60.0

#: For each file: size in bytes, time of the last change in nanoseconds, and what was found.
_Known = dict[str, tuple[int, int, Finding]]


def scan(root: bytes, paths: Sequence[bytes]) -> list[Finding]:
    """Finds out what files are, and which of them cannot be used.

    What is known of a file stays in the cache (`$ZOO_HOME/scans`), and holds while its size and
    time are the same. A file that could not be used is looked at again: its permissions may have
    changed, or what reads it. The cache is written every minute, and when the look is interrupted.
    A bar shows on a terminal how far it has come; elsewhere a line says now and then what takes so
    long.

    Args:
        root: The folder of the files. The cache belongs to its path.
        paths: The files.

    Returns:
        A finding for each.
    """
    cache = _cache_file(root)
    known = _read(cache)
    states = {path: _state(path) for path in paths}
    unknown = [path for path in paths if not _is_known(known.get(os.fsdecode(path)), states[path])]
    if unknown:
        _look_at(unknown, states, known, cache)
    return [known[os.fsdecode(path)][2] for path in paths]


def _is_known(found: tuple[int, int, Finding] | None, state: tuple[int, int]) -> bool:
    """Whether what was found of a file in a state still holds."""
    return found is not None and found[:2] == state and not found[2].problem


def _look_at(
    unknown: list[bytes], states: dict[bytes, tuple[int, int]], known: _Known, cache: Path
) -> None:
    """Adds findings to what is known, and remembers them."""
    written_at = time.monotonic()
    try:
        for path, finding in zip(unknown, _with_bar(unknown), strict=True):
            known[os.fsdecode(path)] = (*states[path], finding)
            if time.monotonic() - written_at > _REMEMBER_SECONDS:
                _write(cache, known)
                written_at = time.monotonic()
    finally:
        _write(cache, known)


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


def _with_bar(paths: list[bytes]) -> Iterator[Finding]:
    """Yields a finding for each file, and shows what it does."""
    from rich.console import Console
    from rich.progress import track

    console, doing = Console(stderr=True), f"looking at {len(paths):,} files"
    if not sys.stderr or not console.is_terminal:
        with terminal.patience(console, doing):
            yield from quietly_inspect(paths)
        return
    found = quietly_inspect(paths)
    yield from track(found, doing, total=len(paths), console=console, transient=True)
