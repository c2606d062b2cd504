"""The training program from outside: what it says and where it writes."""

import json
import shutil
import zipfile

import pytest

from zoo.training.cli.recipes import recipes


def snapshot(folder):
    """Every file's path, content and time of its last change."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_training_ends_with_a_summary(finished_run):
    workdir, done = finished_run
    assert (done.returncode, done.stderr) == (0, "")
    assert "step 7/120: train loss " in done.stdout
    assert "step 50/120: test loss " in done.stdout
    assert "test accuracy" in done.stdout
    assert f"\n  python -m zoo.evaluate --workdir={workdir}  # " in done.stdout
    assert {path.name for path in workdir.iterdir()} == {
        "checkpoints",
        "config.json",
        "data.json",
        "metrics.jsonl",
        "model.keras",
        "tensorboard",
    }


def test_a_finished_run_is_left_as_it_is(finished_run, run_warm_program, tiny_arguments):
    workdir, _ = finished_run
    before = snapshot(workdir)
    done = run_warm_program("zoo.train", f"--workdir={workdir}", *tiny_arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{workdir} holds this run, finished: there is nothing to do.\n")
    assert snapshot(workdir) == before


@pytest.mark.parametrize("kept", [0, 1000, -1])
def test_a_damaged_model_is_written_again(
    finished_run, run_warm_program, tiny_arguments, tmp_path, kept
):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run[0], workdir)
    whole = (workdir / "model.keras").read_bytes()
    middle = bytes([whole[2000] ^ 1])
    (workdir / "model.keras").write_bytes(
        whole[:kept] if kept >= 0 else whole[:2000] + middle + whole[2001:]
    )
    done = run_warm_program("zoo.train", f"--workdir={workdir}", *tiny_arguments)
    assert (done.returncode, done.stderr) == (0, "")
    warning = f"warning: {workdir / 'model.keras'} is damaged: it is written again.\n"
    assert done.stdout.startswith(f"{warning}resuming from step 120\n")
    with (
        zipfile.ZipFile(finished_run[0] / "model.keras") as before,
        zipfile.ZipFile(workdir / "model.keras") as after,
    ):
        assert after.read("config.json") == before.read("config.json")
        assert after.testzip() is None


def test_a_run_that_cannot_become_longer_stays_as_it_is(
    finished_run, run_warm_program, tiny_arguments, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run[0], workdir)
    shutil.rmtree(workdir / "checkpoints")
    before = snapshot(workdir)
    longer = (*tiny_arguments, "--config.num_steps=200")
    done = run_warm_program("zoo.train", f"--workdir={workdir}", *longer)
    assert done.returncode == 2
    assert "has lost its checkpoints: the run, recorded up to step 120, cannot be" in done.stderr
    assert snapshot(workdir) == before


def test_another_config_is_refused_with_the_keys_that_differ(
    finished_run, run_warm_program, tiny_arguments
):
    workdir, _ = finished_run
    before = snapshot(workdir)
    done = run_warm_program(
        "zoo.train", f"--workdir={workdir}", *tiny_arguments, "--config.minibatches=iid"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {workdir} holds a run with another config: minibatches (there 'few_labels', "
        "here 'iid'). Nothing was written. Choose another --workdir, or give the same config to "
        "resume that run.\n"
    )
    assert snapshot(workdir) == before


def test_a_mistake_is_one_line_and_writes_nothing(run_program, tmp_path):
    done = run_program("zoo.train", f"--workdir={tmp_path / 'run'}", "--config.nrom=none")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: --config.nrom=none: there is no config key 'nrom'. Did you mean 'norm'?\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_what_a_run_takes_and_writes_nothing(run_program, tiny_arguments, tmp_path):
    workdir = tmp_path / "run"
    done = run_program("zoo.train", "--dry_run", f"--workdir={workdir}", *tiny_arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "dry run, nothing was written" in done.stdout
    assert "multiply-adds" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_steps_are_profiled_for_tensorboard(run_warm_program, tiny_arguments, tmp_path):
    arguments = (*tiny_arguments, "--config.num_steps=30", "--profile_steps=5,8")
    done = run_warm_program("zoo.train", f"--workdir={tmp_path}", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "tensorboard").rglob("*.xplane.pb"))) == 1


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a" * 300, None, "error: File name too long: "),
        ("run/metrics.jsonl", "mkdir", "error: Is a directory: "),
        ("run/checkpoints", "touch", "error: Not a directory: "),
        ("run/tensorboard", "touch", "error: File exists: {path}\n"),
        ("run", "symlink", "error: --workdir={path}: {path} is not a folder."),
    ],
)
def test_what_is_in_the_way_is_one_line(
    finished_run, run_warm_program, tiny_arguments, tmp_path, name, make, message
):
    path = tmp_path / name
    if make == "symlink":
        path.symlink_to("nowhere")
    elif make is not None:
        path.parent.mkdir()
        config = json.loads((finished_run[0] / "config.json").read_text())
        del config["saved"]  # as if the run had no checkpoint yet
        (path.parent / "config.json").write_text(json.dumps(config))
        getattr(path, make)()
    workdir = tmp_path / name.partition("/")[0]
    done = run_warm_program("zoo.train", f"--workdir={workdir}", *tiny_arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message.format(path=path))
    assert done.stderr.count("\n") == 1


def test_help_tells_how_to_use_it(run_program):
    done = run_program("zoo.train", "--help")
    assert "python -m zoo.train --workdir=DIR [--config=RECIPE] [--config.KEY=VALUE ...]" in (
        done.stdout
    )
    assert "--workdir" in done.stdout
    assert all(name in done.stdout for name in recipes())
    assert (
        "\n  learning_rate = 0.1\n      The highest learning rate of the run. Above 0.\n"
        in done.stdout
    )


@pytest.mark.parametrize("kilobytes", [1, 300])
def test_a_disk_that_takes_no_more_is_one_line(
    run_warm_python, tmp_path, tiny_arguments, kilobytes
):
    done = run_warm_python(
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({kilobytes * 1024},) * 2)\n"
        f"sys.argv = ['train', '--workdir={tmp_path}', *{tiny_arguments!r}]\n"
        "from zoo import train\n"
        "train.run()\n"
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "File too large" in done.stderr
    assert not (tmp_path / "model.keras").exists()
