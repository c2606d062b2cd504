"""The program as its users run it: its mistakes, and a run of a few steps."""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).parents[2] / "tools" / "domain_table.py"


def run(*arguments):
    # A user who sets this variable sees TensorFlow's log.
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--seeds=0,x", "error: --seeds must be integers, as in --seeds=0,1; received ['0', 'x']."),
        ("--second=dark", "should be one of <inverted|low_contrast>"),
        ("--steps=0", "--steps=0"),
        ("--stps=3", "error: There is no flag --stps. Did you mean 'steps'?"),
        ("--json=missing/a.json", "is in a folder that does not exist; name another file."),
        (f"--json={PROGRAM}", "exists; name another file."),
        ("--dataset=cifar11", "error: Unknown dataset 'cifar11'. Did you mean 'cifar10"),
        ("cifar10", "error: 'cifar10' is not a flag: flags look like --name=value."),
    ],
)
def test_mistakes_are_answered_in_one_line(argument, message):
    result = run(argument)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_short_run_has_eight_rows(tmp_path):
    path = tmp_path / "table.json"
    result = run(
        "--dataset=fashion_mnist_subset",
        "--second=inverted",
        "--steps=2",
        "--batch_size=8",
        f"--json={path}",
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    document = json.loads(path.read_text())
    assert document["settings"]["steps"] == 2
    assert "json" not in document["settings"]
    names = ("batch_statistics", "population_statistics", "affine")
    kinds = [tuple(row[name] for name in names) for row in document["rows"]]
    assert kinds == list(itertools.product(("shared", "domain"), repeat=3))
    for row in document["rows"]:
        assert 0 < row["error"]["first"] <= 100
        assert 0 < row["error"]["second"] <= 100
        assert row["seconds"] > 0
    # The same seed: rows differ in their loss where the training does, and there only.
    losses = {kind: row["loss"] for kind, row in zip(kinds, document["rows"], strict=True)}
    for batch, affine in itertools.product(("shared", "domain"), repeat=2):
        assert losses[batch, "shared", affine] == pytest.approx(
            losses[batch, "domain", affine], rel=1e-4
        )
    assert losses["shared", "shared", "shared"] != losses["domain", "domain", "shared"]
    assert "fashion_mnist_subset" in result.stdout
