"""A record's file, on this machine and checked."""

import contextlib
import errno
import fcntl
import io
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from zoo.weights import hashes, places
from zoo.weights.download import Transfer
from zoo.weights.errors import CacheError, DownloadError, WrongHashError
from zoo.weights.progress import progress_bar
from zoo.weights.record import Record

#: Folder of the checkpoints that come with this package.
PACKAGED_FILES = Path(__file__).parent / "files"
#: Suffix of a file that is not complete, or not checked.
PARTIAL = ".part"
#: Seconds without a new byte after which nobody waits for another process's download.
PATIENCE = 60.0

_POLL = 0.1
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What flock answers on file systems that have no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def fetch(
    record: Record,
    *,
    base: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Path:
    """Returns the path of a record's file; downloads the file if it is not here yet.

    A download goes to `NAME.part` in the cache folder. The next call continues it if it was
    interrupted. The file gets its final name when its hash is right, so no wrong file ever has that
    name. The hash of a file that is here already is checked again. If several processes want the
    same file at once, one downloads it and the others wait.

    Args:
        record: The record.
        base: URL or folder that holds the files in the place of their publishers; by default the
            environment variable ZOO_URL. A file in a folder is used where it is.
        cache: Folder of downloads; by default `zoo.weights.places.cache_folder()`.
        progress: Whether to show on stderr how far a download has come.

    Returns:
        The path.

    Raises:
        DownloadError: If the file is not available.
        WrongHashError: If the file is not the published one.
        CacheError: If the file cannot be written.
    """
    path = locate(record, base=base, cache=cache, progress=progress)
    with path.open("rb") as file:
        check(record, file, path)
    return path


def check(record: Record, file: io.BufferedReader, path: Path) -> None:
    """Raises `WrongHashError` unless an open file, which `locate` has found, is the record's."""
    if path.is_relative_to(PACKAGED_FILES):
        advice = "Install the package again."
    elif path.name == record.cache_name:
        source = f" from {record.url}" if record.url else ""
        advice = f"It has changed on the disk: delete it, and it will be downloaded again{source}."
    else:
        advice = "Put the published file there, or leave --zoo_url and ZOO_URL out."
    hashes.check(record, file, path, advice)


def locate(
    record: Record,
    *,
    base: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Path:
    """Like `fetch`, for callers that check the hash of a file that was here before."""
    if record.url is None:
        return _packaged(PACKAGED_FILES / record.file)
    final = (
        places.cache_folder() if cache is None else Path(cache).expanduser()
    ) / record.cache_name
    with _explained(final, record):
        if final.exists():
            return final
        source = places.location(record, base)
        if isinstance(source, Path):
            return _existing(record, source)
        final.parent.mkdir(parents=True, exist_ok=True)
        _download(record, source, final, progress)
    return final


def _packaged(path: Path) -> Path:
    if not path.is_file():
        raise DownloadError(
            f"The file {path.name} of this package is missing in {path.parent}: install the "
            "package again."
        )
    return path


def _existing(record: Record, path: Path) -> Path:
    if not path.is_file():
        raise DownloadError(
            f"There is no file {path}: put {record.url} there, or leave --zoo_url and "
            f"{places.URL_VARIABLE} out."
        )
    return path


def _download(record: Record, url: str, final: Path, progress: bool) -> None:
    """Downloads `url` to `final`, unless another process does."""
    with _partial_file(final) as opened:
        if opened is None:
            return
        partial, descriptor = opened
        try:
            with progress_bar(record.name, places.shown(url), progress) as show:
                _receive(record, Transfer(url, descriptor, record.max_bytes, record.bytes, show))
            os.fsync(descriptor)
        except WrongHashError:
            partial.unlink()
            raise
        except OSError as error:
            if error.errno in _FULL:
                partial.unlink()  # A full disk is no place to keep half a file.
            raise
        os.replace(partial, final)


def _receive(record: Record, transfer: Transfer) -> None:
    """Receives the file; once more from the beginning if it was put together from pieces."""
    with open(transfer.descriptor, "rb", closefd=False) as file:
        if transfer.done and hashes.matches(record, file):
            return  # A killed process had received it all.
        while True:
            transfer.run()
            if hashes.matches(record, file):
                return
            if not transfer.joined:
                break
            # The beginning that was there may be damaged, or of another version.
            transfer.restart()
        raise WrongHashError(
            f"{places.shown(transfer.url)} is not the published {record.name}: "
            f"{hashes.difference(record, file)}. It was deleted, nothing was loaded. Try again; if "
            "it comes out the same, take the file from elsewhere: --zoo_url=URL-or-folder, or "
            f"{places.URL_VARIABLE}."
        )


@contextlib.contextmanager
def _partial_file(final: Path) -> Iterator[tuple[Path, int] | None]:
    """Yields the unfinished file and its descriptor, held by this process alone; or None.

    It is None when another process has brought the file. It waits for a process that holds the file
    as long as bytes arrive, and then takes a file of its own. The kernel releases what a killed
    process held.
    """
    shared = final.with_name(final.name + PARTIAL)
    descriptor = _wait_for(shared, final)
    path = shared
    if descriptor is None and not final.exists():
        path = final.with_name(f"{final.name}.{secrets.token_hex(4)}{PARTIAL}")
        descriptor = os.open(path, _FLAGS | os.O_EXCL, 0o666)
    if descriptor is None:
        yield None
        return
    try:
        if final.exists():  # It came before the lock was taken.
            path.unlink()
            yield None
        else:
            yield path, descriptor
    finally:
        os.close(descriptor)
        if path != shared:
            path.unlink(missing_ok=True)  # Nobody would find and continue it.


def _wait_for(shared: Path, final: Path) -> int | None:
    """The descriptor of the locked file; None if `final` is there, or no lock can be had."""
    size, deadline = -1, 0.0
    while not final.exists():
        try:
            descriptor = _locked(shared)
        except BlockingIOError:
            found = shared.stat().st_size if shared.exists() else -1
            if found != size:
                size, deadline = found, time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL)
            continue
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            raise
        if descriptor is not None:
            return descriptor
    return None


def _locked(path: Path) -> int | None:
    """Opens and locks a file; None if it was renamed or deleted meanwhile."""
    descriptor = os.open(path, _FLAGS, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


@contextlib.contextmanager
def _explained(final: Path, record: Record) -> Iterator[None]:
    """Says what to do when the operating system refuses to read or write."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            folder = next(folder for folder in final.parents if folder.exists())
            free = shutil.disk_usage(folder).free
            raise CacheError(
                f"The disk is full: {record.name} from {record.url} needs up to "
                f"{record.max_bytes:,} bytes in {final.parent}, {free:,} are free. What had "
                f"arrived was deleted, nothing was loaded. Free some, or set "
                f"{places.HOME_VARIABLE} to a folder on another disk."
            ) from error
        raise CacheError(
            f"{record.name} from {record.url} cannot be kept in {final.parent}: "
            f"{error.strerror or error}. Nothing was loaded. Set {places.HOME_VARIABLE} to a "
            "folder that you may write to."
        ) from error
