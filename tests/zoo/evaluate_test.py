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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: --workdir is missing: add it, as in --workdir=runs/quickstart.\n"),
        (["--workdir=nowhere"], "error: nowhere holds no run of zoo.train: there is no "),
        (["--workdir=a", "--model=b.keras"], "error: Say what to evaluate: --workdir=DIR, or --m"),
        (["--workdir=a", "--num_samples=9"], "error: --num_samples=9 is for --statistics=precise"),
        (["--model=a.keras"], "error: --model=a.keras: there is no such file or folder.\n"),
        (["--workdir=a", "--batch_size=0"], "error: flag --batch_size=0: "),
        (["--workdir=a", "--batch_size=99999999999999999999"], "error: flag --batch_size=9999"),
        (["--workdr=a"], "error: There is no flag --workdr. Did you mean 'workdir'?"),
    ],
)
def test_a_mistake_is_one_line(run_program, arguments, message):
    done = run_program("zoo.evaluate", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
