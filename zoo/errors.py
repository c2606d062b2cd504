"""The exceptions that mean: the person at the keyboard can mend this."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """A mistake that the user of a program can mend, with a message written for them.

    `zoo.training.cli.program` prints the message as one line on stderr and exits with status 2, as
    it does for an `OSError`. Any other exception is a defect of the package, and keeps its
    traceback.
    """


class WorkerLostError(UserError):
    """Another worker of the run is gone, so that this one must end, too, and quickly."""


class DivergedError(UserError):
    """A training whose loss is not finite."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` for the allowed word closest to `word`, or an empty string.

    Args:
        word: What was received.
        allowed: What could have been meant.

    Returns:
        A sentence to append to an error message; empty when nothing is close.
    """
    words = list(allowed)
    matches = difflib.get_close_matches(word, words, n=len(words) or 1)
    if not matches:
        return ""

    def closeness(match: str) -> tuple[float, int]:
        # resnet20 and resnet32 have as much in common with resnet21: it is the first.
        matcher = difflib.SequenceMatcher(None, match, word)
        return matcher.ratio(), matcher.find_longest_match().size

    return f" Did you mean {max(matches, key=closeness)!r}?"


def reason(message: str) -> str:
    """Returns the first line of a TensorFlow message, without the names of its functions."""
    line = message.strip().partition("\n")[0]
    return re.sub(r"^\{\{.*?\}\} | \[Op:.*$", "", line)


@contextlib.contextmanager
def as_user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turns exceptions of the given kinds into a `UserError` with the same message.

    Put it around one call whose messages are written for users, never around a whole program.

    Args:
        *kinds: The exception classes to turn.

    Yields:
        Nothing.

    Raises:
        UserError: When the body raises one of `kinds`.
    """
    try:
        yield
    except kinds as error:
        raise UserError(str(error)) from error
