import os

import pytest

from zoo.weights.download import Transfer
from zoo.weights.errors import DownloadError


@pytest.fixture
def transfer(server, tmp_path):
    """Makes a transfer of the server's file to a new file, or to one with a beginning."""
    descriptors = []

    def make(beginning=b"", **options):
        path = tmp_path / "file"
        path.write_bytes(beginning)
        descriptors.append(os.open(path, os.O_RDWR | os.O_APPEND))
        return path, Transfer(server.url, descriptors[-1], **({"max_bytes": 10**6} | options))

    yield make
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_file_arrives_and_is_shown(server, transfer):
    seen = []
    path, running = transfer(show=lambda done, total: seen.append((done, total)))
    running.run()
    assert path.read_bytes() == server.contents
    assert (running.done, running.joined) == (len(server.contents), False)
    assert seen[0] == (0, len(server.contents))
    assert seen[-1] == (len(server.contents), len(server.contents))


def test_only_what_is_missing_is_asked_for(server, transfer):
    path, running = transfer(server.contents[:1000])
    running.run()
    assert path.read_bytes() == server.contents
    assert running.joined
    assert server.requests[0]["Range"] == "bytes=1000-"


def test_what_is_there_can_be_thrown_away(transfer):
    path, running = transfer(b"x" * 1000)
    running.restart()
    assert (path.read_bytes(), running.done, running.joined) == (b"", 0, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 1000}, "expected at most 1,000 bytes, got a file of 300,000 bytes"),
        ({"bytes": 1000}, "expected 1,000 bytes, got a file of 300,000 bytes"),
    ],
)
def test_another_size_is_refused(transfer, options, message):
    path, running = transfer(**options)
    with pytest.raises(DownloadError, match=message):
        running.run()
    assert path.read_bytes() == b""
