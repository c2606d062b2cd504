import pytest

from zoo.weights import hashes
from zoo.weights.errors import WrongHashError

# Hashes of the four bytes "abc\\n", as sha256sum and md5sum print them.
SHA256 = "edeaaff3f1774ad2888673770c6d64097e391bc362d7d6fb34982ddf0efd18cb"
MD5 = "0bee89b07a248e27c83fc3d5951213c1"


@pytest.fixture
def opened(tmp_path):
    """Opens a file with these contents."""
    files = []

    def make(contents):
        (tmp_path / "file").write_bytes(contents)
        files.append((tmp_path / "file").open("rb"))
        return files[-1]

    yield make
    for file in files:
        file.close()


@pytest.mark.parametrize(("kind", "digest"), [("sha256", SHA256), ("md5", MD5)])
def test_a_hash_is_of_the_whole_file_which_is_rewound(opened, make_record, kind, digest):
    file = opened(b"abc\n")
    file.read(2)
    assert hashes.hash_of(file, kind) == digest
    assert file.read() == b"abc\n"
    assert hashes.matches(make_record(hash_kind=kind, hash=digest), file)
    assert not hashes.matches(make_record(hash_kind=kind, hash=digest[::-1]), file)


def test_another_file_is_described(opened, make_record, tmp_path):
    record = make_record(hash="0" * 64, bytes=5000)
    with pytest.raises(WrongHashError) as caught:
        hashes.check(record, opened(b"abc\n"), tmp_path / "file", "Try again.")
    assert str(caught.value) == (
        f"The file {tmp_path / 'file'} is not the published resnet20.test: expected sha256 "
        f"{'0' * 64} and 5,000 bytes, got sha256 {SHA256} and 4 bytes. Nothing was loaded. "
        "Try again."
    )
    hashes.check(make_record(hash=SHA256), opened(b"abc\n"), tmp_path, "")


def test_a_web_page_is_recognised(opened, make_record):
    assert hashes.difference(make_record(), opened(b" <!DOCTYPE html>")).endswith(", a web page")
