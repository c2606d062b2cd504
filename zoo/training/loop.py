"""The training loop: steps, records, evaluations, checkpoints, and a model at the end."""

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
        with workers.strategy.scope():
            self._build(test_set)
        self._state = State()
        self._statistics_frozen = False

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
            report=lambda problem: terminal.say(self._console, f"warning: {problem}"),
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
        state = self._workers.chiefs(self._restored)
        if state is not None:
            self._workers.copy_from_chief(self._variables)
            self._own_statistics.scatter()
            self._state = State.from_json(state)
            terminal.say(self._console, f"resuming from step {self._state.step}")

    def _restored(self) -> dict[str, Any] | None:
        """Restores this worker's variables; returns the state that was saved with them."""
        state = self._store.restore()
        records = metrics.read(self._workdir.metrics)
        if state is None and records and records[-1].step > self._config["checkpoint_every_steps"]:
            raise UserError(
                f"{self._workdir.path} has records up to step {records[-1].step} and no "
                "checkpoint: the run cannot be resumed. To train from the beginning, choose "
                "another --workdir."
            )
        if state is not None and not records and state["step"] >= self._config["log_every_steps"]:
            terminal.say(
                self._console,
                f"warning: the records up to step {state['step']} are gone from "
                f"{self._workdir.metrics}, which is begun anew.",
            )
        return state

    def _steps_until(self, stop: StopRequest) -> None:
        """Does the steps that are left, and after each of them what is due."""
        resumed_at, begin = self._state.seconds, time.perf_counter()
        for images, labels in builders.build_batches(self._config, self._dataset, self._state.step):
            self._freeze_statistics_if_due()
            self._do_step(images, labels, stop)
            self._state.seconds = resumed_at + time.perf_counter() - begin
            if self._due("log_every_steps"):
                self._record_training()
            if self._due("eval_every_steps"):
                self._record_evaluation()
            if self._due("checkpoint_every_steps") or stop.agreed:
                self._save_checkpoint()
            if stop.agreed:
                return

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
        asked = tf.constant(stop.received is not None)
        told = self._train_step(images, labels, asked)
        self._state.step += 1
        if not math.isfinite(told.objective):
            self._fail(float(told.objective))
        if told.stop:
            stop.agreed = True
        seconds = time.perf_counter() - begin
        self._state.window.add(float(told.loss), int(told.correct), len(labels), seconds)
        self._outputs.advance(self._state.step)

    def _fail(self, loss: float) -> None:
        """Raises the error for a loss that is not finite. No checkpoint holds such a step."""
        rate = self._rate()
        saved = self._store.newest_first()
        raise UserError(
            f"The loss is {loss} at step {self._state.step} (learning rate {rate:.4g}): "
            "training has diverged and was stopped. Try a lower --config.learning_rate or a longer "
            "--config.warmup_steps in another --workdir. "
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

    def _record_evaluation(self) -> None:
        """Evaluates on the test set and writes the record."""
        result = self._evaluate()
        if not math.isfinite(result.loss):  # The last step's own loss is of the weights before it.
            self._fail(result.loss)
        self._record(
            split="test",
            loss=result.loss,
            accuracy=result.accuracy,
            images_per_second=result.num_examples / result.seconds,
        )

    def _record(self, **measured: Any) -> None:
        """Writes a record to wherever records go."""
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

    def _save_checkpoint(self) -> None:
        """Saves a checkpoint whose records are all on the disk."""
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
