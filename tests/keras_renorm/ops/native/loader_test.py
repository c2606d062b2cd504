import pathlib
import shutil
import subprocess
import threading
import time

import pytest

from keras_renorm import ops
from keras_renorm.ops.native import loader


@pytest.fixture
def fresh():
    """The loader as in a new process, before and after."""
    loader.load.cache_clear()
    yield loader.load
    loader.load.cache_clear()


@pytest.fixture
def whole():
    """The bytes of the library that is installed."""
    return loader.library_path().read_bytes()


@pytest.fixture
def elsewhere(fresh, tmp_path, monkeypatch):
    """A place of its own for the library, empty."""
    path = tmp_path / loader.LIBRARY
    monkeypatch.setattr(loader, "library_path", lambda: path)
    return path


needs_library = pytest.mark.skipif(
    not loader.library_path().is_file(), reason="the native library is not built"
)


@needs_library
def test_loads(fresh):
    library = fresh()
    assert library.instruction_set in ("avx512", "avx2", "baseline")
    assert set(loader.handlers()) == {f"keras_renorm_{name}" for name in loader.HANDLERS}


def test_kernels_that_there_are_not(fresh, monkeypatch):
    monkeypatch.setenv("KERAS_RENORM_INSTRUCTION_SET", "avx5")
    loader.problem.cache_clear()
    message = r"_INSTRUCTION_SET='avx5' must be avx512, avx2 or baseline\. Leave it out"
    for function in (fresh, ops.lowering):
        with pytest.raises(ValueError, match=message):
            function()


def test_a_missing_library(fresh, elsewhere):
    with pytest.raises(
        loader.NativeLibraryError, match=r"is not there: .* a C\+\+ compiler\. .* --no-ca"
    ):
        fresh()


def test_no_library_at_all(fresh, elsewhere):
    own = pathlib.Path("/proc/self/exe").read_bytes()[:64]  # its header, and no table of segments
    elsewhere.write_bytes(own[:32] + bytes(20) + own[52:56] + bytes(8))
    with pytest.raises(loader.NativeLibraryError, match=r"does not load: .*libkeras_renorm\.so"):
        fresh()


@pytest.mark.parametrize("data", [b"", b"\x7f", b"#!/bin/sh\nexit 1\n", bytes(9000)])
def test_a_file_that_is_no_library(fresh, elsewhere, data):
    elsewhere.write_bytes(data)
    message = rf"is damaged: its {len(data)} bytes do not begin as a library does; reinstall kera"
    with pytest.raises(loader.NativeLibraryError, match=message):
        fresh()


@needs_library
def test_a_library_that_was_cut_short(fresh, whole, elsewhere):
    elsewhere.write_bytes(whole)
    whole = whole[: loader._end(elsewhere, whole[:64], len(whole))]  # what may follow is not read
    lengths = {1, 4, 63, 64, 65, 4096, len(whole) - 1, *range(5, len(whole), len(whole) // 97)}
    for length in lengths:
        elsewhere.write_bytes(whole[:length])
        with pytest.raises(loader.NativeLibraryError, match=rf"is damaged: it.* {length} bytes "):
            fresh()


@needs_library
@pytest.mark.parametrize("at", [4, 5, 18])
def test_a_library_for_another_processor(fresh, whole, elsewhere, at):
    elsewhere.write_bytes(whole[:at] + bytes([whole[at] ^ 3]) + whole[at + 1 :])
    with pytest.raises(loader.NativeLibraryError, match="is for another processor; reinstall ker"):
        fresh()


@needs_library
@pytest.mark.parametrize(
    "command",
    [
        ["strip"],
        ["strip", "--strip-unneeded"],
        ["strip", "--strip-section-headers"],
        ["patchelf", "--set-rpath", "$ORIGIN/" + "a" * 300],  # as auditwheel does
        ["patchelf", "--add-needed", "libm.so.6"],
    ],
    ids=" ".join,
)
def test_a_library_that_packagers_have_changed(whole, tmp_path, command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    path = tmp_path / loader.LIBRARY
    path.write_bytes(whole)
    changed = subprocess.run([*command, path], capture_output=True, text=True, timeout=60)
    if "unrecognized option" in changed.stderr:
        pytest.skip(f"this {command[0]} knows no {command[1]}")
    assert changed.returncode == 0
    assert loader._open(path).keras_renorm_abi() == loader.ABI
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(loader.NativeLibraryError, match="is damaged"):
        loader._open(path)


def test_another_library(fresh, elsewhere):
    import _ctypes  # any shared library will do

    elsewhere.write_bytes(pathlib.Path(_ctypes.__file__).read_bytes())
    with pytest.raises(loader.NativeLibraryError, match="is not a library of keras_renorm"):
        fresh()


@needs_library
def test_a_system_whose_files_are_not_known(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(loader, "_INTERPRETER", tmp_path / "is not there")
    assert fresh().path == loader.library_path()


@needs_library
def test_another_interface(fresh, monkeypatch):
    built = loader.ABI
    monkeypatch.setattr(loader, "ABI", built + 1)
    expected = f"interface version {built}, .* needs {built + 1}; reinst"
    with pytest.raises(loader.NativeLibraryError, match=expected):
        fresh()


@needs_library
@pytest.mark.parametrize(
    ("version", "found"),
    [(-1, "an old or unknown version"), (0, r"version 0\.0"), (1001, r"version 1\.1")],
)
def test_another_interface_to_xla(version, found):
    expected = rf"^Xla 2 has {found} of .* needs 0\.1 or a later one of 0$"
    with pytest.raises(loader.NativeLibraryError, match=expected):
        loader.check_ffi("Xla 2", version)


@needs_library
@pytest.mark.parametrize("version", [1, 2, 3, 999])
def test_a_later_interface_to_xla_takes_the_library(version):
    loader.check_ffi("Xla 2", version)


@needs_library
def test_threads_at_once_register_once():
    calls, results = [], []

    @loader.once
    def register():
        """What is made."""
        calls.append(threading.get_ident())
        time.sleep(0.05)
        return loader.load()

    threads = [threading.Thread(target=lambda: results.append(register())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert results == [loader.load()] * 4
    assert register.__doc__ == "What is made."


def test_what_is_registered_is_had_without_a_lock(monkeypatch):
    """A forked process may inherit it held by a thread that it does not have."""
    entered = []

    class Lock:
        def __enter__(self):
            assert not entered  # else a forked process would wait here for ever
            entered.append(True)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(threading, "Lock", Lock)
    register = loader.once(lambda: "the library")
    assert [register(), register()] == ["the library"] * 2
    assert entered == [True]
