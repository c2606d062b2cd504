"""Standard output whose failure does not end a program."""

import os
import sys
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

_T = TypeVar("_T")


class LastingOutput:
    """A file that takes nothing more after its first failure, and says so on stderr.

    It fails when its reader ends, as `tee` may, its terminal is closed, or its disk is full. Rich
    ends a program then: without a word at the first, with an error that names no file at the
    others. A training, or an evaluation not yet written, would be lost.

    Args:
        file: Standard output.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Writes a text."""
        return self._lasting(lambda: self._file.write(text)) or 0

    def flush(self) -> None:
        """Hands what was written to the operating system."""
        self._lasting(self._file.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def _lasting(self, action: Callable[[], _T]) -> _T | None:
        """Runs an action; if it fails, sends the output nowhere and says so on stderr."""
        try:
            return action()
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                warning = "warning: nobody reads the output: it ends here."
            else:
                warning = f"warning: {_name(self._file)}: {error.strerror}: the output ends here."
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._file.fileno())
            try:
                print(warning, file=sys.stderr, flush=True)
            except OSError:  # 2>&1
                os.dup2(nowhere.fileno(), sys.stderr.fileno())
        return None


def _name(file: TextIO) -> str:
    """Returns what stdout is: a file's path where that is known."""
    try:
        name = os.readlink(f"/proc/self/fd/{file.fileno()}")
    except (OSError, ValueError):
        name = ""
    return name if name.startswith("/") else "stdout"


def install() -> None:
    """Makes stdout last, and escape characters of names that its encoding lacks."""
    output: Any = sys.stdout
    if output is None:  # the program was started without one: nothing is printed
        return
    if hasattr(output, "reconfigure"):
        output.reconfigure(errors="backslashreplace")
    sys.stdout = LastingOutput(output)
