"""TensorBoard events."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from zoo.errors import UserError
from zoo.training.records.metrics import Record

_SCALARS = ("loss", "accuracy", "learning_rate", "r_max", "d_max", "images_per_second")


class EventLog:
    """Writes records as TensorBoard scalars, one curve for each split.

    What an interrupted run wrote after its last checkpoint stays and is written again with the
    same values, since the run is resumed bit-exactly.

    Args:
        folder: For `tensorboard --logdir`; gets a folder for each split.

    Raises:
        UserError: When the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with self._users_errors():
            self._writers = {
                split: tf.summary.create_file_writer(str(folder / split))
                for split in ("train", "test")
            }

    @contextlib.contextmanager
    def _users_errors(self) -> Iterator[None]:
        """Turns TensorFlow's errors: the folder is a file, the disk is full."""
        try:
            yield
        except tf.errors.OpError as error:
            raise UserError(f"{self._folder} cannot be written: {_reason(error)}") from error

    def write(self, record: Record) -> None:
        """Adds a record to the curves of its split.

        Raises:
            UserError: When the folder cannot be written.
        """
        writer = self._writers[record.split]
        with self._users_errors(), writer.as_default(step=record.step):
            for name in _SCALARS:
                value = getattr(record, name)
                if value is not None:
                    tf.summary.scalar(name, value)
            writer.flush()

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()


def _reason(error: tf.errors.OpError) -> str:
    """Returns the first line of an error without the names of TensorFlow's functions."""
    line = error.message.partition("\n")[0]
    return re.sub(r"^\{\{.*?\}\} | \[Op:.*$", "", line)
