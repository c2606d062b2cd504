"""What a training leaves behind, and what it is resumed from."""

import re
import shutil

import keras
import numpy as np
import pytest

import keras_renorm


def test_the_model_gives_probabilities_and_holds_its_schedule(finished_run):
    workdir, _ = finished_run
    model = keras.saving.load_model(workdir / "model.keras", compile=False)
    probabilities = model.predict(np.zeros((3, 28, 28, 1)), verbose=0)
    assert probabilities.shape == (3, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    layer = model.get_layer("hidden1_norm")
    assert isinstance(layer, keras_renorm.layers.BatchRenormalization)
    assert int(layer.update_count) == 120


def test_two_checkpoints_and_the_events_are_kept(checkpoints, finished_run):
    workdir, _ = finished_run
    assert checkpoints(workdir) == [110, 120]
    events = [path.parent.name for path in (workdir / "tensorboard").rglob("*tfevents*")]
    assert sorted(events) == ["test", "train"]
    assert not list(workdir.rglob(".tmp-*"))


@pytest.mark.slow
def test_a_run_saves_by_time_and_keeps_what_was_asked_for(
    records, checkpoints, run_program, tiny_arguments, tmp_path
):
    done = run_program(
        "zoo.train",
        f"--workdir={tmp_path}",
        *tiny_arguments,
        "--config.checkpoint_every_steps=1000",
        "--config.checkpoint_every_minutes=1e-5",
        "--config.keep_every_steps=40",
        "--config.keep_checkpoints=3",
        "--config.keep_best",
    )
    assert (done.returncode, done.stderr) == (0, "")
    tests = [record for record in records(tmp_path) if record["split"] == "test"]
    best = max(tests, key=lambda record: record["accuracy"])["step"]
    kept = checkpoints(tmp_path)
    assert {40, 80, 120, best} <= set(kept)
    assert kept[-1] == 120
    assert len(kept) <= 6


def test_records_that_are_gone_are_missed(finished_run, run_program, tiny_arguments, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run[0], workdir)
    (workdir / "model.keras").unlink()
    shutil.rmtree(sorted((workdir / "checkpoints").iterdir())[-1])
    (workdir / "metrics.jsonl").unlink()
    done = run_program("zoo.train", f"--workdir={workdir}", *tiny_arguments)
    assert (done.returncode, done.stderr) == (0, "")
    [step] = re.findall(r"resuming from step (\d+)", done.stdout)
    assert f"warning: the records up to step {step} are gone from {workdir}" in done.stdout


def test_a_run_whose_checkpoints_are_gone_or_all_damaged_does_not_start_again(
    finished_run, run_program, tiny_arguments, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run[0], workdir)
    (workdir / "model.keras").unlink()
    metrics = (workdir / "metrics.jsonl").read_text()
    for checkpoint in (workdir / "checkpoints").iterdir():
        (checkpoint / "state.json").write_text("{}")
    done = run_program("zoo.train", f"--workdir={workdir}", *tiny_arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: None of the 2 checkpoints in ")

    shutil.rmtree(workdir / "checkpoints")
    done = run_program("zoo.train", f"--workdir={workdir}", *tiny_arguments)
    assert done.returncode == 2
    assert "has records up to step 120 and no checkpoint" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (workdir / "metrics.jsonl").read_text() == metrics
