import pytest

PROGRAM = "zoo.export"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: --model is missing: add it, as in --model=runs/quickstart.\n"),
        (["--model=a"], "error: --output is missing: add it, as in --output=served.\n"),
        (["--model=a", "--output=b", "--format=c"], "error: flag --format=c: "),
        (["--model=a.keras", "--output=b"], "error: --model=a.keras: there is no such file"),
        (["--model=a", "--output=b/c/d"], "error: There is no folder "),
    ],
)
def test_a_mistake_is_one_line(run_program, arguments, message):
    done = run_program(PROGRAM, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_a_run_is_exported(run_program, finished_run, tmp_path):
    done = run_program(PROGRAM, f"--model={finished_run[0]}", f"--output={tmp_path / 'm.keras'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "on 16 images probabilities differ by" in done.stdout
    assert (tmp_path / "m.keras").exists()
