"""A key of a training config: its default, what it may be, and how it is described."""

import dataclasses
import json
import math
import textwrap
from collections.abc import Callable
from typing import Any

from zoo.errors import UserError, nearest
from zoo.training.allowed import LARGEST_INT, Allowed

# TensorFlow computes in float32, in which smaller numbers are 0.
_LARGEST_FLOAT = 3.4028235e38
_LEAST_FLOAT = 1.1754944e-38
_TYPES: dict[type, tuple[Any, str]] = {
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    bool: (bool, "true or false"),
    str: (str, "a string"),
}
_HELP_COLUMNS = 98
_A_TIME = "a number of steps, or a share of num_steps such as 0.05"


def rounded_up(steps: float) -> int:
    """Rounds a time up, to at least one step."""
    return max(math.ceil(steps), 1)


def rounded_down(steps: float) -> int:
    """Rounds a time down, to at least one step: 0 would mean never."""
    return max(math.floor(steps), 1)


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of the config.

    Attributes:
        name: As in `--config.NAME=VALUE`.
        default: Its value unless a recipe sets another. None means not given.
        help: What it is, for `--help`.
        allowed: What values it takes; None where other code checks them.
        time: How a time given as a share of num_steps (with a point) is rounded to steps; None for
            keys that are no times.
        optional: The type of a value that may be None; None for other keys.
        only: Another key, and its values with which this one has an effect.
        free: Whether a run may be resumed with another value: the key changes none of its numbers.
    """

    name: str
    default: Any
    help: str = ""
    allowed: Allowed | None = None
    time: Callable[[float], int] | None = None
    optional: type | None = None
    only: tuple[str, tuple[Any, ...]] | None = None
    free: bool = False

    @property
    def kind(self) -> type:
        """The type of its values."""
        if self.default is None:
            return self.optional or str
        return type(self.default)

    @property
    def type_name(self) -> str:
        """What a value must be, in words."""
        return _A_TIME if self.time else _TYPES[self.kind][1]

    @property
    def condition(self) -> str:
        """When it has an effect, as `norm=batch_renorm or batch_norm`."""
        other, values = self.only or ("", ())
        return f"{other}={' or '.join(map(str, values))}"

    @property
    def written(self) -> str:
        """Its default, as Python writes it."""
        return json.dumps(self.default) if isinstance(self.default, str) else str(self.default)

    @property
    def comment(self) -> str:
        """What it is, what it takes, and when it has an effect, in a line."""
        words = [self.help] if self.help else []
        words += ["A share, or steps."] if self.time else []
        words += [f"{self.allowed.words.capitalize()}."] if self.allowed else []
        words += [f"For {self.condition}."] if self.only else []
        return " ".join(words)

    def described(self) -> str:
        """Returns its default, and below it the comment."""
        indent = " " * 4
        below = textwrap.fill(
            self.comment,
            _HELP_COLUMNS,
            initial_indent=indent,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
        return f"{self.name} = {self.written}\n{below}"

    def check_type(self, value: Any, label: str) -> None:
        """Raises a `UserError` when a value has another type, or is too large.

        Args:
            value: What was received.
            label: What the message calls the key.
        """
        if value is None and self.default is None:
            return
        # To Python, True is a whole number.
        allowed = isinstance(value, bool) == (self.kind is bool)
        if not allowed or not isinstance(value, int | float if self.time else _TYPES[self.kind][0]):
            raise UserError(f"{label} must be {self.type_name}, received {value!r}.")
        if self.time and isinstance(value, float) and not 0 <= value <= 1:
            raise UserError(f"{label} must be from 0 to 1 as a share, received {value}.")
        if isinstance(value, int) and value > LARGEST_INT and self.kind is int:
            raise UserError(f"{label} must be at most {LARGEST_INT}, received {value}.")
        if self.kind is float and not abs(value) <= _LARGEST_FLOAT:
            raise UserError(
                f"{label} must be finite and at most {_LARGEST_FLOAT:g}, received {value}."
            )
        if self.kind is float and 0 < abs(value) < _LEAST_FLOAT:
            raise UserError(
                f"{label} must be 0 or at least {_LEAST_FLOAT:g}, received {value}, which is 0 in "
                "float32."
            )

    def read(self, text: str) -> Any:
        """Returns the value that a text of the command line means.

        A time with a point is a share, and `None` takes back what a recipe gives.

        Args:
            text: What was received.

        Raises:
            UserError: When the text means no value.
        """
        if text == "None" and self.default is None:
            return None
        try:
            value = read_time(text) if self.time else self.kind(text)
        except ValueError:
            value = None
        if value is None:
            raise UserError(f"--config.{self.name} must be {self.type_name}, received {text!r}.")
        return value

    def check(self, value: Any) -> None:
        """Raises a `UserError` when a value has another type, or is not allowed."""
        self.check_type(value, f"--config.{self.name}")
        if value is not None and self.allowed and not self.allowed.holds(value):
            raise UserError(
                f"--config.{self.name} must be {self.allowed.words}, received {value!r}."
                f"{nearest(str(value), self.allowed.choices)}"
            )


def read_time(text: str) -> int | float | None:
    """Returns the time that a text means: steps, or a share where it has a point; None if none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
