"""The training loop: steps, records, evaluations, checkpoints, and a model at the end."""

import contextlib
import dataclasses
import functools
import math
import signal
import time
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from keras_renorm import statistics
from zoo.data import datasets
from zoo.errors import UserError
from zoo.training import builders, evaluation
from zoo.training.cli import terminal
from zoo.training.cli.runtime import seed_everything
from zoo.training.cli.signals import StopRequest
from zoo.training.distribution.replicas import OwnStatistics
from zoo.training.distribution.workers import Workers
from zoo.training.divergence import all_finite, first_not_finite
from zoo.training.records import metrics
from zoo.training.records.outputs import open_outputs
from zoo.training.state import State, Window
from zoo.training.step import make_train_step
from zoo.training.storage import files
from zoo.training.storage.checkpoints import CheckpointStore
from zoo.training.storage.workdir import Workdir


class Trainer:
    """One run: its objects, and what is done with them.

    Every worker has one, and all do the same at the same step; the chief alone writes files.

    Args:
        config: Checked, and the same on every worker.
        workdir: May be used for the run.
        console: Where to report to.
        workers: Those that train together, this one among them.
    """

    def __init__(
        self, config: builders.Config, workdir: Workdir, console: Console, workers: Workers
    ) -> None:
        self._config = config
        self._workdir = workdir
        self._console = console
        self._workers = workers
        self._dataset, test_set = workers.together(
            lambda: [
                datasets.load(config["dataset"], split, config["data_dir"])
                for split in ("train", "test")
            ]
        )
        builders.build_sampler(config, self._dataset.labels)
        seed_everything(config["seed"])
        with workers.strategy.scope(), terminal.patience(console, "building the model"):
            self._build(test_set)
        self._state = State()
        self._statistics_frozen = self._built = self._save_asked = False
        self._evaluated_at = self._saved_at = 0
        self._saved_when = time.monotonic()
        self._best: metrics.Record | None = None

    def _build(self, test_set: datasets.Dataset) -> None:
        """Makes the model and what works on it, in the scope of the strategy."""
        config = self._config
        self._model = builders.build_model(config, self._dataset)
        optimizer = builders.build_optimizer(config, self._model)
        self._learning_rate = builders.learning_rate_schedule(config)
        self._make_train_step = functools.partial(
            make_train_step,
            builders.logits_of(self._model),
            optimizer,
            config["weight_decay"],
            config["auxiliary_weight"],
        )
        self._train_step = self._make_train_step()
        self._evaluate = evaluation.Evaluator(self._model, test_set, config["eval_batch_size"])
        self._own_statistics = OwnStatistics(
            self._workers.strategy, [*self._model.variables, *optimizer.variables]
        )
        self._variables = [*self._own_statistics.shared, *self._own_statistics.tables]
        self._store = CheckpointStore(
            self._workdir.checkpoints,
            self._variables,
            keep=config["keep_checkpoints"],
            keep_every=config["keep_every_steps"],
            report=self._warn,
        )

    def run(self) -> int:
        """Trains to the last step, or until a signal; returns the exit status."""
        self._resume()
        step, num_steps = self._state.step, self._config["num_steps"]
        outputs = open_outputs(
            self._workers.is_chief, self._workdir, self._console, step, num_steps
        )
        with outputs as self._outputs, StopRequest() as stop:
            self._steps_until(stop)
        if stop.agreed and self._state.step < num_steps:
            return self._stopped(stop)
        self._save_model()
        return 0

    def _resume(self) -> None:
        """Restores the newest checkpoint, if the run has one."""
        restored = self._workers.chiefs(self._restored)
        self._evaluated_at = restored["evaluated_at"]
        if restored["state"] is not None:
            self._workers.copy_from_chief(self._variables)
            self._own_statistics.scatter()
            self._state = State.from_json(restored["state"])
            self._saved_at = self._state.step
            terminal.say(self._console, f"resuming from step {self._state.step}")

    def _restored(self) -> dict[str, Any]:
        """Restores this worker's variables; returns the state that was saved with them."""
        state = self._store.restore()
        records = metrics.read(self._workdir.metrics, self._warn)
        if state is None and records and records[-1].step > self._config["checkpoint_every_steps"]:
            raise UserError(
                f"{self._workdir.path} has records up to step {records[-1].step} and no "
                "checkpoint: the run cannot be resumed. To train from the beginning, choose "
                "another --workdir."
            )
        step = 0 if state is None else state["step"]
        if not records and step >= self._config["log_every_steps"]:
            self._warn(
                f"the records up to step {step} are gone from {self._workdir.metrics}, which is "
                "begun anew."
            )
        tests = [record for record in records if record.split == "test" and record.step <= step]
        for record in tests:
            self._note_best(record)
        return {"state": state, "evaluated_at": tests[-1].step if tests else 0}

    def _warn(self, problem: str) -> None:
        """Prints a warning."""
        terminal.say(self._console, f"warning: {problem}")

    def _note_best(self, record: metrics.Record) -> None:
        """Remembers the step with the best test accuracy; of equal ones the first."""
        if self._best is None or record.accuracy > self._best.accuracy:
            self._best = record

    def _steps_until(self, stop: StopRequest) -> None:
        """Does the steps that are left, and after each of them what is due."""
        resumed_at, begin = self._state.seconds, time.perf_counter()
        # A run that was killed or stopped in an evaluation has its checkpoint and no record.
        if self._state.step > self._evaluated_at and self._due("eval_every_steps"):
            self._record_evaluation(stop)
        for images, labels in builders.build_batches(self._config, self._dataset, self._state.step):
            self._freeze_statistics_if_due()
            self._do_step(images, labels, stop)
            # Before the first step has ended there is nothing to save, and it can take minutes.
            stop.listen()
            self._state.seconds = resumed_at + time.perf_counter() - begin
            if self._due("log_every_steps"):
                self._record_training()
            self._do_what_is_due(stop)
            if stop.agreed:
                return

    def _do_what_is_due(self, stop: StopRequest) -> None:
        """Saves and evaluates, in this order: a kill in an evaluation costs the evaluation only."""
        evaluate = self._due("eval_every_steps") and not stop.agreed
        best_wanted = evaluate and self._config["keep_best"]
        if self._due("checkpoint_every_steps") or self._save_asked or stop.agreed or best_wanted:
            self._save_checkpoint()
        if evaluate:
            self._record_evaluation(stop)
            if stop.agreed and self._saved_at < self._state.step:
                self._save_checkpoint()
        if self._workers.is_chief and self._saved_at == self._state.step:
            best = self._best if self._config["keep_best"] else None
            self._store.prune(None if best is None else best.step)

    def _due(self, key: str) -> bool:
        """Whether it is time for what the config says to do every so many steps."""
        step = self._state.step
        return step % self._config[key] == 0 or step == self._config["num_steps"]

    def _freeze_statistics_if_due(self) -> None:
        """From the step that the config says, normalizes with the moving statistics as they are."""
        at_step = self._config["freeze_statistics_at_step"]
        if self._statistics_frozen or not at_step or self._state.step < at_step:
            return
        statistics.freeze(self._model)
        with self._workers.strategy.scope():
            self._train_step = self._make_train_step()  # A compiled step keeps what it has traced.
        self._statistics_frozen = True
        terminal.say(self._console, f"statistics frozen after step {self._state.step}")

    def _do_step(self, images: Any, labels: Any, stop: StopRequest) -> None:
        """Does one step and adds what it tells to the window."""
        begin = time.perf_counter()
        asked = tf.constant([stop.received is not None, self._wants_to_save()], tf.bool)
        with self._patience():
            told = self._train_step(images, labels, tf.cast(asked, tf.float64))
        self._built = True
        self._state.step += 1
        if not math.isfinite(told.objective):
            self._fail(float(told.objective), images)
        stop.agreed |= bool(told.stop)
        self._save_asked = bool(told.save)
        seconds = time.perf_counter() - begin
        self._state.window.add(float(told.loss), int(told.correct), len(labels), seconds)
        self._outputs.advance(self._state.step)

    def _wants_to_save(self) -> bool:
        """Whether the time has come for a checkpoint; the chief's clock decides."""
        minutes = self._config["checkpoint_every_minutes"]
        due = self._saved_when + 60 * minutes
        return self._workers.is_chief and minutes > 0 and time.monotonic() > due

    def _patience(self) -> contextlib.AbstractContextManager[None]:
        """Returns what says that the first step takes long, while it does."""
        if self._built:
            return contextlib.nullcontext()
        replicas = self._workers.strategy.num_replicas_in_sync
        return terminal.patience(
            self._console, f"building the first step, for {replicas} replica(s)"
        )

    def _fail(self, loss: float, images: Any = None) -> None:
        """Raises the error for a loss that is not finite. No checkpoint holds such a step.

        Args:
            loss: The loss.
            images: The minibatch, where it is a training step's.
        """
        with self._workers.strategy.scope():
            layer = None if images is None else first_not_finite(self._model, images)
        where = f" The first layer whose output is not finite is {layer}." if layer else ""
        saved = self._store.newest_first()
        raise UserError(
            f"The loss is {loss} at step {self._state.step} (learning rate {self._rate():.4g}): "
            f"training has diverged and was stopped.{where} Try a lower --config.learning_rate or "
            "a longer --config.warmup_steps in another --workdir. "
            f"The newest checkpoint is {saved[0] if saved else 'none: it was too early for one'}."
        )

    def _rate(self) -> float:
        """Returns the learning rate that the last step used."""
        return float(self._learning_rate(self._state.step - 1))

    def _record_training(self) -> None:
        """Writes the record of the window and empties it."""
        window, self._state.window = self._state.window, Window()
        self._record(
            split="train",
            loss=window.loss / window.steps,
            accuracy=window.correct / window.examples,
            images_per_second=window.examples / window.seconds,
        )

    def _record_evaluation(self, stop: StopRequest) -> None:
        """Evaluates on the test set and writes the record, unless a signal comes."""
        try:
            result = self._evaluate(lambda: stop.received is not None)
        except evaluation.InterruptedEvaluationError:
            stop.agreed = True
            return
        if not math.isfinite(result.loss):  # The last step's own loss is of the weights before it.
            if self._workers.is_chief:
                self._store.remove(self._state.step)
            self._fail(result.loss)
        record = self._record(
            split="test",
            loss=result.loss,
            accuracy=result.accuracy,
            images_per_second=result.num_examples / result.seconds,
        )
        self._note_best(record)

    def _record(self, **measured: Any) -> metrics.Record:
        """Writes a record to wherever records go, and returns it."""
        r_max, d_max = builders.current_limits(self._model)
        record = metrics.Record(
            step=self._state.step,
            learning_rate=self._rate(),
            r_max=r_max,
            d_max=d_max,
            seconds=self._state.seconds,
            **measured,
        )
        self._outputs.write(record)
        return record

    def _save_checkpoint(self) -> None:
        """Saves a checkpoint whose records are all on the disk."""
        if not all_finite(self._model.trainable_variables):
            self._fail(math.nan)
        self._saved_at, self._saved_when = self._state.step, time.monotonic()
        self._own_statistics.gather()
        if self._workers.is_chief:
            self._outputs.sync()
            self._store.save(self._state.step, dataclasses.asdict(self._state))

    def _stopped(self, stop: StopRequest) -> int:
        """Says how to go on after a signal; returns the exit status."""
        number = stop.received or signal.SIGTERM
        terminal.say(
            self._console,
            f"stopped by {number.name} after step {self._state.step} of "
            f"{self._config['num_steps']}, and saved: the same command resumes the run.",
        )
        return 128 + number

    def _save_model(self) -> None:
        """Writes `model.keras`, which marks the run as finished.

        What is saved is a copy with ordinary variables: reading those of a strategy takes all
        workers, and only the chief writes.
        """
        # The counters of schedules are variables, and no weights.
        values = [keras.ops.convert_to_numpy(variable) for variable in self._model.variables]
        self._workers.chiefs(lambda: self._write_model(values))

    def _write_model(self, values: list[Any]) -> None:
        """Writes a model of these variables."""
        model = keras.models.clone_model(self._model)
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)
        with files.replacing(self._workdir.model) as temporary:
            model.save(temporary)
