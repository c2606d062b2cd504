def test_a_norm_that_would_have_no_effect(run_program):
    done = run_program("zoo.convert", "--source=a.keras", "--output=b.keras", "--norm=batch_norm")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --norm=batch_norm goes with --kind=keras_applications; ")


def test_a_mistake_is_one_line(run_program):
    done = run_program("zoo.convert")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --source is missing: add it, as in --source=model.keras.\n"
