import dataclasses

import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from zoo.training.events import EventLog
from zoo.training.metrics import Record

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
