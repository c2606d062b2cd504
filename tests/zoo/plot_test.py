from zoo import plot


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


def test_a_home_folder_is_found(finished_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plot.main(([str(finished_run[0])], "~/home.png", False)) == 0
    assert (tmp_path / "home.png").read_bytes().startswith(b"\x89PNG")


def test_a_mistake_is_one_line(run_program):
    done = run_program("zoo.plot", "n" * 300)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {'n' * 300}/config.json cannot be read: ")
    assert done.stderr.count("\n") == 1
