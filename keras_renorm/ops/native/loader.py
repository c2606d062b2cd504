"""Finds and loads the native library, or says why it cannot."""

import ctypes
import functools
import os
import pathlib
import struct
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

ABI = 6
"""The version of the library's interface that this package calls. handlers.cc has the same."""

HANDLERS = ("forward", "backward", "moments", "normalize", "gradient_sums", "input_gradient")
"""The library's handlers. XLA knows each as `keras_renorm_<name>`."""

LIBRARY = "libkeras_renorm.so"

INSTRUCTION_SETS = ("avx512", "avx2", "baseline")
"""The library's kernels. The environment variable below can name the most that is used."""

_MOST = "KERAS_RENORM_INSTRUCTION_SET"

_REINSTALL = "reinstall keras_renorm to rebuild it"
_INTERPRETER = pathlib.Path("/proc/self/exe")  # a file for this processor
_ELF_64 = b"\x7fELF\x02"

# An ELF header: offsets of the tables of segments and sections, sizes and numbers of their entries.
# A segment's entry: where in the file the segment is, and its size there.
_HEADER = struct.Struct("=32xQQ6xHHHH2x")
_SEGMENT = struct.Struct("=8xQ16xQ")


class NativeLibraryError(Exception):
    """The native library is missing, damaged or of another version, as the message says."""


class NativeLibrary(NamedTuple):
    """A loaded library.

    Attributes:
        handle: The library, as ctypes sees it.
        path: The library's file.
        instruction_set: The kernels that this processor runs: avx512, avx2 or baseline.
    """

    handle: ctypes.CDLL
    path: pathlib.Path
    instruction_set: str


def target(name: str) -> str:
    """Returns the name under which XLA knows the handler `name`."""
    return f"keras_renorm_{name}"


def library_path() -> pathlib.Path:
    """Returns where the installed library is, or would be."""
    return pathlib.Path(__file__).with_name(LIBRARY)


def _check_file(path: pathlib.Path) -> None:
    """Raises unless the file is a whole ELF library for this processor.

    Opening a library that was cut short ends the process with a bus error, so this check comes
    first. A whole file holds the ends of its tables and segments, and `strip` and `patchelf` keep
    these right. For a library for another processor, the dynamic linker would report a missing
    file.
    """
    own = _head(_INTERPRETER)
    if own[:5] != _ELF_64:
        return  # a system whose files are unknown here
    head, size = _head(path), path.stat().st_size
    if head[:4] != own[:4] or size < len(head):
        raise NativeLibraryError(
            f"the native library {path.name} is damaged: its {size} bytes do not begin as a "
            f"library does; {_REINSTALL}"
        )
    if head[4:6] + head[18:20] != own[4:6] + own[18:20]:
        raise NativeLibraryError(
            f"the native library {path.name} is for another processor; {_REINSTALL}"
        )
    if (end := _end(path, head, size)) > size:
        raise NativeLibraryError(
            f"the native library {path.name} is damaged: it has {size} bytes of {end}; {_REINSTALL}"
        )


def _head(path: pathlib.Path) -> bytes:
    """Returns a file's ELF header, filled up with zeros, or zeros alone without a file."""
    try:
        with path.open("rb") as file:
            return file.read(_HEADER.size).ljust(_HEADER.size, b"\0")
    except OSError:
        return bytes(_HEADER.size)


def _end(path: pathlib.Path, head: bytes, size: int) -> int:
    """Returns where the last table or segment of an ELF file ends."""
    segments, sections, segment, segment_count, section, section_count = _HEADER.unpack(head)
    ends = [_HEADER.size, sections + section * section_count, segments + segment * segment_count]
    with path.open("rb") as file:
        file.seek(min(segments, size))
        table = file.read(segment * segment_count)
    for at in range(0, len(table) - _SEGMENT.size + 1, max(segment, 1)):
        ends.append(sum(_SEGMENT.unpack_from(table, at)))
    return max(ends)


def _open(path: pathlib.Path) -> ctypes.CDLL:
    """Opens the library at `path`. The error quotes the dynamic linker."""
    if not path.is_file():
        raise NativeLibraryError(
            f"the native library {path.name} is not there: keras_renorm was installed without a "
            "C++ compiler. With one, `pip install --force-reinstall --no-deps --no-cache-dir .` in "
            "a clone of the repository builds it"
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
            f"{ABI}; {_REINSTALL}"
        )


def _check_instruction_set() -> None:
    """Raises for a name that the library would take for `baseline`."""
    most = os.environ.get(_MOST, "")
    if most and most not in INSTRUCTION_SETS:
        raise ValueError(
            f"The environment variable {_MOST}={most!r} must be {', '.join(INSTRUCTION_SETS[:-1])} "
            f"or {INSTRUCTION_SETS[-1]}. Leave it out for the fastest kernels."
        )


@functools.cache
def load() -> NativeLibrary:
    """Loads the native library, once per process.

    Raises:
        NativeLibraryError: The library is missing, damaged, or of another version.
        ValueError: The environment variable names kernels that there are not.
    """
    _check_instruction_set()
    path = library_path()
    handle = _open(path)
    _check_abi(handle, path)
    handle.keras_renorm_instruction_set.restype = ctypes.c_char_p
    instruction_set = handle.keras_renorm_instruction_set().decode()
    return NativeLibrary(handle, path, instruction_set)


def check_ffi(runtime: str, version: int) -> None:
    """Raises unless the XLA of a runtime takes the library's handlers.

    Call it before the first handler is registered. JAX only queues handlers, and loses its CPU once
    XLA refuses one. TensorFlow 2.17 ends the process.

    Args:
        runtime: The runtime's name and version.
        version: The version of its XLA's foreign function interface, as 1000 major + minor, or -1
            where it is unknown.
    """
    own = int(load().handle.keras_renorm_ffi_version())
    if own // 1000 == version // 1000 and own <= version:
        return
    major, minor = divmod(version, 1000)
    found = "an old or unknown version" if version < 0 else f"version {major}.{minor}"
    raise NativeLibraryError(
        f"{runtime} has {found} of XLA's foreign function interface, and the native library needs "
        f"{own // 1000}.{own % 1000} or a later one of {own // 1000}"
    )


def once(make: Callable[[], NativeLibrary]) -> Callable[[], NativeLibrary]:
    """`make`, which only one thread calls at a time, and none again once there is a result.

    Runtimes refuse a second registration, and TensorFlow ends the process.
    """
    found: list[NativeLibrary] = []
    lock = threading.Lock()

    @functools.wraps(make)
    def made() -> NativeLibrary:
        if not found:  # no lock once there is a result: a forked process may inherit it held
            with lock:
                if not found:
                    found.append(make())
        return found[0]

    return made


@functools.cache
def problem(register: Callable[[], NativeLibrary]) -> str | None:
    """Returns why `register` cannot make the library known to a runtime, or None if it can."""
    try:
        register()
    except NativeLibraryError as error:
        return str(error)
    return None


def handlers() -> dict[str, Any]:
    """Returns the library's handlers by XLA's names for them."""
    handle = load().handle
    return {target(name): getattr(handle, target(name)) for name in HANDLERS}
