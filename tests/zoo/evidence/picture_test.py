import pytest

from zoo.evidence import picture
from zoo.evidence.experiment import Arm, Experiment


def experiment(arms, columns):
    own = tuple(Arm(arm, {}) for arm in arms)
    return Experiment("t", "s", "a", "mlp", {}, own, (), {}, tuple(columns))


def test_arms_curves_and_diverged_runs_are_drawn(tmp_path):
    curve = [(10, 0.1), (20, 0.4)]
    document = {
        "arms": {
            "whole": {"accuracy": [0.4, 0.5]},
            "diverged": {"accuracy": [0.1, 0.1]},
            "without": {},
            "partly": {"accuracy": [0.4, None]},
        },
        "percentiles": {"whole": [(10, -1.0, 0.0, 1.0), (20, -2.0, 0.5, 2.0)]},
        "curves": {
            "whole": [curve, curve],
            "diverged": [curve[:1], curve],
            "without": [],
            "partly": [curve, []],
        },
    }
    path = tmp_path / "picture.png"
    picture.draw(experiment(document["arms"], ["accuracy"]), document, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [each.name for each in tmp_path.iterdir()] == ["picture.png"]


def document(arms):
    curves = {arm: [[(10, 0.1), (20, 0.1 * number)]] for number, arm in enumerate(arms)}
    return {"arms": dict(sorted(arms.items())), "curves": curves}  # as in a file


def drawn(arms, metrics):
    *curves, ends = picture.figure(experiment(arms, metrics), document(arms)).axes
    return [axes for axes in curves if axes.axison], ends


@pytest.mark.parametrize("count", [2, 4, 5, 8, 10])
def test_many_arms_have_a_panel_each(count):
    """With the others in grey, beside a row of the right half for each."""
    names = [f"arm {number}" for number in range(count)]
    panels, ends = drawn({name: {"accuracy": [0.5]} for name in names}, ["accuracy", "gap"])
    assert [label.get_text() for label in ends.get_yticklabels()] == names
    colored = [[line for line in axes.lines if line.get_color() != "0.75"] for axes in panels]
    assert [axes.get_title() for axes in panels] == (names if count > 4 else [""])
    assert [len(lines) for lines in colored] == ([1] * count if count > 4 else [count])
    ends_at = [line.get_ydata()[-1] for lines in colored for line in lines]
    assert ends_at == pytest.approx([10.0 * number for number in range(count)])
    assert {len(axes.lines) for axes in panels} == {count}


def test_the_only_arm_shows_all_shares():
    numbers = {"accuracy": [0.4, 0.6], "noise": [0.25], "gap": [1.0]}
    (_,), ends = drawn({"only": numbers}, list(numbers))
    assert [label.get_text() for label in ends.get_yticklabels()] == ["accuracy", "noise"]
    assert list(ends.lines[0].get_xdata()) == [40, 60]
