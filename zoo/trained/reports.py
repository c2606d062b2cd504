"""What an evaluation found: as a dictionary for a file, and as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zoo.data.sources import Source
from zoo.trained.opening import Trained
from zoo.trained.scores import Scores
from zoo.training.cli import terminal
from zoo.training.storage import files

#: More classes than that stand in the JSON file only.
_MOST_ROWS = 40

#: How many classes top 5 looks at.
_TOP = 5


def report(
    source: Source, scores: Scores, members: Sequence[tuple[Trained, Scores]]
) -> dict[str, Any]:
    """Returns what was found, as JSON can hold it.

    Args:
        source: The images.
        scores: The scores of the averaged probabilities.
        members: The models, and the scores of each alone.
    """
    card = members[0][0].card
    names = source.class_names if card.numbered else card.class_names
    return {
        **_totals(scores),
        "num_examples": scores.num_examples,
        "dataset": source.name,
        "split": source.split,
        **_described(members),
        "classes": [
            {"name": name, **found} for name, found in zip(names, scores.per_class(), strict=True)
        ],
        "confusion": scores.confusion.tolist(),
        "most_confused": [
            {"class": names[i], "taken_for": names[j], "examples": n}
            for i, j, n in scores.most_confused()
        ],
    }


def _totals(scores: Scores) -> dict[str, float]:
    return {
        "accuracy": scores.accuracy,
        "top5_accuracy": scores.top5_accuracy,
        "loss": scores.loss,
    }


def _described(members: Sequence[tuple[Trained, Scores]]) -> dict[str, Any]:
    """Returns what the model was; for several, what each was and reached alone."""
    each = [_of_model(trained) for trained, _ in members]
    if len(each) == 1:
        return each[0]
    found = [_totals(scores) for _, scores in members]
    return {
        "model": ", ".join(dict.fromkeys(one["model"] for one in each)),
        "norm": ", ".join(dict.fromkeys(one["norm"] for one in each)),
        "members": [one | alone for one, alone in zip(each, found, strict=True)],
    }


def _of_model(trained: Trained) -> dict[str, Any]:
    return {
        "model": trained.card.model,
        "norm": trained.card.norm,
        "steps": trained.config["num_steps"] if trained.workdir else None,
        "model_file": trained.file.name if trained.file else trained.name,
        "model_sha256": files.sha256(trained.file) if trained.file else None,
    }


def print_report(
    found: Mapping[str, Any], members: Sequence[tuple[Trained, Scores]], console: Console
) -> None:
    """Prints an evaluation as tables.

    Args:
        found: What `report` returns, and `statistics`, `num_samples`, `batch_size`, `crops` and
            `seconds`.
        members: The models, and the scores of each alone.
        console: Where to print.
    """
    terminal.print_table(console, _title(found), _rows(found, members))
    if len(found["classes"]) <= _MOST_ROWS:
        terminal.show(console, _class_table(found))
    for mistake in found["most_confused"]:
        times = "once" if mistake["examples"] == 1 else f"{mistake['examples']} times"
        terminal.say(console, f"{mistake['class']} taken for {mistake['taken_for']}: {times}")


def _title(found: Mapping[str, Any]) -> str:
    title = f"{found['model']} with norm={found['norm'] or 'its own'}"
    if "members" in found:
        return f"the average of {len(found['members'])} models: {title}"
    return f"{title} after {found['steps']} steps" if found["steps"] else title


def _rows(
    found: Mapping[str, Any], members: Sequence[tuple[Trained, Scores]]
) -> list[tuple[str, str]]:
    at_a_time = min(found["batch_size"], found["num_examples"])
    statistics = {
        "moving": "moving",
        "precise": f"precise, of {found['num_samples']} training images",
        "minibatch": f"minibatch, of {at_a_time} images at a time",
    }
    rows = [
        ("statistics", statistics[found["statistics"]]),
        ("accuracy", _percent(found["accuracy"])),
        ("loss", f"{found['loss']:.4f}"),
        ("examples", f"{found['num_examples']} of {found['dataset']}, {found['split']}"),
        ("time", terminal.duration(found["seconds"])),
    ]
    if len(found["classes"]) > _TOP:  # of fewer classes the label is always among them
        rows.insert(2, ("top 5", _percent(found["top5_accuracy"])))
    if found["crops"] > 1:
        rows.insert(1, ("crops", str(found["crops"])))
    alone = len(members) == 1
    for trained, scores in members:
        name = str(trained.file or trained.name)
        rows.append(("model", name if alone else f"{name}: {_percent(scores.accuracy)} alone"))
    return rows


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _class_table(found: Mapping[str, Any]) -> Table:
    """A line for each class: its examples, recall and precision."""
    table = Table("class", "examples", "recall", "precision")
    for one in found["classes"]:
        shares = [one[key] for key in ("recall", "precision")]
        words = ["-" if share is None else f"{100 * share:.1f} %" for share in shares]
        table.add_row(Text(one["name"]), str(one["examples"]), *words)
    return table
