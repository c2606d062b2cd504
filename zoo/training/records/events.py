"""TensorBoard events: one file for each split, however often the run was resumed."""

import errno
import os
import time
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from zoo.training.records.metrics import Record
from zoo.training.storage import files

_SCALARS = ("loss", "accuracy", "learning_rate", "r_max", "d_max", "images_per_second")
_NAME = "events.out.tfevents."
_VERSION = "brain.Event:2"
#: What a record has beside its event: the length, 8 bytes, and a checksum of each, 4 bytes.
_RECORD_BYTES = 16


class EventLog:
    """Writes records as TensorBoard scalars, one curve for each split.

    Args:
        folder: For `tensorboard --logdir`; gets a folder for each split at its first record.
        step: The step that the run resumes from: events of later steps are dropped, since the run
            will write them again.

    Raises:
        OSError: When the folder cannot be read or written; it names the file.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        self._step = step
        self._files: dict[str, _EventFile] = {}
        folder.mkdir(exist_ok=True)

    def write(self, record: Record) -> None:
        """Adds a record to the curves of its split."""
        values = {name: getattr(record, name) for name in _SCALARS}
        self.scalars(
            record.split, record.step, {name: v for name, v in values.items() if v is not None}
        )

    def scalars(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Adds numbers to the curves of a split, by their names."""
        if split not in self._files:
            self._files[split] = _EventFile(self._folder / split, self._step)
        self._files[split].write(step, values)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()


class _EventFile:
    """A file of events that a resumed run continues.

    TensorFlow's own writer begins another file each time.

    Args:
        folder: The folder of the file, made if need be.
        step: Events of later steps are cut off.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(exist_ok=True)
        found = sorted(path for path in folder.iterdir() if path.name.startswith(_NAME))
        self._path = found[-1] if found else folder / f"{_NAME}{int(time.time())}.zoo"
        self._file = self._path.open("a+b")  # reading too, which `_kept` does
        kept = _kept(self._path, step) if found else 0
        with files.naming(self._path):
            self._file.truncate(kept)
        self._records = RecordWriter(self._file)
        if not kept:
            self._append(Event(wall_time=time.time(), file_version=_VERSION))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the numbers of a step."""
        summary = Summary()
        for name, value in values.items():
            summary.MergeFrom(scalar_pb(name, value))
        self._append(Event(wall_time=time.time(), step=step, summary=summary))

    def _append(self, event: Event) -> None:
        """Adds an event, which TensorBoard can read at once."""
        with files.naming(self._path):
            self._records.write(event.SerializeToString())
            self._records.flush()

    def close(self) -> None:
        """Closes the file."""
        with files.naming(self._path):
            self._file.close()


def _kept(path: Path, step: int) -> int:
    """Returns how many bytes of a file hold events up to a step, whole and undamaged."""
    end = 0
    # It compares the checksums, as TensorBoard does, which reads nothing behind what is damaged.
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    try:
        for record in records:
            if Event.FromString(record).step > step:
                break
            end += len(record) + _RECORD_BYTES
    except (tf.errors.DataLossError, DecodeError):
        pass
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, error.message, os.fspath(path)) from error
    return end
