"""Runs of an experiment: trained and measured, several at a time, none of them twice."""

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zoo.errors import DivergedError, UserError
from zoo.evidence.experiment import Run
from zoo.training.cli import signals, terminal
from zoo.training.storage import files


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a run gave.

    Attributes:
        arm: Name of the arm.
        seed: The run's.
        numbers: What was measured: a number for each metric.
        curve: Step and test accuracy of each evaluation.
        seconds: Time of the training.
        percentiles: Those of `zoo.evidence.percentiles`, where the arm follows a layer.
    """

    arm: str
    seed: int
    numbers: dict[str, float]
    curve: list[tuple[int, float]]
    seconds: float
    percentiles: list[Any] = dataclasses.field(default_factory=list)


def run_all(runs: Sequence[Run], folder: Path, processes: int, console: Console) -> list[Measured]:
    """Trains and measures the runs that are left; returns what all gave, in the runs' order.

    A run that was interrupted is resumed, and one that is finished is not run again.

    Args:
        runs: The runs, each with a folder of its own name.
        folder: Where their folders are, or will be.
        processes: How many at a time.
        console: Where to show a progress bar.

    Raises:
        UserError: When a run cannot start or is killed, or its folder holds another one.
    """
    left = [run for run in runs if not _record_of(run, folder).is_file()]
    for run in runs:
        if run not in left:
            read(run, folder)  # refuses another run's folder before anything is trained
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeRemainingColumn(), console=console) as progress,
        _workers(min(processes, len(left)), processes, console) as pool,
    ):
        task = progress.add_task("runs", total=len(runs), completed=len(runs) - len(left))
        try:
            with _unheard():  # by the workers, which begin here
                pending = [pool.submit(_do, run, folder) for run in left]
            for done in concurrent.futures.as_completed(pending):
                done.result()
                progress.advance(task)
        except BrokenProcessPool as error:
            raise UserError(
                "A process of a run was killed, perhaps for lack of memory. The same command goes "
                "on; --processes=1 takes the least memory."
            ) from error
    return [read(run, folder) for run in runs]


def read(run: Run, folder: Path) -> Measured:
    """Returns what a finished run gave.

    Raises:
        UserError: When its folder holds a run with other keys, or the file is damaged.
    """
    path = _record_of(run, folder)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        flags, curve = values.pop("flags"), [tuple(point) for point in values["curve"]]
        measured = Measured(**values | {"curve": curve})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged: {type(error).__name__}: {error}. Remove it, and the same command "
            "measures the run again."
        ) from error
    if flags != run.flags:
        raise UserError(
            f"{path} is of a run with other keys. Nothing was written: choose another --workdir, "
            "or move that folder away."
        )
    return measured


def _record_of(run: Run, folder: Path) -> Path:
    return folder / run.name / "measured.json"


@contextlib.contextmanager
def _workers(
    workers: int, processes: int, console: Console
) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Yields processes that are started afresh: TensorFlow does not survive a fork.

    If the body is left by an error or a signal, those that train save and stop after their step,
    and nothing else is begun. Another Ctrl-C meanwhile ends them at once.
    """
    context = multiprocessing.get_context("spawn")
    ends, stays_open = context.Pipe(duplex=False)
    with _unheard():  # by the tracker of semaphores, which a SIGHUP would end
        pool = concurrent.futures.ProcessPoolExecutor(
            max(workers, 1), mp_context=context, initializer=_start, initargs=(processes, ends)
        )
    try:
        yield pool
    except BaseException:
        try:
            stays_open.close()
            if multiprocessing.active_children():
                terminal.say(
                    console, "stopping: runs under way save first. Ctrl-C ends them at once."
                )
            pool.shutdown(cancel_futures=True)
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():
                child.kill()
            raise
        raise
    pool.shutdown()
    stays_open.close()


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Has processes that begin in the body hear no Ctrl-C, SIGTERM or SIGHUP, but `_start`'s pipe.

    A terminal sends them to all processes at once, and one that is idle would print a traceback.
    Here they wait for the end of the body. Elsewhere than in the main thread nothing hears them.
    """
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    came: list[int] = []
    # Another thread of this process may receive one, and then Python runs its handler here.
    handlers = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in numbers
        if threading.current_thread() is threading.main_thread()
        and callable(signal.getsignal(number))
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for one in came:
            signal.raise_signal(one)


def _start(processes: int, ends: Connection) -> None:
    """Loads TensorFlow, with this process's share of the cores."""
    end_with(ends)
    from zoo.training.cli.runtime import load_tensorflow

    load_tensorflow(quiet=True)
    import tensorflow as tf

    # TensorFlow warns that the step is traced anew for each run.
    tf.get_logger().setLevel("ERROR")
    threads = max((os.cpu_count() or 1) // processes, 1)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def end_with(ends: Connection) -> None:
    """Ends this process when the other end of a pipe is closed, or its process killed.

    What trains saves first and stops after its step. A run can be resumed, whenever it ends.
    """

    def wait() -> None:
        ends.poll(None)
        while signals.ask():
            time.sleep(0.05)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _do(run: Run, folder: Path) -> None:
    """Trains and measures one run, and writes down what it gave."""
    import keras
    from absl import flags

    from zoo.training.cli.arguments import parse_arguments
    from zoo.training.storage.workdir import Workdir

    keras.backend.clear_session()
    workdir = Workdir(folder / run.name)
    config = parse_arguments(["", *run.flags], flags.FlagValues())[0].to_dict()
    measured = _measured(run, config, workdir)
    document = dataclasses.asdict(measured) | {"flags": run.flags}
    files.write_json(_record_of(run, folder), document)


def _measured(run: Run, config: dict[str, Any], workdir: Any) -> Measured:
    """Trains, or resumes, a run, and measures its model."""
    from zoo.evidence import measures, percentiles
    from zoo.training.records import metrics
    from zoo.training.run import train

    diverged = False
    try:
        if status := train(config, str(workdir.path), Console(quiet=True)):
            raise KeyboardInterrupt(status)
    except DivergedError:
        diverged = True
    records = metrics.read(workdir.metrics)
    curve = [(record.step, record.accuracy) for record in records if record.split == "test"]
    if diverged:
        numbers = measures.of_diverged(config, run.arm.measures)
    else:
        numbers = measures.of_records(records)
        numbers |= measures.of_model(workdir, config, run.arm.measures)
    seconds = records[-1].seconds if records else 0.0
    follows = run.arm.follows if not diverged else None
    followed = percentiles.follow(workdir, config, follows) if follows else []
    return Measured(run.arm.name, run.seed, numbers, curve, seconds, followed)
