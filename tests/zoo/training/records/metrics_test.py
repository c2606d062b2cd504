import json
import os
import re

import pytest

from zoo.errors import UserError
from zoo.training.records import metrics


def record(step, split="train", loss=0.1):
    return metrics.Record(
        step=step,
        split=split,
        loss=loss,
        accuracy=0.75,
        learning_rate=0.02,
        r_max=3.0,
        d_max=None,
        images_per_second=1e4,
        seconds=1.5,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_a_line_is_a_json_object(path):
    with metrics.MetricsLog(path, 0) as log:
        log.write(record(10))
        log.sync()
        assert json.loads(path.read_text()) == {
            "step": 10,
            "split": "train",
            "loss": 0.1,
            "accuracy": 0.75,
            "learning_rate": 0.02,
            "r_max": 3.0,
            "d_max": None,
            "images_per_second": 1e4,
            "seconds": 1.5,
        }


def test_a_resumed_log_drops_what_will_be_written_again(path):
    with metrics.MetricsLog(path, 0) as log:
        for step in (10, 20, 30):
            log.write(record(step))
    with metrics.MetricsLog(path, 20) as log:
        log.write(record(30, "test"))
    assert metrics.read(path) == [record(10), record(20), record(30, "test")]


def test_an_evaluation_that_is_done_again_adds_the_record_that_was_lost(path):
    for splits in (["test"], ["test", "test_averaged"]):
        with metrics.MetricsLog(path, 20) as log:
            for split in splits:
                log.write(record(20, split))
    assert metrics.read(path) == [record(20, "test"), record(20, "test_averaged")]


def test_a_line_that_was_cut_off_is_left_out(path):
    path.write_text(json.dumps(vars(record(10))) + '\n{"step": 2')
    assert metrics.read(path) == [record(10)]
    with metrics.MetricsLog(path, 10) as log:
        log.write(record(20))
    assert metrics.read(path) == [record(10), record(20)]


WITH_A_WORD = json.dumps(vars(record(20)) | {"loss": "high"}).encode()


@pytest.mark.parametrize("line", [b"{", b'{"step": 1}', b"[]", b'{"step": "\xff"}', WITH_A_WORD])
def test_another_damaged_line_is_named(path, line):
    path.write_bytes(json.dumps(vars(record(10))).encode() + b"\n" + line + b"\n")
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: line 2 is damaged: "):
        metrics.read(path)


def test_a_damaged_line_is_left_out_of_a_resumed_run(path):
    line = json.dumps(vars(record(10))).encode()
    path.write_bytes(b"\xff{\n" + line + b"\n")
    problems = []
    assert metrics.read(path, problems.append) == [record(10)]
    assert len(problems) == 1
    assert re.match(
        rf"{re.escape(str(path))}: line 1 is damaged: .*; it is left out\.", problems[0]
    )
    with metrics.MetricsLog(path, 10) as log:
        log.write(record(20))
    assert metrics.read(path) == [record(10), record(20)]


def test_a_missing_file_has_no_records(path):
    assert metrics.read(path) == []


def test_a_pipe_is_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))} is no file: move it away"):
        metrics.read(path)


def test_evaluations_are_the_records_of_the_test_set(path):
    with metrics.MetricsLog(path, 0) as log:
        log.write(record(10))
        with pytest.raises(UserError, match=f"^{re.escape(str(path))} holds no evaluation: "):
            metrics.read_evaluations(path)
        log.write(record(20, "test"))
    assert metrics.read_evaluations(path) == [[record(20, "test")]]


def test_a_loss_that_is_not_finite_is_not_written(path):
    with metrics.MetricsLog(path, 0) as log, pytest.raises(ValueError, match="received nan"):
        log.write(record(10, loss=float("nan")))
    assert path.read_text() == ""
