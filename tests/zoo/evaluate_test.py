import json
import shutil

import pytest


@pytest.fixture
def workdir(finished_run, tmp_path):
    shutil.copytree(finished_run[0], tmp_path / "run")
    return tmp_path / "run"


def test_the_result_is_that_of_the_training(workdir, run_program):
    done = run_program("zoo.evaluate", f"--workdir={workdir}")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((workdir / "evaluation.json").read_text())
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["split"], last["step"]) == ("test", 120)
    assert report["accuracy"] == last["accuracy"]
    assert report["loss"] == pytest.approx(last["loss"], rel=1e-6)
    assert report["num_examples"] == 2000
    assert (report["dataset"], report["split"]) == ("fashion_mnist_subset", "test")
    assert (report["model"], report["norm"], report["steps"]) == ("mlp", "batch_renorm", 120)
    assert f"{100 * report['accuracy']:.2f} %" in done.stdout


def test_a_mistake_is_one_line(run_program):
    done = run_program("zoo.evaluate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --workdir is missing: add it, as in --workdir=runs/quickstart.\n"
