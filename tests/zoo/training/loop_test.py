"""Trainings as processes of their own, which are killed, stopped, damaged and resumed."""

import math
import re
import shutil
import signal
import subprocess

import keras
import numpy as np
import pytest


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
    records,
    checkpoints,
    send_after,
    start_warm_program,
    run_warm_program,
    finished_run,
    tiny_arguments,
    tmp_path,
):
    arguments = ("zoo.train", f"--workdir={tmp_path}", *tiny_arguments)

    killed = start_warm_program(*arguments)
    send_after(killed, tmp_path, 30, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "model.keras").exists()
    before = max(checkpoints(tmp_path))
    damaged = damage(tmp_path)

    stopped = start_warm_program(*arguments)
    out, err = send_after(stopped, tmp_path, before + 20, signal.SIGINT)
    assert (stopped.returncode, err) == (128 + signal.SIGINT, "")
    assert f"warning: checkpoint {damaged} is damaged (variables.data" in out
    assert f"resuming from step {before - 10}\n" in out
    step = max(checkpoints(tmp_path))
    assert out.endswith(
        f"stopped by SIGINT after step {step} of 120, and saved: the same command resumes the "
        "run.\n"
    )

    resumed = run_warm_program(*arguments)
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


#: All that a run can do beyond the plain one, split between two runs.
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
    records,
    send_after,
    weights_by_layer,
    start_warm_program,
    run_program,
    run_warm_program,
    finished_run,
    tiny_arguments,
    tmp_path,
    name,
):
    arguments = [*tiny_arguments, *EVERYTHING[name]]
    if name == "rmsprop":
        arguments.append(f"--config.weights={finished_run[0] / 'model.keras'}")
    whole = run_program("zoo.train", f"--workdir={tmp_path / 'whole'}", *arguments)
    # TensorFlow warns on old processors that they have no float16.
    assert not [line for line in whole.stderr.splitlines() if "oneDNN" not in line]
    assert whole.returncode == 0
    for step in (20, 90):
        killed = start_warm_program("zoo.train", f"--workdir={tmp_path / 'parts'}", *arguments)
        send_after(killed, tmp_path / "parts", step, signal.SIGKILL)
    resumed = run_warm_program("zoo.train", f"--workdir={tmp_path / 'parts'}", *arguments)
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


@pytest.mark.slow
def test_the_last_evaluation_is_made_by_the_resumed_run(
    evaluating, records, run_warm_python, run_warm_program, finished_run, tiny_arguments, tmp_path
):
    cut = run_warm_python(evaluating(tmp_path, [*tiny_arguments], signal.SIGTERM, 3))
    assert cut.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step 120 of 120, and saved" in cut.stdout
    assert not (tmp_path / "model.keras").exists()
    workdir, profile = f"--workdir={tmp_path}", "--profile_steps=5,8"
    resumed = run_warm_program("zoo.train", workdir, profile, *tiny_arguments)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert "warning: --profile_steps lie before step 121, where this run goes on" in resumed.stdout
    assert records(tmp_path) == records(finished_run[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "every"),
    [(signal.SIGKILL, 10), (signal.SIGKILL, 30), (signal.SIGTERM, 10), (signal.SIGHUP, 30)],
)
def test_an_evaluation_that_is_cut_short_costs_itself_only(
    evaluating,
    records,
    checkpoints,
    run_warm_python,
    run_warm_program,
    finished_run,
    tiny_arguments,
    tmp_path,
    number,
    every,
):
    arguments = [*tiny_arguments, f"--config.checkpoint_every_steps={every}"]
    cut = run_warm_python(evaluating(tmp_path, arguments, number, 2))
    killed = number == signal.SIGKILL
    assert cut.returncode == (-number if killed else 128 + number)
    # The second evaluation is after step 100.
    saved = 90 if killed and every == 30 else 100
    assert max(checkpoints(tmp_path)) == saved
    assert not any(
        record["step"] == 100 and record["split"] == "test" for record in records(tmp_path)
    )
    resumed = run_warm_program("zoo.train", f"--workdir={tmp_path}", *arguments)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert f"resuming from step {saved}\n" in resumed.stdout
    assert records(tmp_path) == records(finished_run[0])
    events = [path.parent.name for path in (tmp_path / "tensorboard").rglob("*tfevents*")]
    assert sorted(events) == ["test", "train"]


@pytest.mark.slow
def test_a_finished_run_can_become_longer(finished_run, run_warm_program, tiny_arguments, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run[0], workdir)
    arguments = [*tiny_arguments, "--config.num_steps=150", "--config.log_every_steps=5"]
    done = run_warm_program("zoo.train", f"--workdir={workdir}", *arguments)
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
    again = run_warm_program("zoo.train", f"--workdir={workdir}", *arguments)
    assert "there is nothing to do" in again.stdout


@pytest.mark.parametrize("found_by", ["step", "evaluation"])
def test_a_diverging_run_stops_with_advice_and_saves_nothing_bad(
    checkpoints, run_warm_program, tmp_path, found_by
):
    # The loss of the first step is that of the weights before it. In the second step hidden1 is
    # 1e31 and hidden2's weights are 1e29: float32 cannot hold the product.
    steps = ("--config.num_steps=1",) if found_by == "evaluation" else ()
    done = run_warm_program(
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
    weights_by_layer, start_warm_program, finished_run, tiny_arguments, tmp_path, stderr_too
):
    workdir = tmp_path / "run"
    options = {"stderr": subprocess.STDOUT} if stderr_too else {}  # as 2>&1
    process = start_warm_program("zoo.train", f"--workdir={workdir}", *tiny_arguments, **options)
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
