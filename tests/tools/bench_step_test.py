import json

import pytest


@pytest.mark.parametrize(
    ("mode", "network", "contenders"),
    [
        ("training", "six_convolutions", "none,ours_apart,ours_composite,keras"),
        ("fine_tuning", "resnet20", "none,ours"),
        ("inference", "six_convolutions", "none,ours"),
    ],
)
def test_every_mode_times_every_contender(run_tool, tmp_path, mode, network, contenders):
    path = tmp_path / "step.json"
    options = [f"--networks={network}", f"--contenders={contenders}", f"--mode={mode}"]
    options += ["--rounds=1", "--clock=cpu", f"--json={path}"]
    status, printed, _ = run_tool("bench_step", *options)
    assert status == 0
    assert f"ms a step of {mode}" in printed
    written = json.loads(path.read_text())
    assert written["mode"] == mode
    (milliseconds,) = written["milliseconds"].values()
    assert set(milliseconds) == set(contenders.split(","))
    assert ("ours_composite / keras" in printed) == ("keras" in contenders)
    assert min(milliseconds.values()) > 0


def test_an_unknown_contender_is_refused(run_tool):
    status, _, complaint = run_tool("bench_step", "--contenders=none,theirs")
    assert status == 2
    assert "unknown: theirs; there are none, ours" in complaint
