import json
import re

import matplotlib as mpl
import pytest

from zoo.training.errors import UserError
from zoo.training.metrics import MetricsLog, Record
from zoo.training.plotting import legend, plot_workdirs


def make_run(path, accuracies, **config):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"norm": "batch_renorm", "seed": 0} | config))
    with MetricsLog(path / "metrics.jsonl", 0) as log:
        for number, accuracy in enumerate(accuracies, start=1):
            for split in ("train", "test"):
                log.write(Record(100 * number, split, 0.5, accuracy, 0.1, None, None, 1.0, 1.0))
    return str(path)


@pytest.fixture
def runs(tmp_path):
    return [
        make_run(tmp_path / "brn", [0.5, 0.75], r_max=3.0),
        make_run(tmp_path / "bn", [0.5, 0.25], norm="batch_norm"),
    ]


def test_the_legend_names_what_differs():
    configs = [{"norm": "a", "seed": 0}, {"norm": "b", "seed": 0}, {"norm": "b", "seed": 1}]
    assert legend(["x", "y", "z"], configs) == [
        "norm=a, seed=0",
        "norm=b, seed=0",
        "norm=b, seed=1",
    ]


def test_runs_that_no_key_tells_apart_are_named_by_folder():
    same = {"norm": "a"}
    assert legend(["x"], [same]) == ["x"]
    assert legend(["x", "y", "z"], [same, same, {"norm": "b", "new": 1}]) == [
        "x, new=not set, norm=a",
        "y, new=not set, norm=a",
        "new=1, norm=b",
    ]


def test_a_picture_is_drawn_with_labelled_axes_and_legend(runs, tmp_path):
    with mpl.rc_context({"svg.fonttype": "none"}):
        plot_workdirs(runs, tmp_path / "curves.svg")
    picture = (tmp_path / "curves.svg").read_text()
    for text in (
        "test accuracy (%)",
        "test cross-entropy (nats)",
        "steps",
        "norm=batch_renorm, r_max=3.0",
        "norm=batch_norm, r_max=not set",
    ):
        assert text in picture


def test_a_png_is_a_png(runs, tmp_path):
    plot_workdirs(runs[:1], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_overwritten_only_when_told_to(runs, tmp_path):
    output = tmp_path / "curves.png"
    output.write_text("precious")
    with pytest.raises(UserError, match="exists: add --overwrite, or choose another --output"):
        plot_workdirs(runs, output)
    assert output.read_text() == "precious"
    plot_workdirs(runs, output, overwrite=True)
    assert output.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("curves.jpg", "must end in one of .pdf, .png, .svg."),
        ("missing/curves.png", "missing is not a folder."),
    ],
)
def test_a_bad_output_is_refused(runs, tmp_path, name, message):
    with pytest.raises(UserError, match=f"{re.escape(message)}$"):
        plot_workdirs(runs, tmp_path / name)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run of"):
        plot_workdirs([str(tmp_path)], tmp_path / "curves.png")


def test_a_run_without_an_evaluation_is_refused(tmp_path):
    run = make_run(tmp_path / "young", [])
    with pytest.raises(UserError, match="holds no evaluation yet: there is nothing to draw"):
        plot_workdirs([run], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
