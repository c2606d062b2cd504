"""From a config and a folder to a trained model: what `zoo.train` calls."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from zoo.training import reporting
from zoo.training.runtime import load_tensorflow
from zoo.training.summary import print_summary
from zoo.training.workdir import Workdir


def train(config: Mapping[str, Any], path: str, console: Console) -> int:
    """Trains a model as `config` says, or resumes an interrupted training of it.

    The same config and working directory give the same weights, bit for bit, however often the
    run was interrupted: a minibatch is a function of the seed and the step, and a checkpoint holds
    the rest.

    Args:
        config: Checked, as `zoo.training.arguments.parse_arguments` returns it.
        path: The working directory.
        console: Where to report to.

    Returns:
        The exit status: 0, or 128 + the signal that stopped the run.

    Raises:
        UserError: When the run cannot start, be resumed or go on.
    """
    workdir = Workdir(path)
    workdir.check(config)
    if workdir.finished:
        reporting.say(console, f"{path} holds this run, finished: there is nothing to do.")
        print_summary(workdir, console)
        return 0
    load_tensorflow()
    from zoo.training.loop import Trainer

    # Everything that can be wrong with the config is found here, before anything is written.
    trainer = Trainer(config, workdir, console)
    with workdir.opened(config):
        return trainer.run()
