import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: --source is missing: add it, as in --source=model.keras.\n"),
        (["--source=a"], "error: --output is missing: add it, as in --output=ours.keras.\n"),
        (
            ["--source=a", "--output=b", "--model=c"],
            "error: --model=NAME goes with --kind=keras_ap",
        ),
        (["--kind=keras_applications"], "error: --model=NAME goes with --kind=keras_applications"),
        (["--kind=torch"], "error: flag --kind=torch: "),
        (["--source=a", "--output=b.keras"], "error: There is no file a.\n"),
        (
            [
                "--kind=keras_applications",
                "--model=x",
                "--source=/dev/null",
                "--output=b.weights.h5",
            ],
            "error: Unknown model 'x' of keras.applications. Allowed are inception_v3, ",
        ),
    ],
)
def test_a_mistake_is_one_line(run_program, arguments, message):
    done = run_program("zoo.convert", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
