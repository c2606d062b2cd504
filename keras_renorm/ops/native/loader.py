"""Finds and loads the native library, and says why where it cannot."""

import ctypes
import functools
import hashlib
import os
import pathlib
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

ABI = 5
"""The library's interface that this version of the package calls; handlers.cc holds the same."""

HANDLERS = ("forward", "backward", "moments", "normalize", "gradient_sums", "input_gradient")
"""The library's handlers; each is registered with XLA under `keras_renorm_<name>`."""

LIBRARY = "libkeras_renorm.so"

_DIGEST_SIZE = 64  # of SHA-256 in hexadecimal


class NativeLibraryError(Exception):
    """The native library is missing, damaged or of another version; the message says which."""


class NativeLibrary(NamedTuple):
    """A loaded library.

    Attributes:
        handle: The library, as ctypes sees it.
        path: The file it came from.
        instruction_set: The kernels that this processor runs: avx512, avx2 or baseline.
    """

    handle: ctypes.CDLL
    path: pathlib.Path
    instruction_set: str


def target(name: str) -> str:
    """Returns the name under which XLA knows the handler `name`."""
    return f"keras_renorm_{name}"


def library_path() -> pathlib.Path:
    """Returns where the installed library stands, or would stand."""
    return pathlib.Path(__file__).with_name(LIBRARY)


def _check_file(path: pathlib.Path) -> None:
    """Raises unless the file is the one that was built: setup.py appends its SHA-256.

    Opening a library that was cut short ends the process with a bus error, so damage has to be
    found before the dynamic linker does. Reading 2 MB takes 2 ms.
    """
    data = path.read_bytes()
    actual = hashlib.sha256(data[:-_DIGEST_SIZE]).hexdigest()
    if actual.encode() != data[-_DIGEST_SIZE:]:
        raise NativeLibraryError(
            f"the native library {path.name} is damaged: its {len(data)} bytes do not end with "
            "their SHA-256; reinstall keras_renorm to rebuild it"
        )


def _open(path: pathlib.Path) -> ctypes.CDLL:
    """Opens the library at `path`; the dynamic linker's complaint goes into the error."""
    if not path.is_file():
        raise NativeLibraryError(
            f"the native library {path.name} is not there: keras_renorm was installed without a "
            "C++ compiler. With one, `pip install --force-reinstall --no-deps keras-renorm` "
            "builds it"
        )
    _check_file(path)
    try:
        return ctypes.CDLL(os.fspath(path))
    except OSError as error:
        raise NativeLibraryError(f"the native library does not load: {error}") from error


def _check_abi(handle: ctypes.CDLL, path: pathlib.Path) -> None:
    """Raises unless the library speaks the interface that this package calls."""
    try:
        abi = int(handle.keras_renorm_abi())
    except AttributeError as error:
        raise NativeLibraryError(f"{path.name} is not a library of keras_renorm") from error
    if abi != ABI:
        raise NativeLibraryError(
            f"the native library {path.name} has interface version {abi}, this package needs "
            f"{ABI}; reinstall keras_renorm to rebuild it"
        )


@functools.cache
def load() -> NativeLibrary:
    """Loads the native library, once per process.

    Raises:
        NativeLibraryError: It is missing, damaged, or of another version.
    """
    path = library_path()
    handle = _open(path)
    _check_abi(handle, path)
    handle.keras_renorm_instruction_set.restype = ctypes.c_char_p
    instruction_set = handle.keras_renorm_instruction_set().decode()
    return NativeLibrary(handle, path, instruction_set)


def once(make: Callable[[], NativeLibrary]) -> Callable[[], NativeLibrary]:
    """`make`, called by one of the threads that want its result, and not again once it has one.

    Runtimes refuse what is registered twice, and TensorFlow ends the process.
    """
    found: list[NativeLibrary] = []
    lock = threading.Lock()

    @functools.wraps(make)
    def made() -> NativeLibrary:
        if not found:  # without the lock from then on: a forked process may inherit it held
            with lock:
                if not found:
                    found.append(make())
        return found[0]

    return made


@functools.cache
def problem(register: Callable[[], NativeLibrary]) -> str | None:
    """Returns why `register` cannot make the library known to a runtime, or None once it has."""
    try:
        register()
    except NativeLibraryError as error:
        return str(error)
    return None


def handlers() -> dict[str, Any]:
    """Returns the library's handlers by the names that XLA knows them by."""
    handle = load().handle
    return {target(name): getattr(handle, target(name)) for name in HANDLERS}
