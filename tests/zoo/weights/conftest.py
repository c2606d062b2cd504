"""A server on loopback that behaves as the test says, and a record of what it has."""

import hashlib
import http.server
import threading

import numpy as np
import pytest

from zoo.weights import download
from zoo.weights.record import Record


class Server(http.server.ThreadingHTTPServer):
    """Answers each request with the next of `answers`; the last one answers all further ones."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = [self.file()]
        self.requests = []
        self.contents = b""
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def next_answer(self, headers):
        with self.lock:
            self.requests.append(headers)
            return self.answers[min(len(self.requests), len(self.answers)) - 1]

    @staticmethod
    def file(*, ranges=True, etag='"1"', cut=None, length=True, pause=None, contents=None):
        """An answer with the server's file.

        Args:
            ranges: Whether the server knows of ranges.
            etag: Version of the file.
            cut: Bytes after which the connection is cut.
            length: Whether the length is said.
            pause: Called before the first byte.
            contents: Another file.
        """

        def answer(handler):
            data = handler.server.contents if contents is None else contents
            asked = handler.headers.get("Range")
            same = handler.headers.get("If-Range", etag) == etag
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            if asked and ranges and same and start >= len(data):
                handler.head(416, Content_Range=f"bytes */{len(data)}", Content_Length=0)
                return
            headers = {"ETag": etag}
            if asked and ranges and same:
                status, body = 206, data[start:]
                headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            else:
                status, body = 200, data
            if length:
                headers["Content_Length"] = len(body)
            handler.head(status, **headers)
            if pause:
                pause()
            handler.wfile.write(body[:cut])

        return answer

    @staticmethod
    def status(code, **headers):
        """An answer without a file."""
        return lambda handler: handler.head(code, Content_Length=0, **headers)

    def handle_error(self, request, client_address):
        """A client that hangs up is part of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.next_answer(dict(self.headers) | {"path": self.path})(self)
        self.close_connection = True

    def log_message(self, *arguments):
        pass

    def head(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    with Server() as running:
        running.contents = np.random.default_rng(0).bytes(300_000)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def make_record(server):
    """Makes the record of the server's file."""

    def make(**changes):
        known = {
            "name": "resnet20.test",
            "file": "weights.h5",
            "url": f"{server.url}/weights.h5",
            "hash": hashlib.sha256(server.contents).hexdigest(),
            "bytes": len(server.contents),
            "parameters": len(server.contents) // 4,
            "dataset": "none",
            "input_shape": (32, 32, 3),
            "preprocessing": "unit",
            "num_classes": 10,
            "licence": "Apache-2.0",
            "origin": "a test",
        }
        return Record(**(known | changes))

    return make


@pytest.fixture(autouse=True)
def no_home(monkeypatch, tmp_path):
    """Nobody's cache is read or written."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ZOO_URL", raising=False)
