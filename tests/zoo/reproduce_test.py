def test_a_mistake_is_one_line(run_program):
    done = run_program("zoo.reproduce")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("error: --experiment is missing: add it, as in --experiment=non_iid.\n")


def test_the_experiments_are_listed(run_program):
    done = run_program("zoo.reproduce", "--list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "accelerations" in done.stdout
    assert "40 runs: 6" in " ".join(done.stdout.split())
