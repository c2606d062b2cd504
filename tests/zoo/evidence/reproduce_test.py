import io

import pytest
from absl import flags
from rich.console import Console

from zoo.errors import UserError
from zoo.evidence import measures, reproduce
from zoo.evidence.experiment import SCALES
from zoo.training.cli.arguments import parse_arguments


def test_names_are_modules():
    assert "non_iid" in reproduce.names()


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"no experiment 'non_idd'. Did you mean 'non_iid'\?"):
        reproduce.load("non_idd")


@pytest.mark.parametrize("name", reproduce.names())
@pytest.mark.parametrize("scale", SCALES)
def test_every_run_is_one_that_zoo_train_takes(name, scale):
    """Its keys, their values and what they need are those of the program's."""
    for run in reproduce.load(name).runs(scale, seeds=1):
        config, rest = parse_arguments(["", *run.flags], flags.FlagValues())
        assert rest == [""]
        assert config.seed == 0
        assert set(run.arm.measures) <= set(measures.MEASURES)


@pytest.mark.parametrize("name", reproduce.names())
@pytest.mark.parametrize("scale", SCALES)
def test_arms_leave_a_scale_its_effect(name, scale):
    experiment = reproduce.load(name)
    for run in experiment.runs(scale, seeds=1):
        assert run.keys.items() >= experiment.scales[scale].keys.items()


@pytest.mark.parametrize("name", reproduce.names())
def test_claims_are_about_what_is_measured(name):
    experiment = reproduce.load(name)
    known = {"accuracy", "best_accuracy", "training_accuracy"}
    if experiment.target is not None:
        known.add("steps_to_target")
    by_arm = {
        arm.name: known | set(arm.measures) | ({"drift", "widening"} if arm.follows else set())
        for arm in experiment.arms
    }
    for claim in experiment.claims:
        assert claim.left.metric in by_arm[claim.left.arm]
        if not isinstance(claim.right, float):
            assert claim.right.metric in by_arm[claim.right.arm]
    # Enough for a verdict.
    assert experiment.scales["default"].seeds >= 3


def test_a_run_of_zoo_train_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r" holds a run of zoo\.train: nothing was written\."):
        reproduce.reproduce("non_iid", str(tmp_path), "smoke", None, 1, Console(quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", ["results.json", "non_iid.png", "section.md"])
@pytest.mark.parametrize("beside", [None, "{}", '{"name": "leakage", "scale": "smoke"}'])
def test_a_file_of_somebody_else_is_left_alone(tmp_path, name, beside):
    folder = tmp_path / "non_iid" / "smoke"
    folder.mkdir(parents=True)
    if beside is not None:
        (folder / "results.json").write_text(beside)
    (folder / name).write_text("mine")
    message = r"would be replaced, and nothing beside it says that zoo\.reproduce wrote it"
    with pytest.raises(UserError, match=message):
        reproduce.reproduce("non_iid", str(tmp_path), "smoke", None, 1, Console(quiet=True))
    assert (folder / name).read_text() == "mine"


@pytest.mark.parametrize("width", [80, 200])
def test_the_list_names_all_and_what_they_cost(width):
    console = Console(file=io.StringIO(), width=width)
    reproduce.listing(console)
    text = console.file.getvalue()
    assert all(name in text for name in reproduce.names())
    assert "seconds" in text


@pytest.mark.slow
def test_a_smoke_writes_results_a_picture_and_a_section(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    reproduce.reproduce("mnist_sigmoid", str(tmp_path), "smoke", None, 1, console)
    folder = tmp_path / "mnist_sigmoid" / "smoke"
    assert (folder / "mnist_sigmoid.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "section.md").read_text().startswith("## A sigmoid net on MNIST")
    before = (folder / "results.json").read_bytes()
    reproduce.reproduce("mnist_sigmoid", str(tmp_path), "smoke", None, 1, console)
    assert (folder / "results.json").read_bytes() == before
