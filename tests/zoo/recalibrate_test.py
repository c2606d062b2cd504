import pytest

PROGRAM = "zoo.recalibrate"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: --model is missing: add it, as in --model=runs/quickstart.\n"),
        (["--model=a"], "error: --output is missing: add it, as in --output=recal"),
        (["--model=a", "--output=b.keras"], "error: Say which images the statistics are to be of"),
        (
            ["--model=a", "--output=b.h5", "c"],
            "error: --output must end in .keras, received b.h5",
        ),
        (["--model=a", "--output=b.keras", "c", "--num_samples=0"], "error: flag --num_samples=0"),
    ],
)
def test_a_mistake_is_one_line(run_program, arguments, message):
    done = run_program(PROGRAM, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
