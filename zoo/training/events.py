"""TensorBoard events."""

from pathlib import Path

import tensorflow as tf

from zoo.training.metrics import Record

_SCALARS = ("loss", "accuracy", "learning_rate", "r_max", "d_max", "images_per_second")


class EventLog:
    """Writes records as TensorBoard scalars, one curve for each split.

    What an interrupted run wrote after its last checkpoint stays and is written again with the
    same values, since the run is resumed bit-exactly.

    Args:
        folder: For `tensorboard --logdir`; gets a folder for each split.
    """

    def __init__(self, folder: Path) -> None:
        self._writers = {
            split: tf.summary.create_file_writer(str(folder / split)) for split in ("train", "test")
        }

    def write(self, record: Record) -> None:
        """Adds a record to the curves of its split."""
        writer = self._writers[record.split]
        with writer.as_default(step=record.step):
            for name in _SCALARS:
                value = getattr(record, name)
                if value is not None:
                    tf.summary.scalar(name, value)
        writer.flush()

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()
