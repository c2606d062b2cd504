"""Warnings at the user's own line."""

import inspect
import traceback
import warnings
from types import FrameType

#: What lies between a user's line and a warning of this package: itself, Keras and its backends,
#: and the parts of the standard library that call others.
_BETWEEN = frozenset(
    ("keras_renorm", "keras", "tensorflow", "jax", "torch", "contextlib", "functools", "threading")
)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns as if the innermost line outside this package, Keras and its backends did.

    There a user can mend what is warned of, and Python shows the warning once per such line.

    Args:
        message: What to say.
        category: The kind of warning.
    """
    frames = [frame for frame, _ in traceback.walk_stack(inspect.currentframe())]
    # A thread of a library's has no line of the user's.
    frame = next((frame for frame in frames if not _is_between(frame)), frames[0])
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _is_between(frame: FrameType) -> bool:
    """Whether a line is none that a user wrote, as those of the files that TensorFlow writes."""
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    return package in _BETWEEN or "__autograph_generated_file" in frame.f_code.co_filename
