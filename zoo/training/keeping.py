"""What a run keeps: checkpoints to resume from, and the trained models at the end."""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from zoo.errors import DivergedError, UserError
from zoo.trained.card import write_card
from zoo.training import pictures
from zoo.training.divergence import all_finite, diverged
from zoo.training.records import metrics
from zoo.training.records.outputs import Outputs
from zoo.training.setup import Setup
from zoo.training.state import State
from zoo.training.storage import files
from zoo.training.storage.checkpoints import CheckpointStore
from zoo.training.storage.workdir import Workdir
from zoo.training.storage.writing import writing


class Keeper:
    """Saves a run, and resumes it.

    Every worker has one; the chief's alone writes.

    Args:
        setup: The run's.
        workdir: Where the run is saved.

    Attributes:
        saved_at: Step of the newest checkpoint; 0 before the first.
    """

    def __init__(self, setup: Setup, workdir: Workdir) -> None:
        self._setup = setup
        self._workdir = workdir
        config = setup.config
        self._store = CheckpointStore(
            workdir.checkpoints,
            setup.variables,
            keep=config["keep_checkpoints"],
            keep_every=config["keep_every_steps"],
            replicas=setup.workers.strategy.num_replicas_in_sync,
            report=setup.warn,
        )
        self.saved_at = 0
        self._saved_when = time.monotonic()
        self._best: metrics.Record | None = None

    def check(self) -> None:
        """Raises a `UserError` if the run cannot be resumed for want of checkpoints."""
        if not self._store.check() and self._workdir.config.is_file() and self._workdir.saved:
            raise self._lost(metrics.read(self._workdir.metrics, lambda problem: None))

    def _lost(self, records: Sequence[metrics.Record]) -> UserError:
        recorded = f", recorded up to step {records[-1].step}," if records else ""
        return UserError(
            f"{self._workdir.path} has lost its checkpoints: the run{recorded} cannot be resumed. "
            "To train from the beginning, choose another --workdir."
        )

    def resume(self) -> tuple[State, int]:
        """Restores the newest checkpoint, if the run has one.

        Returns:
            The state that was saved with it, or a fresh one, and the step of the last evaluation.

        Raises:
            UserError: When the run has lost its checkpoints, or none of them is usable.
        """
        setup = self._setup
        restored = setup.workers.chiefs(self._restored)
        if restored["state"] is None:
            return State(), restored["evaluated_at"]
        setup.workers.copy_from_chief(setup.variables)
        setup.own_statistics.scatter()
        state = State.from_json(restored["state"])
        self.saved_at = state.step
        setup.say(f"resuming from step {state.step}")
        return state, restored["evaluated_at"]

    def _restored(self) -> dict[str, Any]:
        """Restores the chief's variables; returns what the other workers must know."""
        config, workdir = self._setup.config, self._workdir
        state = self._store.restore()
        records = metrics.read(workdir.metrics, self._setup.warn)
        last, saved = records[-1].step if records else 0, workdir.saved
        if saved is None:  # an earlier version's run
            saved = last > config["checkpoint_every_steps"]
        if state is None and saved:
            raise self._lost(records)
        if state is not None:
            workdir.note_checkpoints(True)
        step = 0 if state is None else state["step"]
        if not records and step >= config["log_every_steps"]:
            self._setup.warn(
                f"the records up to step {step} are gone from {workdir.metrics}, which is begun "
                "anew."
            )
        records = [record for record in records if record.step <= step]
        kept = self._store.steps()
        for record in records:
            if record.split == "test" and record.step in kept:
                self.note(record)
        # A kill may come between the records of one evaluation.
        evaluated = [
            {record.step for record in records if record.split == split}
            for split in self._setup.models
        ]
        return {"state": state, "evaluated_at": max(set.intersection(*evaluated), default=0)}

    def note(self, record: metrics.Record) -> None:
        """Remembers the step with the best test accuracy, the first of equal ones."""
        if self._best is None or record.accuracy > self._best.accuracy:
            self._best = record

    @property
    def is_late(self) -> bool:
        """Whether a checkpoint is due by the clock, which is the chief's."""
        minutes = self._setup.config["checkpoint_every_minutes"]
        due = self._saved_when + 60 * minutes
        return self._setup.workers.is_chief and minutes > 0 and time.monotonic() > due

    def save(self, state: State, outputs: Outputs) -> None:
        """Saves a checkpoint whose records are all on the disk. All workers must call it together.

        Args:
            state: What the loop remembers.
            outputs: Where the records are.

        Raises:
            DivergedError: When a weight is not finite.
        """
        setup = self._setup
        if not all_finite(setup.model.trainable_variables):
            raise self.diverged(state.step, math.nan)
        self.saved_at, self._saved_when = state.step, time.monotonic()
        setup.own_statistics.gather()
        if setup.workers.is_chief:
            outputs.sync()
            self._store.save(state.step, dataclasses.asdict(state))
            self._workdir.note_checkpoints(True)

    def prune(self) -> None:
        """Removes the checkpoints that need not stay."""
        best = self._best if self._setup.config["keep_best"] else None
        self._store.prune(None if best is None else best.step)

    def forget(self, step: int) -> None:
        """Removes the checkpoint of a step, if there is one."""
        if self._setup.workers.is_chief:
            self._store.remove(step)
            self._workdir.note_checkpoints(bool(self._store.newest_first()))

    def diverged(self, step: int, loss: float, images: Any = None) -> DivergedError:
        """Returns the error for a loss that is not finite. No checkpoint holds such a step."""
        return diverged(
            self._setup, step, loss, next(iter(self._store.newest_first()), None), images
        )

    def save_models(self) -> None:
        """Writes `model.keras`, which marks the run as finished, and the averages before it.

        It saves a copy with ordinary variables: only all workers together can read those of a
        strategy, and the chief alone writes.
        """
        paths = {"test_averaged": self._workdir.averaged, "test": self._workdir.model}
        for split, path in paths.items():
            if trained := self._setup.models.get(split):
                # The counters of schedules are variables, but no weights.
                values = [keras.ops.convert_to_numpy(variable) for variable in trained.variables]
                write = functools.partial(self._write_model, trained, values, path)
                self._setup.workers.chiefs(write)

    def _write_model(self, trained: keras.Model, values: list[Any], path: Path) -> None:
        """Writes a model with these values of its variables."""
        model = keras.models.clone_model(trained)
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)
        with writing(path), files.replacing(path) as temporary:
            model.save(temporary)
            setup = self._setup
            write_card(temporary, pictures.card(setup.config, setup.dataset, setup.test_set))
