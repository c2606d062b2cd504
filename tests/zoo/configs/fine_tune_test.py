import json
import os

import numpy as np
import PIL.Image
import pytest


@pytest.mark.slow
def test_a_folder_of_photographs_is_fine_tuned_evaluated_asked_and_exported(
    run_warm_program, tmp_path, rng
):
    for number, name in enumerate(("blue", "green", "red")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 90, (70 + i, 80, 3)).astype(np.uint8)
            pixels[..., 2 - number] += 120
            PIL.Image.fromarray(pixels).save(folder / f"{i}.jpg")
    workdir = tmp_path / "run"
    train = (
        "zoo.train",
        f"--workdir={workdir}",
        "--config=fine_tune",
        f"--config.data_dir={tmp_path / 'photos'}",
        "--config.num_steps=4",
        "--config.image_size=16",
    )
    done = run_warm_program(*train)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((workdir / "data.json").read_text())["classes"] == ["blue", "green", "red"]

    done = run_warm_program("zoo.evaluate", f"--workdir={workdir}")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((workdir / "evaluation.json").read_text())["num_examples"] == 3

    output = tmp_path / "found.json"
    done = run_warm_program(
        "zoo.predict", f"--model={workdir}", tmp_path / "photos", f"--output={output}"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(output.read_text())) == 18

    done = run_warm_program("zoo.export", f"--model={workdir}", f"--output={tmp_path / 'served'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "served" / "saved_model.pb").exists()

    os.unlink(tmp_path / "photos" / "red" / "0.jpg")
    (workdir / "model.keras").unlink()
    done = run_warm_program(*train)
    assert done.returncode == 2
    assert done.stderr.startswith("error: The images are not those that the run began with: splits")
