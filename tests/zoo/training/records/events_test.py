import dataclasses
import re

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorflow.core.util import event_pb2

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
    log = EventLog(tmp_path, 0)
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


def steps(folder):
    return sorted({step for step, _ in scalars(folder)})


@pytest.mark.parametrize("damage", [b"", b"\x07", b"\xff" * 40, bytes(64)])
def test_a_resumed_run_goes_on_with_its_files(tmp_path, damage):
    log = EventLog(tmp_path, 0)
    for step in (10, 20, 30):
        log.write(dataclasses.replace(TRAIN, step=step))
    log.close()
    (path,) = (tmp_path / "train").iterdir()
    path.write_bytes(path.read_bytes() + damage)

    log = EventLog(tmp_path, 20 if not damage else 30)
    log.write(dataclasses.replace(TRAIN, step=40))
    log.close()
    assert steps(tmp_path / "train") == ([10, 20, 40] if not damage else [10, 20, 30, 40])
    with_tensorboard = EventFileLoader(str(path))
    assert [event.step for event in with_tensorboard.Load()][1:] == steps(tmp_path / "train")


def test_an_event_that_has_changed_ends_what_is_kept(tmp_path):
    log = EventLog(tmp_path, 0)
    for step in (10, 20, 30):
        log.write(dataclasses.replace(TRAIN, step=step))
    log.close()
    (path,) = (tmp_path / "train").iterdir()
    content = path.read_bytes()
    place = content.rindex(b"loss")
    path.write_bytes(content[:place] + b"lass" + content[place + 4 :])
    log = EventLog(tmp_path, 30)
    log.write(dataclasses.replace(TRAIN, step=40))
    log.close()
    assert steps(tmp_path / "train") == [10, 20, 40]


def test_a_file_of_another_kind_is_begun_anew(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "events.out.tfevents.1").write_bytes(b"no events " * 9)
    log = EventLog(tmp_path, 20)
    log.write(TRAIN)
    log.close()
    assert steps(tmp_path / "train") == [10]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    path = tmp_path / "tensorboard"
    path.touch()
    with pytest.raises(FileExistsError, match=re.escape(str(path))):
        EventLog(path, 0)


def test_a_full_disk_is_named(run_warm_python, tmp_path):
    done = run_warm_python(
        "import pathlib, resource\n"
        "from zoo.training.records.events import EventLog\n"
        "from zoo.training.records.metrics import Record\n"
        f"log = EventLog(pathlib.Path({str(tmp_path)!r}), 0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))\n"
        "try:\n"
        f"    for step in range(9): log.write({TRAIN!r})\n"
        "except OSError as error:\n"
        "    print(error.strerror, error.filename)\n"
    )
    assert done.stdout.startswith(f"File too large {tmp_path}/train/events")
