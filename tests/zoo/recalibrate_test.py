def test_a_mistake_is_one_line(run_program):
    done = run_program("zoo.recalibrate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --model is missing: add it, as in --model=runs/quickstart.\n"
