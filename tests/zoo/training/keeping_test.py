"""What a training leaves behind, and what it is resumed from."""

import contextlib
import json
import re
import shutil
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_renorm
from zoo.errors import UserError
from zoo.training.keeping import Keeper
from zoo.training.records.metrics import MetricsLog, Record
from zoo.training.state import State
from zoo.training.storage.workdir import Workdir

CONFIG = {
    "keep_checkpoints": 1,
    "keep_every_steps": 0,
    "keep_best": True,
    "log_every_steps": 10,
    "checkpoint_every_steps": 100,
}


@contextlib.contextmanager
def keeping(path, splits=("test",), **changes):
    """A keeper of a run of one variable, in an opened folder."""
    config = CONFIG | changes
    workdir = Workdir(path)
    setup = types.SimpleNamespace(
        config=config,
        variables=[tf.Variable(1.0)],
        model=types.SimpleNamespace(trainable_variables=[keras.Variable(1.0)]),
        models=dict.fromkeys(splits),
        own_statistics=types.SimpleNamespace(gather=lambda: None, scatter=lambda: None),
        workers=types.SimpleNamespace(
            is_chief=True,
            chiefs=lambda work: work(),
            copy_from_chief=lambda variables: None,
            strategy=tf.distribute.get_strategy(),
        ),
        say=print,
        warn=print,
    )
    with workdir.opened(config):
        yield Keeper(setup, workdir), workdir


def save(keeper, step):
    keeper.save(State(step=step), types.SimpleNamespace(sync=lambda: None))


def record(step, accuracy, split="test"):
    return Record(step, split, 1.0, accuracy, 0.1, None, None, 1.0, 1.0)


def write_records(workdir, *found):
    with MetricsLog(workdir.metrics, 0) as log:
        for one in found:
            log.write(one)


@pytest.mark.parametrize("every", [5, 100])
def test_a_run_that_lost_its_checkpoints_does_not_start_again(tmp_path, every):
    """Not where it saved before `checkpoint_every_steps` either, as by a signal."""
    with keeping(tmp_path) as (keeper, workdir):
        save(keeper, 40)
        write_records(workdir, record(40, 0.5, "train"))
    shutil.rmtree(workdir.checkpoints)
    with keeping(tmp_path, checkpoint_every_steps=every) as (keeper, _):
        message = r"has lost its checkpoints: the run, recorded up to step 40, cannot be resumed"
        with pytest.raises(UserError, match=message):
            keeper.resume()


def test_a_run_of_a_version_that_noted_no_checkpoints_notes_them_when_it_is_resumed(tmp_path):
    def forget_the_note(workdir):
        values = json.loads(workdir.config.read_text())
        del values["saved"]
        workdir.config.write_text(json.dumps(values))

    with keeping(tmp_path) as (keeper, workdir):
        save(keeper, 40)
        write_records(workdir, record(40, 0.5, "train"))
    forget_the_note(workdir)
    with keeping(tmp_path) as (keeper, _):
        assert keeper.resume()[0].step == 40
        assert workdir.saved
    shutil.rmtree(workdir.checkpoints)
    for note in (True, False):
        if not note:
            forget_the_note(workdir)
        with (
            keeping(tmp_path, checkpoint_every_steps=30) as (keeper, _),
            pytest.raises(UserError, match="has lost its checkpoints"),
        ):
            keeper.resume()


@pytest.mark.parametrize("every", [5, 100])
def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path, every):
    with keeping(tmp_path) as (keeper, workdir):
        assert keeper.resume() == (State(), 0)
        write_records(workdir, record(40, 0.5, "train"))
    with keeping(tmp_path, checkpoint_every_steps=every) as (keeper, _):
        assert keeper.resume()[0] == State()


def test_a_run_whose_one_checkpoint_diverged_starts_again(tmp_path):
    with keeping(tmp_path) as (keeper, _):
        save(keeper, 40)
        keeper.forget(40)
    with keeping(tmp_path) as (keeper, _):
        assert keeper.resume()[0] == State()


def test_the_best_is_one_of_the_checkpoints_that_are_there(tmp_path, checkpoints):
    with keeping(tmp_path, keep_best=False) as (keeper, workdir):
        for step in (20, 40):
            save(keeper, step)
            keeper.prune()
        write_records(workdir, record(20, 0.9), record(40, 0.7))
    with keeping(tmp_path) as (keeper, _):
        assert keeper.resume()[1] == 40
        save(keeper, 60)
        keeper.note(record(60, 0.6))
        keeper.prune()
    assert checkpoints(tmp_path) == [40, 60]


def test_an_evaluation_that_lost_one_of_its_records_is_done_again(tmp_path):
    both = ("test", "test_averaged")
    with keeping(tmp_path, both) as (keeper, workdir):
        save(keeper, 40)
        write_records(
            workdir, *(record(20, 0.5, split) for split in both), record(40, 0.7), record(60, 0.8)
        )
    for splits, evaluated_at in ((both, 20), (both[:1], 40)):
        with keeping(tmp_path, splits) as (keeper, _):
            assert keeper.resume()[1] == evaluated_at


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
    records, checkpoints, run_warm_program, tiny_arguments, tmp_path
):
    done = run_warm_program(
        "zoo.train",
        f"--workdir={tmp_path}",
        *tiny_arguments,
        "--config.num_steps=60",
        "--config.checkpoint_every_steps=1000",
        "--config.checkpoint_every_minutes=1e-5",
        "--config.keep_every_steps=20",
        "--config.keep_checkpoints=3",
        "--config.keep_best",
    )
    assert (done.returncode, done.stderr) == (0, "")
    tests = [record for record in records(tmp_path) if record["split"] == "test"]
    best = max(tests, key=lambda record: record["accuracy"])["step"]
    kept = checkpoints(tmp_path)
    assert {20, 40, 60, best} <= set(kept)
    assert kept[-1] == 60
    assert len(kept) <= 6


def test_records_that_are_gone_are_missed(finished_run, run_warm_program, tiny_arguments, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run[0], workdir)
    (workdir / "model.keras").unlink()
    shutil.rmtree(sorted((workdir / "checkpoints").iterdir())[-1])
    (workdir / "metrics.jsonl").unlink()
    done = run_warm_program("zoo.train", f"--workdir={workdir}", *tiny_arguments)
    assert (done.returncode, done.stderr) == (0, "")
    [step] = re.findall(r"resuming from step (\d+)", done.stdout)
    assert f"warning: the records up to step {step} are gone from {workdir}" in done.stdout


def test_a_run_whose_checkpoints_are_gone_or_all_damaged_does_not_start_again(
    finished_run, run_warm_program, tiny_arguments, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run[0], workdir)
    (workdir / "model.keras").unlink()
    metrics = (workdir / "metrics.jsonl").read_text()
    for checkpoint in (workdir / "checkpoints").iterdir():
        (checkpoint / "state.json").write_text("{}")
    done = run_warm_program("zoo.train", f"--workdir={workdir}", *tiny_arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: None of the 2 checkpoints in ")

    shutil.rmtree(workdir / "checkpoints")
    done = run_warm_program("zoo.train", f"--workdir={workdir}", *tiny_arguments)
    assert done.returncode == 2
    assert (
        "has lost its checkpoints: the run, recorded up to step 120, cannot be resumed"
        in done.stderr
    )
    assert done.stderr.count("\n") == 1
    assert (workdir / "metrics.jsonl").read_text() == metrics
