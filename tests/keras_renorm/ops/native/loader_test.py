import hashlib
import pathlib
import threading
import time

import pytest

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


def test_a_missing_library(fresh, elsewhere):
    with pytest.raises(loader.NativeLibraryError, match=r"is not there: .* without a C\+\+ comp"):
        fresh()


def put(path, data):
    """Writes a library, with its checksum."""
    path.write_bytes(data + hashlib.sha256(data).hexdigest().encode())


def test_no_library_at_all(fresh, elsewhere):
    put(elsewhere, b"\x7fELF" + bytes(100))
    with pytest.raises(loader.NativeLibraryError, match=r"does not load: .*libkeras_renorm\.so"):
        fresh()


@needs_library
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5000],
        lambda data: data[:-64],
        lambda data: data[:9000] + b"damage" + data[9006:],
    ],
)
def test_a_damaged_library(fresh, whole, elsewhere, damage):
    elsewhere.write_bytes(damage(whole))
    with pytest.raises(loader.NativeLibraryError, match=r"is damaged: its \d+ bytes do not end wi"):
        fresh()


def test_another_library(fresh, elsewhere):
    import _ctypes  # any shared library will do

    put(elsewhere, pathlib.Path(_ctypes.__file__).read_bytes())
    with pytest.raises(loader.NativeLibraryError, match="is not a library of keras_renorm"):
        fresh()


@needs_library
def test_another_interface(fresh, monkeypatch):
    built = loader.ABI
    monkeypatch.setattr(loader, "ABI", built + 1)
    expected = f"interface version {built}, .* needs {built + 1}; reinst"
    with pytest.raises(loader.NativeLibraryError, match=expected):
        fresh()


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
            assert not entered  # or a forked process would wait here for ever
            entered.append(True)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(threading, "Lock", Lock)
    register = loader.once(lambda: "the library")
    assert [register(), register()] == ["the library"] * 2
    assert entered == [True]
