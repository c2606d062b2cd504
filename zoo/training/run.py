"""From a config and a folder to a trained model: what `zoo.train` calls."""

import contextlib
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from zoo.training import config as configs
from zoo.training.cli import terminal
from zoo.training.cli.runtime import load_tensorflow
from zoo.training.distribution.clusters import Cluster, read_cluster
from zoo.training.records.summary import print_summary
from zoo.training.storage.workdir import Workdir


def train(
    config: Mapping[str, Any],
    path: str,
    console: Console,
    *,
    dry_run: bool = False,
    profile_steps: tuple[int, int] | None = None,
) -> int:
    """Trains a model as `config` says, or resumes an interrupted training of it.

    The same config and working directory give the same weights, bit for bit, however often the
    run was interrupted: a minibatch is a function of the seed and the step, and a checkpoint holds
    the rest.

    Args:
        config: Checked, as `zoo.training.cli.arguments.parse_arguments` returns it.
        path: The working directory.
        console: Where to report to.
        dry_run: Whether to do two steps, say what the run takes, and write nothing.
        profile_steps: The first and the last step of a profile for TensorBoard.

    Returns:
        The exit status: 0, or 128 + the signal that stopped the run.

    Raises:
        UserError: When the run cannot start, be resumed or go on.
    """
    cluster = read_cluster(config["strategy"])
    workdir = Workdir(path)
    # A single process finds this out before it loads TensorFlow.
    if not dry_run and len(cluster) == 1 and _finished(workdir, config):
        return _nothing_to_do(workdir, console)
    load_tensorflow(quiet=len(cluster) > 1)
    if dry_run:
        return _rehearse(config, cluster, console)
    return _train(config, workdir, cluster, console, profile_steps)


def _rehearse(config: Mapping[str, Any], cluster: Cluster, console: Console) -> int:
    """Does two steps, and writes nothing."""
    from zoo.training.distribution.strategies import make_strategy
    from zoo.training.distribution.workers import Workers, lost_workers_named
    from zoo.training.records.rehearsal import rehearse
    from zoo.training.setup import Setup

    with lost_workers_named(cluster):
        workers = Workers(make_strategy(config, cluster), cluster)
        workers.check_config(config)
        console.quiet |= not workers.is_chief
        rehearse(Setup(config, console, workers))
    return 0


def _train(
    config: Mapping[str, Any],
    workdir: Workdir,
    cluster: Cluster,
    console: Console,
    profile_steps: tuple[int, int] | None,
) -> int:
    """Trains, with the other workers if there are any, once TensorFlow is loaded."""
    from zoo.training import pictures
    from zoo.training.distribution.strategies import make_strategy
    from zoo.training.distribution.workers import Workers, lost_workers_named
    from zoo.training.loop import Trainer
    from zoo.training.records.environment import environment

    with lost_workers_named(cluster), contextlib.ExitStack() as stack:
        workers = Workers(make_strategy(config, cluster), cluster)
        workers.check_config(config)
        console.quiet |= not workers.is_chief
        if workers.chiefs(lambda: _finished(workdir, config)):
            return workers.chiefs(lambda: _nothing_to_do(workdir, console))
        if workers.is_chief and workdir.model.exists() and not workdir.finished:
            terminal.say(console, f"warning: {workdir.model} is damaged: it is written again.")
        # Everything that can be wrong with the config is found here, before anything is written.
        workers.chiefs(lambda: pictures.check_place(config, workdir.path))
        trainer = Trainer(config, workdir, console, workers, profile_steps)
        if workers.is_chief:
            _say_changes(workdir, config, console)
        workers.chiefs(
            lambda: stack.enter_context(workdir.opened(config, environment(), trainer.check))
        )
        status = trainer.run()
        if status == 0 and workers.is_chief:
            print_summary(workdir, console)
        return status


def _finished(workdir: Workdir, config: Mapping[str, Any]) -> bool:
    """Returns whether the folder holds this run, finished; checks that the run may use it."""
    workdir.check(config)
    return workdir.finished and not workdir.changes(config).longer


def _say_changes(workdir: Workdir, config: Mapping[str, Any], console: Console) -> None:
    """Says what differs from the run so far, and what that means."""
    _, allowed, longer = workdir.changes(config)
    if allowed:
        words = configs.listed(allowed, "before", "now")
        terminal.say(console, f"changed, without an effect on the training: {words}")
    if longer:
        before = {**config, **workdir.read_config()}
        rates = [_rate_at_the_end_of(before, run) for run in (before, config)]
        terminal.say(
            console,
            f"warning: the run becomes longer: {configs.listed(longer, 'before', 'now')}. Its "
            "learning rate, and what is a share of it, follow the longer run from here on: at step "
            f"{before['num_steps']} the rate was {rates[0]:.4g}, and is {rates[1]:.4g} now.",
        )


def _rate_at_the_end_of(shorter: Mapping[str, Any], config: Mapping[str, Any]) -> float:
    """Returns the learning rate that a config has where a shorter run ends."""
    from zoo.training.optimizers import learning_rate_schedule

    return float(learning_rate_schedule(config)(shorter["num_steps"] - 1))


def _nothing_to_do(workdir: Workdir, console: Console) -> int:
    """Sums up a finished run; returns the exit status."""
    terminal.say(console, f"{workdir.path} holds this run, finished: there is nothing to do.")
    print_summary(workdir, console)
    return 0
