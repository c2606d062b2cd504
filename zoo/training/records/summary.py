"""What a finished training says at the end."""

import os
import shlex

from rich.console import Console

from zoo.training.cli import terminal
from zoo.training.records import metrics
from zoo.training.storage.workdir import Workdir


def print_summary(workdir: Workdir, console: Console) -> None:
    """Prints what a finished run reached, where its files are and what can be done next.

    Raises:
        UserError: When the run's records are gone.
    """
    [[*_, last]] = metrics.read_evaluations(workdir.metrics)
    config = workdir.read_config()
    averaged = [r for r in metrics.read(workdir.metrics) if r.split == "test_averaged"]
    rows = [("averaged weights", f"{100 * r.accuracy:.2f} %") for r in averaged[-1:]]
    terminal.print_table(
        console,
        f"{config['model']} with norm={config['norm']} on {config['dataset']}",
        [
            ("test accuracy", f"{100 * last.accuracy:.2f} %"),
            ("test loss", f"{last.loss:.4f}"),
            *rows,
            ("steps", str(last.step)),
            ("time", terminal.duration(last.seconds)),
            ("model", os.fspath(workdir.model)),
            ("metrics", os.fspath(workdir.metrics)),
            ("config", os.fspath(workdir.config)),
            ("checkpoints", os.fspath(workdir.checkpoints)),
        ],
    )
    path = shlex.quote(os.fspath(workdir.path))
    terminal.print_commands(
        console,
        [
            ("accuracy and loss, into evaluation.json", f"python -m zoo.evaluate --workdir={path}"),
            ("what images show", f"python -m zoo.predict --model={path} FILES-AND-FOLDERS"),
            ("a SavedModel", f"python -m zoo.export --model={path} --output=NEW-FOLDER"),
            ("the curves as a picture", f"python -m zoo.plot {path}"),
            ("the curves in a browser", f"tensorboard --logdir={path}"),
        ],
    )
