import json

import pytest

PROGRAM = "zoo.predict"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: --model is missing: add it, as in --model=runs/quickstart.\n"),
        (["--model=a"], "error: Say which images to classify, as in: python -m zoo.predict "),
        (["--model=a", "--top=0", "b.jpg"], "error: flag --top=0: "),
        (["--modl=a", "b.jpg"], "error: There is no flag --modl. Did you mean 'model'?"),
        (
            ["--model=a.keras", "b.jpg"],
            "error: --model=a.keras: there is no such file or",
        ),
    ],
)
def test_a_mistake_is_one_line(run_program, arguments, message):
    done = run_program(PROGRAM, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


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
