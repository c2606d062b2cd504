import io

import numpy as np
from rich.console import Console

from zoo.data import Dataset, Preparation
from zoo.trained.card import Card
from zoo.trained.opening import Trained
from zoo.trained.reports import print_report, report
from zoo.trained.scores import Scores


def test_what_was_found_is_told_and_printed():
    names = ("cat", "dog")
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 0, 1, 1])
    source = Dataset("pets", "all", images, labels, names)
    scores = Scores(2)
    scores.add(np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]]), labels)
    trained = Trained("pets.keras", None, Card(names, Preparation(), "net", "batch_norm"), {})
    found = report(source, scores, [(trained, scores)]) | {
        "seconds": 61.0,
        "statistics": "minibatch",
        "num_samples": None,
        "batch_size": 3,
        "crops": 10,
    }
    assert (found["accuracy"], found["num_examples"], found["confusion"]) == (
        0.75,
        4,
        [[2, 0], [1, 1]],
    )
    assert found["most_confused"] == [{"class": "dog", "taken_for": "cat", "examples": 1}]
    assert (found["model"], found["norm"], found["model_file"]) == (
        "net",
        "batch_norm",
        "pets.keras",
    )
    console = Console(file=io.StringIO(), width=120)
    print_report(found, [(trained, scores)], console)
    told = console.file.getvalue()
    assert told.startswith("net with norm=batch_norm\n")
    for words in ("minibatch, of 3 images at a time", "75.00 %", "4 of pets, all", "0:01:01"):
        assert words in told
    assert "dog taken for cat: once\n" in told
    assert "top 5" not in told  # of two
    [row] = [line for line in told.splitlines() if " cat " in line and "%" in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["cat", "2", "100.0 %", "66.7 %"]
