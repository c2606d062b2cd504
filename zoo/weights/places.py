"""The places of files: the cache folder, and a mirror in the place of the publisher."""

import contextlib
import os
import re
import urllib.parse
import urllib.request
from pathlib import Path

from zoo.weights.errors import WeightsError
from zoo.weights.record import Record

#: Folder of everything that is downloaded, or remembered of data sets.
HOME_VARIABLE = "ZOO_HOME"
#: URL or folder that holds the files in the place of their publishers; `--zoo_url` of programs.
URL_VARIABLE = "ZOO_URL"

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def home_folder() -> Path:
    """Returns the folder of files that can be downloaded or computed again.

    It is `$ZOO_HOME`, or else `$XDG_CACHE_HOME/keras_renorm`, or else `~/.cache/keras_renorm`.
    """
    home = os.environ.get(HOME_VARIABLE)
    if not home:
        # The XDG specification ignores relative paths.
        caches = os.environ.get("XDG_CACHE_HOME", "")
        caches = caches if os.path.isabs(caches) else "~/.cache"
        home = os.path.join(caches, "keras_renorm")
    return Path(home).expanduser()


def cache_folder() -> Path:
    """Returns the folder of downloaded checkpoints, `weights` in `home_folder()`."""
    return home_folder() / "weights"


def location(record: Record, base: str | os.PathLike[str] | None = None) -> str | Path:
    """Returns where a record's file is available.

    Args:
        record: A record with a URL.
        base: URL or folder that holds the files in the place of their publishers, each under the
            name `record.file`; by default the environment variable ZOO_URL.

    Returns:
        A URL, or the path of a file for a folder or a `file://` URL.

    Raises:
        WeightsError: If the URL is of no kind that can be opened.
    """
    base = base or os.environ.get(URL_VARIABLE)
    if not base:
        assert record.url is not None
        return record.url
    base = os.fspath(base)
    if not _SCHEME.match(base):
        return Path(base).expanduser() / record.file
    with contextlib.suppress(ValueError):  # for brackets that are not closed
        parts = urllib.parse.urlsplit(base)
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            return Path(urllib.request.url2pathname(parts.path)) / record.file
        if parts.scheme in ("http", "https") and parts.netloc:
            return f"{base.rstrip('/')}/{urllib.parse.quote(record.file)}"
    raise WeightsError(
        f"Checkpoints cannot be loaded from {shown(base)!r}: --zoo_url, and {URL_VARIABLE}, must "
        "be an http:// or https:// URL, a file:// URL or a folder, such as "
        "https://mirror.example.org/zoo."
    )


def shown(url: str | Path) -> str:
    """Returns a URL for messages, without a password."""
    return re.sub(r"(://)[^/@]*@", r"\1...@", str(url))
