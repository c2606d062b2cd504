import subprocess
import sys

import pytest


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "zoo.reproduce", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--experiment is missing"),
        (["--experiment=non_iid"], "--workdir is missing"),
        (["--experiment=nothing", "--workdir=x"], "There is no experiment 'nothing'"),
        (["--experiment=non_iid", "--workdir=x", "--scale=big"], "--scale must be one of smoke"),
        (["--experiment=non_iid", "--workdir=x", "--seeds=0"], "seeds"),
    ],
)
@pytest.mark.slow
def test_mistakes_are_answered_in_a_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert message in done.stderr
    assert not list(tmp_path.iterdir())
