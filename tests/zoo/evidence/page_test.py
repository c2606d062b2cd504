from zoo.evidence import page, results
from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale
from zoo.evidence.runs import Measured

EXPERIMENT = Experiment(
    title="Two arms",
    source="Somebody 2015",
    about="A is better.",
    recipe="few_labels",
    keys={"num_steps": 10},
    arms=(Arm("A", {"norm": "batch_norm"}, ("gap",)), Arm("B", {}, ("gap",))),
    claims=(
        Claim("A leads.", "2 to 1", Term("A"), Term("B")),
        Claim("A is apart.", "", Term("A", "gap"), Term("B", "gap")),
    ),
    scales={"default": Scale({}, 2, "seconds")},
    columns=("accuracy", "gap", "steps_to_target"),
    target=0.5,
)


def measured(arm, seed, accuracy, **numbers):
    curve = [(5, accuracy / 2), (10, accuracy)]
    return Measured(arm, seed, {"accuracy": accuracy, **numbers}, curve, 1.5)


def document():
    runs = [
        measured("A", 0, 0.9, gap=0.1),
        measured("B", 0, 0.5, gap=0.2),
        measured("A", 1, 0.8, gap=0.3),
        measured("B", 1, 0.1, diverged=1.0),
    ]
    return results.document("two_arms", EXPERIMENT, "default", runs)


def test_a_section_has_claims_numbers_and_conditions():
    text = page.section(EXPERIMENT, document())
    assert "| A leads. | 2 to 1 | accuracy of 'A' is greater than accuracy of 'B' |" in text
    assert "| +55.0 ± 190.6 | **not decided** |" in text
    assert "gap of 'A' is greater than gap of 'B' | - | **not decided** |" in text
    assert "| A | 85.0 ± 7.1 | 0.2 ± 0.141 | 10 ± 0 |" in text
    assert "| B | 30.0 ± 28.3 (1 diverged) | 0.2 | 10 ± 0 |" in text
    assert "4 runs, 2 seeds, scale `default`, 0:00:06 of training on" in text
    assert "`python -m zoo.train --config=few_labels --config.num_steps=10" in text
    assert "](evidence/two_arms.png)" in text


def test_the_page_counts_verdicts():
    found = document()
    text = page.page([page.section(EXPERIMENT, found)], [found])
    assert "Claims on this page: 0 held, 0 not held, 2 not decided." in text
    assert "## Two arms" in text


def test_a_number_that_no_run_has_is_a_dash():
    assert page.cell({"gap": [None, None]}, "gap") == "-"
    assert page.cell({}, "gap") == "-"
