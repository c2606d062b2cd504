"""Checks of the arguments that models have in common."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any


def positive_integer(name: str, value: Any) -> int:
    """Returns `value` as an int.

    Args:
        name: Name of the argument, for the message.
        value: What was received.

    Returns:
        The same number.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is not positive.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`{name}` must be an integer of 1 or more, received {value!r}.")
    if value < 1:
        raise ValueError(f"`{name}` must be an integer of 1 or more, received {value}.")
    return int(value)


def positive_integers(name: str, values: Any, *, example: str) -> tuple[int, ...]:
    """Returns `values` as a tuple of ints.

    Args:
        name: Name of the argument, for the message.
        values: What was received.
        example: What to write instead, for the message.

    Returns:
        The same numbers.

    Raises:
        TypeError: If it is not a sequence of integers.
        ValueError: If one of them is not positive.
    """
    wanted = f"`{name}` must be integers of 1 or more, such as {example}, received {values!r}."
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(wanted)
    numbers = tuple(values)
    if any(isinstance(n, bool) or not isinstance(n, Integral) for n in numbers):
        raise TypeError(wanted)
    if any(n < 1 for n in numbers):
        raise ValueError(wanted)
    return tuple(int(n) for n in numbers)
