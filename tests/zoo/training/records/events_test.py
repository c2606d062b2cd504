import dataclasses

import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from zoo.errors import UserError
from zoo.training.records.events import EventLog
from zoo.training.records.metrics import Record

TRAIN = Record(10, "train", 0.5, 0.25, 0.02, 3.0, 5.0, 1e4, 1.0)
TEST = dataclasses.replace(TRAIN, split="test", loss=0.75, r_max=None, d_max=None)


def scalars(folder):
    (path,) = folder.iterdir()
    events = [
        event_pb2.Event.FromString(data.numpy()) for data in tf.data.TFRecordDataset(str(path))
    ]
    return {
        (event.step, value.tag): float(tf.make_ndarray(value.tensor))
        for event in events
        for value in event.summary.value
    }


def test_each_split_has_its_curves(tmp_path):
    log = EventLog(tmp_path)
    log.write(TRAIN)
    log.write(TEST)
    log.close()
    found = scalars(tmp_path / "train")
    assert found == pytest.approx(
        {
            (10, "loss"): 0.5,
            (10, "accuracy"): 0.25,
            (10, "learning_rate"): 0.02,
            (10, "r_max"): 3.0,
            (10, "d_max"): 5.0,
            (10, "images_per_second"): 1e4,
        }
    )
    found = scalars(tmp_path / "test")
    assert found[10, "loss"] == 0.75
    assert (10, "r_max") not in found


def test_a_file_in_the_place_of_the_folder_is_a_users_error(tmp_path):
    path = tmp_path / "tensorboard"
    path.touch()
    with pytest.raises(UserError, match=rf"^{path} cannot be written: {path} is not a directory$"):
        EventLog(path)


def test_a_full_disk_is_a_users_error(run_python, tmp_path):
    done = run_python(
        "import pathlib, resource\n"
        "from zoo.errors import UserError\n"
        "from zoo.training.records.events import EventLog\n"
        "from zoo.training.records.metrics import Record\n"
        f"log = EventLog(pathlib.Path({str(tmp_path)!r}))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))\n"
        "try:\n"
        f"    for step in range(9): log.write({TRAIN!r})\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    assert done.stdout.startswith(f"{tmp_path} cannot be written: {tmp_path}/train/events")
    assert done.stdout.endswith("; File too large\n")
