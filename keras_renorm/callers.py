"""Warnings at the user's own line."""

import inspect
import warnings
from types import FrameType

#: What lies between a user's line and a warning of this package: itself, Keras and its backends,
#: and the parts of the standard library that call others.
_BETWEEN = frozenset(
    (
        *("keras_renorm", "keras", "tensorflow", "jax", "torch"),
        *("concurrent", "contextlib", "functools", "threading"),
    )
)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns as if the innermost line outside this package, Keras and its backends did.

    There a user can mend what is warned of, and Python shows the warning once per such line.

    Args:
        message: What to say.
        category: The kind of warning.
    """
    own = found = inspect.currentframe()
    while found is not None and _is_between(found):
        found = found.f_back
    frame = found or own  # a thread of a library's has no line of the user's
    assert frame is not None
    try:
        warnings.warn_explicit(
            message,
            category,
            frame.f_code.co_filename,
            frame.f_lineno,
            module=frame.f_globals.get("__name__"),
            registry=frame.f_globals.setdefault("__warningregistry__", {}),
        )
    finally:
        # A frame among its own locals would keep those of all its callers alive, as models are.
        del own, found, frame


def _is_between(frame: FrameType) -> bool:
    """Whether a frame is a library's, or in a file that TensorFlow made of the user's."""
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    return package in _BETWEEN or "__autograph_generated_file" in frame.f_code.co_filename
