def test_a_mistake_is_one_line(run_program):
    done = run_program("zoo.convert")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --source is missing: add it, as in --source=model.keras.\n"
