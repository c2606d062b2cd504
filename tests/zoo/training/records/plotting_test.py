import json
import re

import matplotlib as mpl
import matplotlib.image
import pytest

from zoo.errors import UserError
from zoo.training.records.metrics import MetricsLog, Record
from zoo.training.records.plotting import legend, loss_limit, plot_workdirs


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


def test_floats_are_short_and_bookkeeping_is_left_out():
    configs = [
        {"learning_rate": 0.1 + 0.2, "log_every_steps": 1, "data_dir": None, "seed": 0},
        {"learning_rate": 1e-05, "log_every_steps": 2, "data_dir": "a", "seed": 0},
    ]
    assert legend(["x", "y"], configs) == ["learning_rate=0.3", "learning_rate=1e-05"]
    bookkeeping = [{"seed": 0, "eval_every_steps": steps} for steps in (1, 2)]
    assert legend(["x", "y"], bookkeeping) == ["x", "y"]


def curve(*losses):
    return [Record(1, "test", loss, 0.5, 0.1, None, None, 1.0, 1.0) for loss in losses]


@pytest.mark.parametrize(
    ("curves", "limit"),
    [
        ([curve(2.3, 0.1)], None),
        ([curve(2.0, 0.1), curve(1.0, 9.0)], None),
        ([curve(2.0, 0.1), curve(1.0, 87.0)], 4.0),
        ([curve(87.0), curve(2.0, 0.5), curve(3.0, 0.5), curve(0.5)], 4.0),
    ],
)
def test_a_diverged_run_does_not_flatten_the_others(curves, limit):
    assert loss_limit(curves) == limit


def test_a_long_legend_stays_in_the_picture(tmp_path):
    options = {f"option_{letter}": 0.123456 for letter in "abcdefghijkl"}
    runs = [
        make_run(tmp_path / "one", [0.5], **options),
        make_run(tmp_path / "two", [0.5], **dict.fromkeys(options, 7)),
    ]
    plot_workdirs(runs, tmp_path / "curves.png")
    width = mpl.image.imread(tmp_path / "curves.png").shape[1]
    assert 900 < width < 1200  # 7 inches of 150 pixels: the legend adds nothing.


def test_a_picture_is_drawn_with_labelled_axes_and_legend(runs, tmp_path):
    with mpl.rc_context({"svg.fonttype": "none"}):
        plot_workdirs(runs, tmp_path / "curves.svg")
    picture = (tmp_path / "curves.svg").read_text()
    for text in (
        "test accuracy (%)",
        "test cross-entropy (nats)",
        "steps",
        "norm=batch_renorm, r_max=3",
        "norm=batch_norm, r_max=not set",
    ):
        assert text in picture


@pytest.mark.parametrize("name", ["_run", r"a$\x{$b", "a$b$c"])
def test_the_legend_holds_any_name_as_it_is(tmp_path, monkeypatch, name):
    make_run(tmp_path / name, [0.5])
    make_run(tmp_path / "other", [0.5])
    monkeypatch.chdir(tmp_path)
    with mpl.rc_context({"svg.fonttype": "none"}):
        plot_workdirs([name, "other"], tmp_path / "curves.svg")
    picture = (tmp_path / "curves.svg").read_text()
    assert f">{name}</text>" in picture
    assert ">other</text>" in picture


def test_the_legend_leaves_the_curves_their_room(tmp_path):
    options = {f"option_{letter}": 0.123456 for letter in "abcdefghijkl"}
    heights = []
    for count in (2, 10):
        runs = [
            make_run(tmp_path / f"{count}-{run}", [0.5], seed=run, **dict.fromkeys(options, run))
            for run in range(count)
        ]
        plot_workdirs(runs, tmp_path / f"{count}.png")
        heights.append(mpl.image.imread(tmp_path / f"{count}.png").shape[0])
    # 8 entries of 2 lines more: text of 10 points, half a line between entries.
    assert heights[1] - heights[0] == pytest.approx(8 * 2.9 * 10 / 72 * 150, rel=0.1)


def test_a_png_is_a_png(runs, tmp_path):
    plot_workdirs(runs[:1], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_overwritten_only_when_told_to(runs, tmp_path):
    output = tmp_path / "curves.png"
    output.write_text("precious")
    with pytest.raises(UserError, match="exists: add --overwrite, or choose another --output"):
        plot_workdirs(runs, output)
    assert output.read_text() == "precious"
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "nothing.png")
    with pytest.raises(UserError, match="exists: add --overwrite, or choose another --output"):
        plot_workdirs(runs, link)
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


def test_a_run_without_an_evaluation_is_left_out(runs, tmp_path):
    young = make_run(tmp_path / "young", [], norm="none")
    with pytest.raises(UserError, match="holds no evaluation: the run is too young"):
        plot_workdirs([young], tmp_path / "curves.svg")
    assert not (tmp_path / "curves.svg").exists()
    assert plot_workdirs([runs[0], young, runs[1]], tmp_path / "curves.svg") == [young]
    assert plot_workdirs(runs, tmp_path / "same.svg") == []
    picture = (tmp_path / "curves.svg").read_text()
    norms = ("norm=batch_norm", "norm=batch_renorm", "norm=none")
    assert [norm in picture for norm in norms] == [True, True, False]
