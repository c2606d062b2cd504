"""Downloads one URL into one file; resumes after a cut, and tries again where that can help."""

import dataclasses
import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from zoo.weights.errors import DownloadError
from zoo.weights.places import shown

if TYPE_CHECKING:
    import requests

#: How often in a row a transfer may fail without having brought `_PROGRESS` bytes.
ATTEMPTS = 5
#: Seconds before the second attempt; twice as many before each further one: 7.5 s in all.
BACKOFF = 0.5
#: Seconds for a connection, and for a server's next bytes.
TIMEOUTS = (10.0, 30.0)

_PROGRESS = 2**20
_CHUNK = 2**16
_LONGEST_PAUSE = 60.0
# What a server says that may be over in a second: time-outs, too many requests, overload.
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class _TransientError(Exception):
    """This attempt failed; another attempt may succeed.

    Attributes:
        pause: Seconds that the server asks to wait.
    """

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


@dataclasses.dataclass
class Transfer:
    """A file on its way.

    It goes on from the length of the file, and asks for no byte twice, even after an earlier
    process was killed. The hash of the whole file decides whether the pieces belong together.
    Within one process, `If-Range` keeps a server with a new file from sending a piece of it.

    Attributes:
        url: The source.
        descriptor: The open file that receives the bytes. Its present bytes are kept.
        max_bytes: The most bytes that are accepted.
        bytes: Size of the file if it is known.
        show: Called with the number of bytes so far, and with the total if it is known.
        joined: Whether the file was put together from several answers.
    """

    url: str
    descriptor: int
    max_bytes: int
    bytes: int | None = None
    show: Callable[[int, int | None], None] = lambda done, total: None
    joined: bool = dataclasses.field(default=False, init=False)
    _validator: str | None = dataclasses.field(default=None, init=False)

    @property
    def done(self) -> int:
        """The number of bytes so far."""
        return os.fstat(self.descriptor).st_size

    def restart(self) -> None:
        """Throws away all bytes so far."""
        os.truncate(self.descriptor, 0)
        self.joined = False
        self._validator = None

    def run(self) -> None:
        """Receives the missing bytes.

        Raises:
            DownloadError: If the server refuses, sends something else, or fails too often.
            OSError: If the file cannot be written.
        """
        import requests

        failures = 0
        with requests.Session() as session:
            while True:
                before = self.done
                try:
                    return self._attempt(session)
                except _TransientError as error:
                    failures = 1 if self.done >= before + _PROGRESS else failures + 1
                    if failures >= ATTEMPTS:
                        self._fail(f"{error}; tried {failures} times", _UNREACHABLE)
                    time.sleep(max(BACKOFF * 2 ** (failures - 1), error.pause))

    def _attempt(self, session: "requests.Session") -> None:
        import requests
        import urllib3

        try:
            with session.get(
                self.url, headers=self._headers(), stream=True, timeout=TIMEOUTS
            ) as response:
                self._receive(response)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _TransientError(f"the connection failed ({_reason(error)})") from error
        except requests.exceptions.ChunkedEncodingError as error:
            raise _TransientError(f"the connection was cut at {self.done:,} bytes") from error
        # requests lets through what urllib3 says of a host name that is too long.
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            self._fail(_reason(error), "Check the URL.")

    def _headers(self) -> dict[str, str]:
        # A compressed answer has no ranges of the file.
        headers = {"Accept-Encoding": "identity", "User-Agent": "keras_renorm"}
        if self.done:
            headers["Range"] = f"bytes={self.done}-"
            if self._validator:
                headers["If-Range"] = self._validator
        return headers

    def _receive(self, response: "requests.Response") -> None:
        self._check_status(response)
        length = _length(response)
        if response.status_code == 206:
            self.joined = True
        else:
            self.restart()
        total = None if length is None else self.done + length
        self._check_total(total)
        self._remember(response)
        self.show(self.done, total or self.bytes)
        for chunk in response.iter_content(_CHUNK):
            _write(self.descriptor, chunk)
            self._check_size()
            self.show(self.done, total or self.bytes)
        if self.done < (total or self.bytes or 0):
            raise _TransientError(f"the connection was cut at {self.done:,} bytes")

    def _check_status(self, response: "requests.Response") -> None:
        status = response.status_code
        said = f"the server answered {status} {response.reason or ''}".rstrip()
        if status == 416 and self.done:  # No such range: the bytes here are of another file.
            self.restart()
            raise _TransientError("the server has fewer bytes than were received before")
        if status in _TRANSIENT:
            raise _TransientError(said, _pause(response))
        if status not in (200, 206):
            self._fail(said, _UNREACHABLE)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            self._fail(
                "the server sent a web page in the place of the file",
                "A proxy or a login may stand between: open the URL in a browser.",
            )
        if status == 206 and _first_byte(response) != self.done:
            self.restart()
            raise _TransientError("the server sent another range than was asked for")

    def _check_total(self, total: int | None) -> None:
        if total is None:
            return
        if self.bytes is not None and total != self.bytes:
            self._fail(
                f"expected {self.bytes:,} bytes, got a file of {total:,} bytes",
                "The file there is another one. " + _UNREACHABLE,
            )
        if total > self.max_bytes:
            self._fail_of_size(f"a file of {total:,} bytes")

    def _check_size(self) -> None:
        if self.done > self.max_bytes:
            self._fail_of_size("more")

    def _fail_of_size(self, got: str) -> None:
        self.restart()
        self._fail(f"expected at most {self.max_bytes:,} bytes, got {got}", _UNREACHABLE)

    def _remember(self, response: "requests.Response") -> None:
        """Keeps what tells this version of the file from others; a weak tag does not."""
        tag = response.headers.get("ETag", "")
        strong = tag if tag.startswith('"') else None
        self._validator = strong or response.headers.get("Last-Modified")

    def _fail(self, problem: str, advice: str) -> NoReturn:
        raise DownloadError(
            f"{shown(self.url)} could not be downloaded: {shown(problem)}. Nothing was loaded. "
            f"{advice}"
        )


_UNREACHABLE = (
    "Try again later, or take the file from elsewhere: --zoo_url=URL-or-folder, or the environment "
    "variable ZOO_URL."
)


def _write(descriptor: int, data: bytes) -> None:
    """Writes all of `data` at once: what a kill leaves is what was received."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _length(response: "requests.Response") -> int | None:
    """Bytes of the file that will come; None where that is not said."""
    text = response.headers.get("Content-Length", "")
    if not text.isdecimal() or response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    return int(text)


def _first_byte(response: "requests.Response") -> int | None:
    """Number of the first byte of a range."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _pause(response: "requests.Response") -> float:
    """Seconds that a server asks to wait, not above a minute."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_PAUSE) if text.isdecimal() else 0.0


def _reason(error: Exception) -> str:
    """The innermost reason of an exception, which requests and urllib3 wrap several times."""
    while True:
        inner = getattr(error, "reason", None) or next(
            (argument for argument in error.args if isinstance(argument, Exception)), None
        )
        if not isinstance(inner, Exception):
            return str(error) or type(error).__name__
        error = inner
