import json

import pytest


@pytest.mark.parametrize("mode", ["training", "fine_tuning", "inference"])
def test_every_mode_times_every_contender(run_tool, tmp_path, mode):
    path = tmp_path / "step.json"
    options = ["--networks=resnet20", "--contenders=none,ours", f"--mode={mode}", "--rounds=1"]
    status, printed, _ = run_tool("bench_step", *options, f"--json={path}")
    assert status == 0
    assert f"ms a step of {mode}" in printed
    written = json.loads(path.read_text())
    assert written["mode"] == mode
    (milliseconds,) = written["milliseconds"].values()
    assert set(milliseconds) == {"none", "ours"}
    assert min(milliseconds.values()) > 0


def test_an_unknown_contender_is_refused(run_tool):
    status, _, complaint = run_tool("bench_step", "--contenders=none,theirs")
    assert status == 2
    assert "unknown: theirs; there are none, ours" in complaint
