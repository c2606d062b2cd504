"""One sentence for a file that cannot be written, whoever writes it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from zoo.errors import UserError, reason

_OF_FILES = (
    tf.errors.FailedPreconditionError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    tf.errors.PermissionDeniedError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnknownError,
)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what a full disk raises in the body into a `UserError` that names a file.

    Python, HDF5 and TensorFlow raise errors of their own, about temporary files. Errors of a
    program that runs in the body stay as they are.

    Args:
        path: The file or folder that the user knows.

    Yields:
        Nothing.

    Raises:
        UserError: When the body cannot write.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error).partition("\n")[0]
        raise UserError(f"{path} cannot be written: {why}.") from error
    except _OF_FILES as error:
        # TensorFlow says FILE; REASON.
        why = reason(error.message).rpartition("; ")[2]
        raise UserError(f"{path} cannot be written: {why}.") from error
