import json

PROGRAM = "zoo.predict"


def test_a_mistake_is_one_line(run_program):
    done = run_program(PROGRAM)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --model is missing: add it, as in --model=runs/quickstart.\n"


def test_images_are_classified_by_a_shipped_checkpoint(run_program, tmp_path):
    import PIL.Image

    PIL.Image.new("L", (40, 30), 99).save(tmp_path / "grey.png")
    output = tmp_path / "found.json"
    done = run_program(
        PROGRAM, "--model=resnet20.fashion_mnist", tmp_path / "grey.png", f"--output={output}"
    )
    assert (done.returncode, done.stderr) == (0, "")
    [found] = json.loads(output.read_text())
    assert found["path"] == str(tmp_path / "grey.png")
    assert found["classes"][0]["name"] in done.stdout
