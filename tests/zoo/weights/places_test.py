from pathlib import Path

import pytest

from zoo.weights import places
from zoo.weights.errors import WeightsError


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"ZOO_HOME": "/a"}, "/a/weights"),
        ({"ZOO_HOME": "~/a"}, "~/a/weights"),
        ({"ZOO_HOME": "/a", "XDG_CACHE_HOME": "/b"}, "/a/weights"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/keras_renorm/weights"),
        ({"XDG_CACHE_HOME": "relative"}, "~/.cache/keras_renorm/weights"),
        ({}, "~/.cache/keras_renorm/weights"),
    ],
)
def test_the_cache_folder(monkeypatch, variables, folder):
    for name in ("ZOO_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert places.cache_folder() == Path(folder).expanduser()


def test_the_publisher_is_asked_unless_there_is_a_mirror(make_record):
    record = make_record(url="https://example.org/x/weights.h5")
    assert places.location(record) == record.url
    assert places.location(record, "https://m.org/zoo/") == "https://m.org/zoo/weights.h5"
    assert places.location(record, "~/zoo") == Path("~/zoo/weights.h5").expanduser()
    assert places.location(record, "file:///a%20b") == Path("/a b/weights.h5")
    assert places.location(record, "file://localhost/a") == Path("/a/weights.h5")


@pytest.mark.parametrize(
    "base", ["ftp://example.org", "http://", "file://host/a", "s3://bucket/x", "http://[::1"]
)
def test_other_mirrors_are_refused(make_record, base):
    with pytest.raises(WeightsError, match="must be an http:// or https:// URL, a file:// URL or"):
        places.location(make_record(), base)
