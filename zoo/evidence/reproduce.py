"""From a name to verdicts: what `zoo.reproduce` calls."""

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from zoo import experiments
from zoo.errors import UserError, nearest
from zoo.evidence import page, picture, results
from zoo.evidence.experiment import SCALES, Experiment, Run
from zoo.evidence.runs import run_all
from zoo.training.cli import terminal
from zoo.training.storage import files, places
from zoo.training.storage.workdir import Workdir


def names() -> list[str]:
    """Returns the names of all experiments."""
    return sorted(module.name for module in pkgutil.iter_modules(experiments.__path__))


def load(name: str) -> Experiment:
    """Returns the experiment of a name.

    Raises:
        UserError: When there is no such experiment.
    """
    if name not in names():
        known = ", ".join(names())
        raise UserError(
            f"There is no experiment {name!r}.{nearest(name, names())} Experiments are {known}; "
            "`all` runs all of them."
        )
    return importlib.import_module(f"zoo.experiments.{name}").EXPERIMENT


def reproduce(
    name: str, path: str, scale: str, seeds: int | None, processes: int, console: Console
) -> None:
    """Runs an experiment, or `all`, and writes results.json, a picture and a section of the page.

    It goes on from what was run, or interrupted, in the same folder before.

    Args:
        name: Name of the experiment.
        path: The folder; each experiment has one of its own in it.
        scale: One of `SCALES`.
        seeds: Number of seeds; that of the scale by default.
        processes: How many runs at a time.
        console: Where to report to.

    Raises:
        UserError: When there is no such experiment or scale, or a run cannot start.
    """
    chosen = {each: load(each) for each in (names() if name == "all" else [name])}
    # Everything that can be wrong with the flags is found before anything is run.
    places.check_folder(Path(path).expanduser())
    if Workdir(path).config.exists():
        raise UserError(
            f"{path} holds a run of zoo.train: nothing was written. Choose another folder, such as "
            "--workdir=runs/evidence."
        )
    runs = {each: list(chosen[each].runs(scale, seeds)) for each in chosen}
    for each in chosen:
        _check_own(Path(path).expanduser() / each / scale, each, scale)
    for each, experiment in chosen.items():
        folder = Path(path).expanduser() / each / scale
        terminal.say(console, f"{each}: {len(runs[each])} runs in {folder}")
        _reproduce(each, experiment, scale, runs[each], folder, processes, console)


def _check_own(folder: Path, name: str, scale: str) -> None:
    """Raises a `UserError` if a result would replace a file that no reproduction wrote."""
    theirs = [folder / one for one in _written(name) if (folder / one).exists()]
    try:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        own = (found["name"], found["scale"]) == (name, scale)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        own = False
    if theirs and not own:
        raise UserError(
            f"{theirs[0]} would be replaced, and nothing beside it says that zoo.reproduce wrote "
            "it: nothing was written. Move it away, or choose another --workdir."
        )


def _written(name: str) -> tuple[str, str, str]:
    """Names of the files of an experiment's results; the first says whose they are."""
    return "results.json", f"{name}.png", "section.md"


def _reproduce(
    name: str,
    experiment: Experiment,
    scale: str,
    runs: list[Run],
    folder: Path,
    processes: int,
    console: Console,
) -> None:
    measured = run_all(runs, folder, processes, console)
    found = results.document(name, experiment, scale, measured)
    document, drawing, section = _written(name)
    files.write_json(folder / document, found)
    picture.draw(experiment, found, folder / drawing)
    files.write_text(folder / section, page.section(experiment, found))
    _print(experiment, found, console)
    terminal.say(console, f"written to {folder}: {', '.join(_written(name))}")


def _print(experiment: Experiment, found: dict[str, Any], console: Console) -> None:
    """Prints the claims and their verdicts."""
    table = Table("claim", "difference", "verdict", title=experiment.title)
    for claim in found["claims"]:
        table.add_row(claim["text"], page.found(claim), claim["verdict"])
    terminal.show(console, table)


def listing(console: Console) -> None:
    """Prints the experiments, and what each costs."""
    table = Table(Column("experiment", no_wrap=True), "what", *SCALES)
    for name in names():
        experiment = load(name)
        costs = (_cost(experiment, scale) for scale in SCALES)
        table.add_row(name, f"{experiment.title} ({experiment.source})", *costs)
    terminal.show(console, table)


def _cost(experiment: Experiment, scale: str) -> str:
    return f"{len(list(experiment.runs(scale)))} runs: {experiment.scales[scale].cost}"
