import re

import pytest

from zoo.errors import UserError
from zoo.training.allowed import ABOVE_0, one_of
from zoo.training.key import Key, read_time


def test_a_key_is_described_with_its_default_first():
    key = Key("rate", 0.1, "Of the run.", ABOVE_0, time=round, only=("kind", ("a", "b")))
    assert key.described() == (
        "rate = 0.1\n    Of the run. A share, or steps. Above 0. For kind=a or b."
    )


def test_a_long_comment_is_wrapped():
    lines = Key("a", "x", "words and " * 30).described().splitlines()
    assert lines[0] == 'a = "x"'
    assert all(line.startswith(("    w", "    a")) for line in lines[1:])
    assert 80 < max(map(len, lines)) <= 98


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x", "--config.k must be one of left, right, received 'x'."),
        ("lft", "--config.k must be one of left, right, received 'lft'. Did you mean 'left'?"),
        (3, "--config.k must be a string, received 3."),
        (None, "--config.k must be a string, received None."),
    ],
)
def test_a_string_must_be_a_choice(value, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        Key("k", "left", "", one_of("left", "right")).check(value)


@pytest.mark.parametrize(
    ("text", "time"), [("100", 100), ("0.05", 0.05), ("1.0", 1.0), ("1e-3", 1e-3), ("soon", None)]
)
def test_a_time_has_a_point_if_it_is_a_share(text, time):
    read = read_time(text)
    assert (type(read), read) == (type(time), time)
