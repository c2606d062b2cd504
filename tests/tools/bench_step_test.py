import json

import pytest


@pytest.mark.parametrize(
    ("mode", "network", "contenders", "images"),
    [
        ("training", "six_convolutions", "none,ours_apart,ours_composite,keras", "64x32x32"),
        ("fine_tuning", "resnet20", "none,ours", "10x16x16"),
        ("inference", "six_convolutions", "none,ours", "64x32x32"),
    ],
)
def test_every_mode_times_every_contender(run_tool, tmp_path, mode, network, contenders, images):
    path = tmp_path / "step.json"
    options = [f"--networks={network}", f"--contenders={contenders}", f"--mode={mode}"]
    options += ["--batch_size=10", "--image_size=16"] if images == "10x16x16" else []
    options += ["--rounds=1", "--clock=cpu", f"--json={path}"]
    status, printed, _ = run_tool("bench_step", *options)
    assert status == 0
    assert f"ms a step of {mode}" in printed
    written = json.loads(path.read_text())
    assert written["mode"] == mode
    ((label, milliseconds),) = written["milliseconds"].items()
    assert label == f"{network} {images}"
    assert set(milliseconds) == set(contenders.split(","))
    assert ("ours_composite / keras" in printed) == ("keras" in contenders)
    assert min(milliseconds.values()) > 0


@pytest.mark.parametrize("option", ["--batch_size", "--image_size"])
def test_sizes_of_nothing_are_refused(run_tool, option):
    status, _, complaint = run_tool("bench_step", f"{option}=0")
    assert status == 2
    assert f"{option} must be 1 or more, received 0" in complaint


def test_an_unknown_contender_is_refused(run_tool):
    status, _, complaint = run_tool("bench_step", "--contenders=none,theirs")
    assert status == 2
    assert "unknown: theirs; there are none, ours" in complaint
