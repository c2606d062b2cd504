"""Trainings as processes of their own, which are killed, stopped, damaged and resumed."""

import json
import math
import re
import shutil
import signal
import subprocess
import time

import keras
import numpy as np
import pytest

import keras_renorm


def records(workdir):
    """The records without what depends on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    clock = ("seconds", "images_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def checkpoints(workdir):
    return sorted(int(path.name[5:]) for path in (workdir / "checkpoints").glob("step-*"))


def send_after(process, workdir, step, number):
    """Sends a signal to a training once it has saved a checkpoint of `step` or later."""
    deadline = time.monotonic() + 60
    while not any(saved >= step for saved in checkpoints(workdir)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, process.kill()
        time.sleep(0.002)
    process.send_signal(number)
    return process.communicate(timeout=60)


def damage(workdir):
    """Flips a bit in the middle of the newest checkpoint's variables; returns its step."""
    newest = max((workdir / "checkpoints").glob("step-*"))
    path = newest / "variables.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return newest


@pytest.mark.slow
def test_a_run_that_was_killed_damaged_and_stopped_ends_as_one_that_was_not(
    start_program, run_program, finished_run, tiny_arguments, tmp_path
):
    arguments = ("zoo.train", f"--workdir={tmp_path}", *tiny_arguments)

    killed = start_program(*arguments)
    send_after(killed, tmp_path, 30, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "model.keras").exists()
    before = max(checkpoints(tmp_path))
    damaged = damage(tmp_path)

    stopped = start_program(*arguments)
    out, err = send_after(stopped, tmp_path, before + 20, signal.SIGINT)
    assert (stopped.returncode, err) == (128 + signal.SIGINT, "")
    assert f"warning: checkpoint {damaged} is damaged (variables.data" in out
    assert f"resuming from step {before - 10}\n" in out
    step = max(checkpoints(tmp_path))
    assert out.endswith(
        f"stopped by SIGINT after step {step} of 120, and saved: the same command resumes the "
        "run.\n"
    )

    resumed = run_program(*arguments)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert f"resuming from step {step}\n" in resumed.stdout

    unbroken, _ = finished_run
    assert records(tmp_path) == records(unbroken)
    weights = [
        keras.saving.load_model(folder / "model.keras", compile=False).get_weights()
        for folder in (tmp_path, unbroken)
    ]
    assert len(weights[0]) > 10
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
    # The last checkpoints agree too, optimizer and all.
    states = [
        (folder / "checkpoints/step-00000120/variables.data-00000-of-00001").read_bytes()
        for folder in (tmp_path, unbroken)
    ]
    assert states[0] == states[1]


#: What a run can do beside the plain one, as different as two runs can have it.
EVERYTHING = {
    "adamw": [
        "--config.optimizer=adamw",
        "--config.weight_decay=0.01",
        "--config.learning_rate=0.003",
        "--config.learning_rate_schedule=exponential",
        "--config.accumulate=2",
        "--config.average_decay=0.9",
        "--config.precision=float16",
        "--config.clip_norm=1",
        "--config.label_smoothing=0.1",
        "--config.dropout_rate=0.2",
        "--config.head_rate_factor=2",
        "--config.gauges_every_steps=25",
    ],
    "rmsprop": [
        "--config.optimizer=rmsprop",
        "--config.optimizer_epsilon=1.0",
        "--config.learning_rate_schedule=piecewise",
        "--config.jit",
        "--config.precision=bfloat16",
        "--config.average_decay=0.99",
        "--config.initial_statistics=precise",
        "--config.freeze=hidden1*",
        "--config.freeze_statistics_at_step=60",
        "--config.keep_best",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERYTHING)
def test_everything_is_resumed_bit_for_bit(
    start_program, run_program, finished_run, tiny_arguments, tmp_path, name
):
    arguments = [*tiny_arguments, *EVERYTHING[name]]
    if name == "rmsprop":
        arguments.append(f"--config.weights={finished_run[0] / 'model.keras'}")
    whole = run_program("zoo.train", f"--workdir={tmp_path / 'whole'}", *arguments)
    # TensorFlow says of old processors that they have no float16.
    assert not [line for line in whole.stderr.splitlines() if "oneDNN" not in line]
    assert whole.returncode == 0
    for step in (20, 90):
        killed = start_program("zoo.train", f"--workdir={tmp_path / 'parts'}", *arguments)
        send_after(killed, tmp_path / "parts", step, signal.SIGKILL)
    resumed = run_program("zoo.train", f"--workdir={tmp_path / 'parts'}", *arguments)
    assert resumed.returncode == 0
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    assert records(tmp_path / "whole")[-1]["split"] == "test_averaged"
    last = "checkpoints/step-00000120/variables.data-00000-of-00001"
    states = [(tmp_path / run / last).read_bytes() for run in ("parts", "whole")]
    assert states[0] == states[1]
    for model in ("model.keras", "model_averaged.keras"):
        found = weights_by_layer(tmp_path / "parts" / model)
        for layer, weights in weights_by_layer(tmp_path / "whole" / model).items():
            for a, b in zip(found[layer], weights, strict=True):
                np.testing.assert_array_equal(a, b, layer)
    if name == "rmsprop":
        frozen = weights_by_layer(finished_run[0] / "model.keras")["hidden1_dense"]
        for a, b in zip(found["hidden1_dense"], frozen, strict=True):
            np.testing.assert_array_equal(a, b)
        assert whole.stdout.count("statistics frozen after step 60\n") == 1
        # gamma, beta, moving_mean, moving_variance, update_count
        assert int(weights_by_layer(tmp_path / "parts" / "model.keras")["hidden2_norm"][4]) == 60
    else:
        assert [path.name for path in (tmp_path / "parts" / "tensorboard").iterdir()].count(
            "gauges"
        ) == 1


def weights_by_layer(path):
    model = keras.saving.load_model(path, compile=False)
    layers = [layer for layer in model.layers if layer.weights]
    return {layer.name: [np.asarray(value) for value in layer.variables] for layer in layers}


def test_the_records_are_complete_and_tell_the_schedules(finished_run):
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


def test_what_lint_finds_is_printed_before_the_first_step(finished_run):
    printed = finished_run[1].stdout
    finding = "lint: The schedule of hidden1_norm does not end: r_max is 1.21 after 120 steps"
    assert printed.count(finding) == 1
    assert printed.index(finding) < printed.index("step 7/120")


def test_the_speed_is_that_of_the_clock(finished_run):
    workdir, _ = finished_run
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    # 7 steps of 20 images.
    took = sum(140 / line["images_per_second"] for line in lines[:-2] if line["split"] == "train")
    assert 0 < took < seconds[-1]


def test_the_model_gives_probabilities_and_holds_its_schedule(finished_run):
    workdir, _ = finished_run
    model = keras.saving.load_model(workdir / "model.keras", compile=False)
    probabilities = model.predict(np.zeros((3, 28, 28, 1)), verbose=0)
    assert probabilities.shape == (3, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    layer = model.get_layer("hidden1_norm")
    assert isinstance(layer, keras_renorm.layers.BatchRenormalization)
    assert int(layer.update_count) == 120


def test_two_checkpoints_and_the_events_are_kept(finished_run):
    workdir, _ = finished_run
    assert checkpoints(workdir) == [110, 120]
    events = [path.parent.name for path in (workdir / "tensorboard").rglob("*tfevents*")]
    assert sorted(events) == ["test", "train"]
    assert not list(workdir.rglob(".tmp-*"))


EVALUATING = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup turns it off
from zoo.training import evaluation
evaluate, calls = evaluation.Evaluator.__call__, []
def interrupted(self, stop):
    calls.append(1)
    if len(calls) == NUMBER:
        os.kill(os.getpid(), signal.SIGNAL)
    return evaluate(self, stop)
evaluation.Evaluator.__call__ = interrupted
sys.argv = ["train", "--workdir=FOLDER", *ARGUMENTS]
from zoo import train
train.run()
"""


def evaluating(workdir, arguments, number, evaluation):
    """A training that is sent a signal when an evaluation begins."""
    code = EVALUATING.replace("SIGNAL", number.name).replace("FOLDER", str(workdir))
    return code.replace("ARGUMENTS", repr(arguments)).replace("NUMBER", str(evaluation))


@pytest.mark.slow
def test_the_last_evaluation_is_made_by_the_resumed_run(
    run_python, run_program, finished_run, tiny_arguments, tmp_path
):
    cut = run_python(evaluating(tmp_path, [*tiny_arguments], signal.SIGTERM, 3))
    assert cut.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step 120 of 120, and saved" in cut.stdout
    assert not (tmp_path / "model.keras").exists()
    resumed = run_program("zoo.train", f"--workdir={tmp_path}", *tiny_arguments)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert records(tmp_path) == records(finished_run[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "every"),
    [(signal.SIGKILL, 10), (signal.SIGKILL, 30), (signal.SIGTERM, 10), (signal.SIGHUP, 30)],
)
def test_an_evaluation_that_is_cut_short_costs_itself_only(
    run_python, run_program, finished_run, tiny_arguments, tmp_path, number, every
):
    arguments = [*tiny_arguments, f"--config.checkpoint_every_steps={every}"]
    cut = run_python(evaluating(tmp_path, arguments, number, 2))
    killed = number == signal.SIGKILL
    assert cut.returncode == (-number if killed else 128 + number)
    # The second evaluation is after step 100.
    saved = 90 if killed and every == 30 else 100
    assert max(checkpoints(tmp_path)) == saved
    assert not any(
        record["step"] == 100 and record["split"] == "test" for record in records(tmp_path)
    )
    resumed = run_program("zoo.train", f"--workdir={tmp_path}", *arguments)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert f"resuming from step {saved}\n" in resumed.stdout
    assert records(tmp_path) == records(finished_run[0])
    events = [path.parent.name for path in (tmp_path / "tensorboard").rglob("*tfevents*")]
    assert sorted(events) == ["test", "train"]


@pytest.mark.slow
def test_a_run_saves_by_time_and_keeps_what_was_asked_for(run_program, tiny_arguments, tmp_path):
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


@pytest.mark.slow
def test_a_finished_run_can_become_longer(finished_run, run_program, tiny_arguments, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run[0], workdir)
    arguments = [*tiny_arguments, "--config.num_steps=150", "--config.log_every_steps=5"]
    done = run_program("zoo.train", f"--workdir={workdir}", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "without an effect on the training: log_every_steps (before 7, now 5)\n" in done.stdout
    assert "warning: the run becomes longer: num_steps (before 120, now 150). " in done.stdout
    rates = re.search(r"at step 120 the rate was (\S+), and is (\S+) now\.", done.stdout)
    for found, steps in zip(rates.groups(), (120, 150), strict=True):
        cosine = math.cos(math.pi * (119 - 20) / (steps - 20))
        assert float(found) == pytest.approx(0.01 * (1 + cosine), rel=1e-3)
    assert "resuming from step 120\n" in done.stdout
    names = {path.name for path in workdir.iterdir()}
    assert {"model.keras", "model-00000120.keras"} <= names
    again = run_program("zoo.train", f"--workdir={workdir}", *arguments)
    assert "there is nothing to do" in again.stdout


@pytest.mark.parametrize("found_by", ["step", "evaluation"])
def test_a_diverging_run_stops_with_advice_and_saves_nothing_bad(run_program, tmp_path, found_by):
    # The loss of the first step is that of the weights before it. In the second hidden1 is 1e31 and
    # hidden2's weights 1e29, whose product float32 does not hold.
    steps = ("--config.num_steps=1",) if found_by == "evaluation" else ()
    done = run_program(
        "zoo.train",
        f"--workdir={tmp_path / 'run'}",
        "--config.norm=none",
        "--config.learning_rate=1e30",
        *steps,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: The loss is ")
    assert done.stderr.count("\n") == 1
    assert "Try a lower --config.learning_rate" in done.stderr
    if found_by == "step":
        assert "The first layer whose output is not finite is hidden2_dense." in done.stderr
    assert not (tmp_path / "run" / "model.keras").exists()
    assert not checkpoints(tmp_path / "run")


@pytest.mark.parametrize("stderr_too", [False, True])
def test_a_training_goes_on_when_nobody_reads_its_output(
    start_program, finished_run, tiny_arguments, tmp_path, stderr_too
):
    workdir = tmp_path / "run"
    options = {"stderr": subprocess.STDOUT} if stderr_too else {}  # as 2>&1
    process = start_program("zoo.train", f"--workdir={workdir}", *tiny_arguments, **options)
    with process:
        process.stdout.readline()
        process.stdout.close()
        if not stderr_too:
            assert process.stderr.read() == "warning: nobody reads the output: it ends here.\n"
    assert process.returncode == 0
    found = weights_by_layer(workdir / "model.keras")
    for name, weights in weights_by_layer(finished_run[0] / "model.keras").items():
        for actual, value in zip(found[name], weights, strict=True):
            np.testing.assert_array_equal(actual, value, name)


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
