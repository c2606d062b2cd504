import json

import pytest


@pytest.mark.slow
def test_it_trains(run_warm_program, tmp_path):
    done = run_warm_program(
        "zoo.train",
        f"--workdir={tmp_path}",
        "--config=resnet20",
        "--config.num_steps=5",
        "--config.warmup_steps=2",
        "--config.batch_size=16",
        "--config.checkpoint_every_steps=5",
    )
    assert (done.returncode, done.stderr) == (0, "")
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model"], config["norm"], config["augment"]) == (
        "resnet20",
        "batch_renorm",
        True,
    )
    assert (config["minibatches"], config["weight_decay"]) == ("iid", 1e-4)
    assert (tmp_path / "model.keras").exists()
