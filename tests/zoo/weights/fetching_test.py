import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import threading
import time

import pytest

from zoo.weights import download, fetch, fetching
from zoo.weights.errors import CacheError, DownloadError, WrongHashError


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def files_in(cache):
    return {path.name: path.read_bytes() for path in cache.iterdir()} if cache.exists() else {}


def fails(kind, record, cache, match, **options):
    """Fetches in vain; returns the message."""
    with pytest.raises(kind, match=match) as caught:
        fetch(record, cache=cache, progress=False, **options)
    message = str(caught.value)
    assert record.url in message
    assert record.cache_name not in files_in(cache)
    return message


def test_a_file_is_downloaded_once(server, make_record, cache):
    record = make_record()
    for _ in range(2):
        path = fetch(record, cache=cache, progress=False)
        assert path == cache / record.cache_name
        assert files_in(cache) == {record.cache_name: server.contents}
    assert len(server.requests) == 1


def test_the_publishers_md5_will_do_and_a_size_need_not_be_known(server, make_record, cache):
    md5 = hashlib.md5(server.contents).hexdigest()
    record = make_record(hash_kind="md5", hash=md5, bytes=None)
    assert fetch(record, cache=cache, progress=False).read_bytes() == server.contents


def test_the_cache_is_where_the_environment_says(server, make_record, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "elsewhere"))
    record = make_record()
    path = fetch(record, progress=False)
    assert path == tmp_path / "elsewhere" / "weights" / record.cache_name


def test_without_network_a_filled_cache_is_enough(server, make_record, cache):
    record = make_record()
    fetch(record, cache=cache, progress=False)
    unreachable = make_record(url="http://127.0.0.1:9/weights.h5")
    assert fetch(unreachable, cache=cache, progress=False).read_bytes() == server.contents


def test_without_network_the_message_says_what_to_do(make_record, cache):
    record = make_record(url="http://127.0.0.1:9/weights.h5")
    message = fails(DownloadError, record, cache, "Connection refused.*tried 5 times")
    assert "Nothing was loaded" in message
    assert "--zoo_url=URL-or-folder" in message


def test_another_file_is_not_kept(server, make_record, cache):
    other = bytes(len(server.contents))
    server.answers = [server.file(contents=other)]
    record = make_record()
    message = fails(WrongHashError, record, cache, "is not the published resnet20.test")
    assert f"expected sha256 {record.hash} and 300,000 bytes" in message
    assert f"got sha256 {hashlib.sha256(other).hexdigest()} and 300,000 bytes" in message
    assert "It was deleted, nothing was loaded" in message
    assert files_in(cache) == {}
    assert len(server.requests) == 1


def test_a_file_of_another_size_is_refused_before_it_is_read(server, make_record, cache):
    server.answers = [server.file(contents=b"x" * 299_999)]
    fails(
        DownloadError, make_record(), cache, "expected 300,000 bytes, got a file of 299,999 bytes"
    )


def test_a_flipped_bit_in_the_cache_is_found(server, make_record, cache):
    record = make_record()
    path = fetch(record, cache=cache, progress=False)
    damaged = bytearray(server.contents)
    damaged[150_000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(WrongHashError, match="has changed on the disk: delete it") as caught:
        fetch(record, cache=cache, progress=False)
    message = str(caught.value)
    assert str(path) in message
    assert record.url in message
    assert f"expected sha256 {record.hash}" in message
    assert f"got sha256 {hashlib.sha256(damaged).hexdigest()}" in message
    path.unlink()
    assert fetch(record, cache=cache, progress=False).read_bytes() == server.contents


@pytest.mark.parametrize("kind", [{"Content_Type": "text/html; charset=utf-8"}, {}])
def test_a_web_page_is_no_checkpoint(server, make_record, cache, kind):
    page = b"<!DOCTYPE html>\n<html><title>Please log in</title></html>"

    def answer(handler):
        handler.head(200, Content_Length=len(page), **kind)
        handler.wfile.write(page)

    server.answers = [answer]
    message = fails(DownloadError, make_record(bytes=None), cache, "web page")
    assert "Nothing was loaded" in message or "nothing was loaded" in message


def test_a_cut_connection_is_continued(server, make_record, cache):
    server.answers = [server.file(cut=100_000), server.file(cut=50_000), server.file()]
    fetch(make_record(), cache=cache, progress=False)
    asked = [request.get("Range") for request in server.requests]
    assert (len(asked), asked[0]) == (3, None)
    starts = [int(text[len("bytes=") : -1]) for text in asked[1:]]
    assert 0 < starts[0] <= 100_000
    assert starts[0] <= starts[1] <= 150_000
    assert [request.get("If-Range") for request in server.requests[1:]] == ['"1"', '"1"']
    assert files_in(cache).popitem()[1] == server.contents


def test_a_connection_that_is_always_cut_is_given_up(server, make_record, cache):
    server.answers = [server.file(cut=0)]
    fails(DownloadError, make_record(), cache, "was cut at 0 bytes; tried 5 times")
    assert len(server.requests) == 5


def test_another_process_goes_on_where_a_killed_one_stopped(server, make_record, cache):
    record = make_record()
    cache.mkdir()
    (cache / f"{record.cache_name}.part").write_bytes(server.contents[:123_456])
    assert fetch(record, cache=cache, progress=False).read_bytes() == server.contents
    assert [request["Range"] for request in server.requests] == ["bytes=123456-"]
    assert list(files_in(cache)) == [record.cache_name]


def test_a_process_that_was_killed_at_the_end_is_spared_the_download(server, make_record, cache):
    record = make_record()
    cache.mkdir()
    (cache / f"{record.cache_name}.part").write_bytes(server.contents)
    assert fetch(record, cache=cache, progress=False).read_bytes() == server.contents
    assert server.requests == []


@pytest.mark.parametrize("length", [100_000, 300_000, 300_001])
def test_a_damaged_beginning_costs_one_more_download(server, make_record, cache, length):
    record = make_record()
    cache.mkdir()
    (cache / f"{record.cache_name}.part").write_bytes(b"x" * length)
    assert fetch(record, cache=cache, progress=False).read_bytes() == server.contents
    assert len(server.requests) == 2


def test_a_server_without_ranges_sends_everything_again(server, make_record, cache):
    record = make_record()
    server.answers = [server.file(cut=100_000, ranges=False), server.file(ranges=False)]
    assert fetch(record, cache=cache, progress=False).read_bytes() == server.contents


def test_a_new_version_on_the_server_is_not_mixed_with_the_old_one(server, make_record, cache):
    server.answers = [server.file(cut=100_000, contents=bytes(300_000)), server.file(etag='"2"')]
    assert fetch(make_record(), cache=cache, progress=False).read_bytes() == server.contents
    assert [request.get("If-Range") for request in server.requests] == [None, '"1"']


def test_a_wrong_range_is_not_appended(server, make_record, cache):
    def wrong(handler):
        handler.head(206, Content_Range="bytes 0-299999/300000", Content_Length=300_000)
        handler.wfile.write(server.contents)

    server.answers = [server.file(cut=100_000), wrong, server.file()]
    assert fetch(make_record(), cache=cache, progress=False).read_bytes() == server.contents


def test_a_file_without_a_length_that_ends_early_is_continued(server, make_record, cache):
    server.answers = [server.file(cut=100_000, length=False), server.file()]
    assert fetch(make_record(), cache=cache, progress=False).read_bytes() == server.contents


def test_a_size_that_nobody_knows_is_checked_by_the_hash(server, make_record, cache):
    server.answers = [server.file(cut=100_000, length=False)]
    fails(WrongHashError, make_record(bytes=None), cache, "got sha256 [0-9a-f]+ and 100,000 bytes")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_trouble_of_the_server_is_waited_for(server, make_record, cache, status):
    server.answers = [server.status(status), server.status(status), server.file()]
    assert fetch(make_record(), cache=cache, progress=False).read_bytes() == server.contents


def test_a_server_may_say_how_long_to_wait(server, make_record, cache, monkeypatch):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    server.answers = [
        server.status(503, Retry_After=7),
        server.status(503, Retry_After=9_999),
        server.status(503, Retry_After="tomorrow"),
        server.file(),
    ]
    fetch(make_record(), cache=cache, progress=False)
    assert pauses == [7.0, 60.0, 0.04]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_not_asked_again(server, make_record, cache, status):
    server.answers = [server.status(status)]
    fails(DownloadError, make_record(), cache, f"the server answered {status} ")
    assert len(server.requests) == 1


@pytest.mark.parametrize("length", [True, False])
def test_an_endless_answer_is_ended(server, make_record, cache, length):
    record = make_record(bytes=None, parameters=1_000)
    sent = []

    def endless(handler):
        handler.head(200, **({"Content_Length": 10**15} if length else {}))
        while len(sent) < 10_000:
            handler.wfile.write(bytes(2**16))
            sent.append(2**16)

    server.answers = [endless]
    got = "a file of 1,000,000,000,000,000 bytes" if length else "more"
    fails(DownloadError, record, cache, f"expected at most 16,781,216 bytes, got {got}")
    assert sum(sent) < 2**26  # The sockets between them hold some more.
    assert all(not contents for contents in files_in(cache).values())


def test_a_server_that_says_nothing_is_given_up(server, make_record, cache, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUTS", (1.0, 0.05))
    server.answers = [server.file(pause=lambda: time.sleep(0.5))]
    fails(DownloadError, make_record(), cache, "Read timed out.*tried 5 times")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_left_as_it_was(server, make_record, cache, monkeypatch, number):
    def write(descriptor, data, written=[]):  # noqa: B006
        if len(written) == 2:
            raise OSError(number, os.strerror(number))
        written.append(len(data))
        return real(descriptor, data)

    real = os.write
    monkeypatch.setattr(download.os, "write", write)
    message = fails(CacheError, make_record(), cache, "The disk is full")
    assert "needs up to 300,000 bytes" in message
    assert "bytes in " in message
    assert "ZOO_HOME" in message
    assert files_in(cache) == {}


def test_a_disk_without_room_for_the_folder_is_full_too(make_record, cache, monkeypatch):
    def mkdir(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetching.Path, "mkdir", mkdir)
    fails(CacheError, make_record(), cache / "of" / "mine", "The disk is full")


def test_a_limit_of_the_system_is_met_like_a_full_disk(server, make_record, cache):
    """A real one, in a process of its own: no file may grow beyond 100,000 bytes."""
    record = make_record()
    code = f"""
import resource, signal, sys
from zoo.weights import Record, fetch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    fetch({record!r}, cache={str(cache)!r}, progress=False)
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith(
        "CacheError The disk is full: resnet20.test from http://127.0.0.1"
    )
    assert files_in(cache) == {}


def test_a_cache_that_cannot_be_written(make_record, tmp_path):
    (tmp_path / "file").write_text("")
    message = fails(CacheError, make_record(), tmp_path / "file" / "cache", "cannot be kept in")
    assert "Not a directory" in message
    assert "Set ZOO_HOME to a folder that you may write to" in message


def test_threads_at_once_share_one_download(server, make_record, cache):
    record = make_record()
    started = threading.Event()
    server.answers = [server.file(pause=lambda: (started.set(), time.sleep(0.3)))]
    results = []

    def run():
        results.append(fetch(record, cache=cache, progress=False).read_bytes())

    threads = [threading.Thread(target=run) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [server.contents] * 5
    assert len(server.requests) == 1
    assert list(files_in(cache)) == [record.cache_name]


def test_processes_at_once_share_one_download(server, make_record, cache):
    record = make_record()
    server.answers = [server.file(pause=lambda: time.sleep(1.0))]
    code = (
        "from zoo.weights import Record, fetch\n"
        f"print(fetch({record!r}, cache={str(cache)!r}, progress=False))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert outputs == {str(cache / record.cache_name)}
    assert len(server.requests) == 1
    assert files_in(cache) == {record.cache_name: server.contents}


def test_a_killed_download_is_continued_by_the_next_process(server, make_record, cache):
    record = make_record()
    partial = cache / f"{record.cache_name}.part"
    killed = threading.Event()

    def half(handler):
        handler.head(200, Content_Length=len(server.contents), ETag='"1"')
        handler.wfile.write(server.contents[:200_000])
        killed.wait(60)

    server.answers = [half, server.file()]
    code = (
        "from zoo.weights import Record, fetch\n"
        f"fetch({record!r}, cache={str(cache)!r}, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 100_000):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    killed.set()
    received = partial.stat().st_size
    assert files_in(cache) == {partial.name: server.contents[:received]}
    assert fetch(record, cache=cache, progress=False).read_bytes() == server.contents
    assert [request.get("Range") for request in server.requests] == [None, f"bytes={received}-"]


@pytest.mark.parametrize("reason", ["frozen", "no locks"])
def test_a_frozen_process_or_no_locks_are_no_obstacle(
    server, make_record, cache, monkeypatch, reason
):
    record = make_record()
    cache.mkdir()
    held = cache / f"{record.cache_name}.part"
    monkeypatch.setattr(fetching, "PATIENCE", 0.2)
    with held.open("wb") as other:
        if reason == "frozen":
            fcntl.flock(other, fcntl.LOCK_EX)
        else:
            monkeypatch.setattr(fetching.fcntl, "flock", refuse_locks)
        assert fetch(record, cache=cache, progress=False).read_bytes() == server.contents
    assert files_in(cache) == {record.cache_name: server.contents, held.name: b""}


def refuse_locks(file, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_mirror_by_argument_or_environment(server, make_record, cache, monkeypatch):
    record = make_record(url="http://127.0.0.1:9/weights.h5")
    fetch(record, base=f"{server.url}/a/", cache=cache, progress=False)
    monkeypatch.setenv("ZOO_URL", f"{server.url}/b")
    fetch(record, cache=cache / "2", progress=False)
    assert [request["path"] for request in server.requests] == ["/a/weights.h5", "/b/weights.h5"]


@pytest.mark.parametrize("form", ["path", "text", "url"])
def test_a_folder_as_mirror_is_used_in_place(server, make_record, cache, tmp_path, form):
    record = make_record(file="my weights.h5")
    file = tmp_path / "mirror" / "my weights.h5"
    file.parent.mkdir()
    file.write_bytes(server.contents)
    base = {"path": file.parent, "text": str(file.parent), "url": file.parent.as_uri()}[form]
    assert fetch(record, base=base, cache=cache) == file
    assert files_in(cache) == {}
    file.write_bytes(server.contents[:-1])
    fails_in_place = pytest.raises(WrongHashError, match="Put the published file there")
    with fails_in_place as caught:
        fetch(record, base=base, cache=cache)
    assert str(file) in str(caught.value)
    file.unlink()
    fails(DownloadError, record, cache, f"There is no file {file}", base=base)


def test_a_packaged_file_is_checked_too(server, make_record, monkeypatch, tmp_path):
    monkeypatch.setattr(fetching, "PACKAGED_FILES", tmp_path)
    record = make_record(url=None)
    (tmp_path / record.file).write_bytes(server.contents)
    assert fetch(record) == tmp_path / record.file
    (tmp_path / record.file).write_bytes(server.contents[:-1])
    with pytest.raises(WrongHashError, match="Install the package again"):
        fetch(record)
    (tmp_path / record.file).unlink()
    with pytest.raises(DownloadError, match=r"weights\.h5 of this package is missing.* again"):
        fetch(record)


def test_a_download_is_shown_as_one_line_where_there_is_no_terminal(
    server, make_record, cache, capfd
):
    record = make_record()
    fetch(record, cache=cache)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"Downloading resnet20.test from {record.url}\n"


def test_a_host_that_cannot_be_is_named(make_record, cache):
    with pytest.raises(DownloadError, match=r"label empty or too long.*Check the URL"):
        fetch(make_record(), base=f"http://{'a' * 70}.org", cache=cache, progress=False)


def test_a_password_is_not_shown(server, make_record, cache):
    server.answers = [server.status(404)]
    base = server.url.replace("http://", "http://me:secret@")
    with pytest.raises(DownloadError, match=r"http://\.\.\.@127.0.0.1:[0-9]+/weights.h5") as caught:
        fetch(make_record(), base=base, cache=cache, progress=False)
    assert "secret" not in str(caught.value)


def test_proxies_of_the_environment_are_used(server, make_record, cache, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    record = make_record(url="http://weights.example.org/weights.h5")
    fetch(record, cache=cache, progress=False)
    assert server.requests[0]["path"] == "http://weights.example.org/weights.h5"
