"""Checks of the arguments that models have in common."""

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

from zoo.errors import nearest


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


def positive_integers(
    name: str, values: Any, *, example: str, unknown: bool = False
) -> tuple[Any, ...]:
    """Returns `values` as a tuple of ints.

    Args:
        name: Name of the argument, for the message.
        values: What was received.
        example: What to write instead, for the message.
        unknown: Whether a value may be None.

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
    known = [n for n in numbers if not (unknown and n is None)]
    if any(isinstance(n, bool) or not isinstance(n, Integral) for n in known):
        raise TypeError(wanted)
    if any(n < 1 for n in known):
        raise ValueError(wanted)
    return tuple(None if n is None else int(n) for n in numbers)


def choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """Returns `value`.

    Args:
        name: Name of the argument, for the message.
        value: What was received.
        choices: What is allowed.

    Returns:
        The same value.

    Raises:
        ValueError: If it is not one of the choices.
    """
    if value not in choices:
        allowed = ", ".join(map(repr, choices))
        words = [c for c in choices if isinstance(c, str)]
        hint = nearest(value, words) if isinstance(value, str) else ""
        raise ValueError(f"`{name}` must be one of {allowed}, received {value!r}.{hint}")
    return value


def fraction(name: str, value: Any) -> float:
    """Returns `value` as a float.

    Args:
        name: Name of the argument, for the message.
        value: What was received.

    Returns:
        The same number.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not in [0, 1).
    """
    wanted = f"`{name}` must be a number of at least 0 and below 1, received {value!r}."
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(wanted)
    number = float(value)
    if not 0 <= number < 1:
        raise ValueError(wanted)
    return number
