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
    arms=(Arm("A", {"norm": "batch_norm"}), Arm("B", {})),
    claims=(Claim("A leads.", "2 to 1", Term("A"), Term("B")),),
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
        measured("B", 0, 0.4, diverged=1.0),
        measured("A", 1, 0.8, gap=0.3),
        measured("B", 1, 0.3, diverged=1.0),
    ]
    return results.document("two_arms", EXPERIMENT, "default", runs)


def test_a_section_has_claims_numbers_and_conditions():
    text = page.section(EXPERIMENT, document())
    assert "| A leads. | 2 to 1 | accuracy of 'A' is greater than accuracy of 'B' |" in text
    assert "| +50.0 ± 0.0 | **held** |" in text
    assert "| A | 85.0 ± 7.1 | 0.2 ± 0.141 | 10 ± 0 |" in text
    assert "| B | 35.0 ± 7.1 (2 diverged) | - | 10 ± 0 |" in text
    assert "4 runs, 2 seeds, scale `default`, 0:00:06 of training on" in text
    assert "`python -m zoo.train --config=few_labels --config.num_steps=10" in text
    assert "](evidence/two_arms.png)" in text


def test_the_page_counts_verdicts():
    found = document()
    text = page.page([page.section(EXPERIMENT, found)], [found])
    assert "Claims on this page: 1 held, 0 not held, 0 not decided." in text
    assert "## Two arms" in text
