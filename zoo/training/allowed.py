"""What values of config keys may be, in words and as a question."""

from collections.abc import Callable
from typing import Any, NamedTuple

LARGEST_INT = 2**31 - 1
"""TensorFlow counts in 32 bits here and there."""


class Allowed(NamedTuple):
    """What a key takes: in words, as a question, and as the list of strings if it is one."""

    words: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def one_of(*choices: str, path: bool = False) -> Allowed:
    """Returns what allows these strings, and perhaps an import path."""

    def holds(value: str) -> bool:
        return value in choices or (path and ":" in value)

    return Allowed(f"one of {', '.join(choices)}", holds, choices)


ABOVE_0 = Allowed("above 0", lambda value: value > 0)
AT_LEAST_0 = Allowed("at least 0", lambda value: value >= 0)
AT_LEAST_1 = Allowed("at least 1", lambda value: value >= 1)
ASPECTS = Allowed("from 1 to 1000", lambda value: 1 <= value <= 1000)
BELOW_1 = Allowed("at least 0 and below 1", lambda value: 0 <= value < 1)
TO_1 = Allowed("from 0 to 1", lambda value: 0 <= value <= 1)
INSIDE = Allowed("above 0 and below 1", lambda value: 0 < value < 1)
SHARES = Allowed("above 0 and at most 1", lambda value: 0 < value <= 1)
SIZES = Allowed("from 0 to 8192", lambda value: 0 <= value <= 8192)
CHANNELS = Allowed("0, 1 or 3", (0, 1, 3).__contains__)
SEEDS = Allowed(f"from 0 to {LARGEST_INT}", lambda value: 0 <= value <= LARGEST_INT)
