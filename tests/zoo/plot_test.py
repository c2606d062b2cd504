import pytest


def test_a_run_is_drawn_once(finished_run, run_program, tmp_path):
    workdir, _ = finished_run
    output = tmp_path / "curves.png"
    done = run_program("zoo.plot", workdir, f"--output={output}")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wrote {output}\n", "")
    drawn = output.read_bytes()
    assert drawn.startswith(b"\x89PNG")

    again = run_program("zoo.plot", workdir, f"--output={output}")
    assert again.returncode == 2
    assert again.stderr == (
        f"error: {output} exists: add --overwrite, or choose another --output.\n"
    )
    assert output.read_bytes() == drawn
    assert run_program("zoo.plot", workdir, f"--output={output}", "--overwrite").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: Say which runs to draw, as in: python -m zoo.plot runs/quickstart.\n"),
        (["nowhere"], "error: nowhere holds no run of zoo.train: there is no "),
        (["n" * 300], f"error: {'n' * 300}/config.json cannot be read: "),
        (["nowhere", "--output=a.jpg"], "error: --output=a.jpg must end in one of .pdf, .png, "),
    ],
)
def test_a_mistake_is_one_line(run_program, arguments, message):
    done = run_program("zoo.plot", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
