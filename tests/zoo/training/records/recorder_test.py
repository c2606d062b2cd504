"""The records that a training leaves."""

import json

import pytest


def test_the_records_are_complete_and_tell_the_schedules(records, finished_run):
    workdir, _ = finished_run
    found = records(workdir)
    train = [record for record in found if record["split"] == "train"]
    test = [record for record in found if record["split"] == "test"]
    assert [record["step"] for record in train] == [*range(7, 120, 7), 120]
    assert [record["step"] for record in test] == [50, 100, 120]
    at_14 = train[1]
    assert at_14["learning_rate"] == pytest.approx(0.02 * 13 / 20)
    assert at_14["r_max"] == pytest.approx(1 + 2 * (14 - 10) / (1050 - 10))
    assert at_14["d_max"] == pytest.approx(5 * (14 - 10) / (750 - 10))
    assert test[-1]["accuracy"] > 0.2  # Chance is 0.1.


def test_the_speed_is_that_of_the_clock(finished_run):
    workdir, _ = finished_run
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    # 7 steps of 20 images.
    took = sum(140 / line["images_per_second"] for line in lines[:-2] if line["split"] == "train")
    assert 0 < took < seconds[-1]
