import re

import pytest


@pytest.mark.parametrize(
    ("options", "ratios"),
    [
        pytest.param(
            ["--task=resnet20"], ["pipeline / by hand", "fed / step"], marks=pytest.mark.slow
        ),
        (["--task=resnet50", "--photos=16", "--no_step"], ["pipeline / by hand"]),
    ],
)
def test_the_contenders_are_held_against_each_other(run_tool, options, ratios):
    status, printed, _ = run_tool("bench_pipeline", *options, "--rounds=1", "--steps=1")
    assert status == 0
    assert re.findall(r"^(.+): \d+\.\d\d$", printed, re.M) == ratios
