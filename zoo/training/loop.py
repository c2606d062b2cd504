"""The training loop: steps, records, evaluations, checkpoints, and a model at the end."""

import contextlib
import dataclasses
import functools
import math
import signal
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from keras_renorm import diagnostics, statistics
from zoo.errors import DivergedError, UserError
from zoo.trained.card import write_card
from zoo.training import builders, evaluation, optimizers, pictures, times
from zoo.training.averages import Averages
from zoo.training.cli import terminal
from zoo.training.cli.runtime import seed_everything
from zoo.training.cli.signals import StopRequest
from zoo.training.distribution.replicas import OwnStatistics
from zoo.training.distribution.workers import Workers
from zoo.training.divergence import all_finite, first_not_finite
from zoo.training.records import metrics, rehearsal
from zoo.training.records.outputs import Outputs, open_outputs
from zoo.training.records.profiling import Profiler
from zoo.training.state import State, Window
from zoo.training.step import make_train_step
from zoo.training.storage import files
from zoo.training.storage.checkpoints import CheckpointStore
from zoo.training.storage.workdir import Workdir

#: From how many training images `initial_statistics=precise` computes.
_PRECISE_SAMPLES = 2000


class Trainer:
    """One run: its objects, and what is done with them.

    Every worker has one, and all do the same at the same step; the chief alone writes files.

    Args:
        config: Checked, and the same on every worker.
        workdir: May be used for the run.
        console: Where to report to.
        workers: Those that train together, this one among them.
        profile_steps: The first and the last step of a profile, if one is wanted.
    """

    def __init__(
        self,
        config: builders.Config,
        workdir: Workdir,
        console: Console,
        workers: Workers,
        profile_steps: tuple[int, int] | None = None,
    ) -> None:
        self._profiler = Profiler(workdir.tensorboard, profile_steps if workers.is_chief else None)
        self._config = config = times.in_steps(config)
        self._workdir = workdir
        self._console = console
        self._workers = workers
        self._dataset, self._test_set = workers.together(
            lambda: pictures.open_sets(config, console)
        )
        builders.build_sampler(config, self._dataset)
        pictures.augmentation(config)
        seed_everything(config["seed"])
        with workers.strategy.scope(), terminal.patience(console, "building the model"):
            self._build()
        self._state = State()
        self._statistics_frozen = self._built = self._save_asked = False
        self._evaluated_at = self._saved_at = 0
        self._saved_when = time.monotonic()
        self._best: metrics.Record | None = None

    def _build(self) -> None:
        """Makes the model and what works on it, in the scope of the strategy."""
        config = self._config
        self._model = builders.build_model(config, self._dataset)
        optimizer = optimizers.build_optimizer(config, self._model)
        self._learning_rate = optimizers.learning_rate_schedule(config)
        decay = config["average_decay"]
        self._averages = Averages(self._model, decay) if decay else None
        self._make_train_step = functools.partial(
            make_train_step,
            builders.logits_of(self._model),
            optimizer,
            builders.step_options(config),
            self._averages,
        )
        self._train_step = self._make_train_step()
        self._evaluators = {
            split: evaluation.Evaluator(
                model,
                self._test_set,
                config["eval_batch_size"],
                pictures.preparation(config),
                pictures.part(config),
            )
            for split, model in self._models().items()
        }
        self._own_statistics = OwnStatistics(
            self._workers.strategy,
            [
                *(v for model in self._models().values() for v in model.variables),
                *optimizer.variables,
            ],
        )
        self._variables = [*self._own_statistics.shared, *self._own_statistics.tables]
        self._store = CheckpointStore(
            self._workdir.checkpoints,
            self._variables,
            keep=config["keep_checkpoints"],
            keep_every=config["keep_every_steps"],
            report=self._warn,
        )

    def _models(self) -> dict[str, keras.Model]:
        """Returns the models that are evaluated and saved, by what records call their splits."""
        averaged = {} if self._averages is None else {"test_averaged": self._averages.model}
        return {"test": self._model, **averaged}

    def run(self) -> int:
        """Trains to the last step, or until a signal; returns the exit status."""
        self._workers.chiefs(
            lambda: pictures.keep_description(self._workdir.data, self._dataset, self._test_set)
        )
        self._resume()
        self._compute_statistics_if_asked()
        step, num_steps = self._state.step, self._config["num_steps"]
        if step < num_steps:
            self._lint(num_steps - step)
        outputs = open_outputs(
            self._workers.is_chief, self._workdir, self._console, step, num_steps
        )
        with outputs as self._outputs, self._profiler, StopRequest() as stop:
            self._steps_until(stop)
        if stop.agreed and self._evaluated_at < num_steps:
            return self._stopped(stop)
        self._save_model()
        return 0

    def rehearse(self) -> None:
        """Does two steps and an evaluation of a batch, and prints what a run takes."""
        self._outputs, stop, seconds = Outputs(), StopRequest(), []
        batches = builders.build_batches(self._config, self._dataset, 0)
        for _, (images, labels) in zip(range(2), batches, strict=False):
            begin = time.perf_counter()
            self._do_step(images, labels, stop)
            seconds.append(time.perf_counter() - begin)
        evaluations = [evaluate().seconds for evaluate in self._evaluators.values()]
        size = sum(tf.size(v).numpy() * v.dtype.size for v in self._variables)
        measured = rehearsal.Measured(seconds[0], seconds[-1], sum(evaluations), size)
        rehearsal.print_rehearsal(self._config, self._model, measured, self._console)

    def _lint(self, num_steps: int) -> None:
        """Prints what is wrong with the normalization for the steps that are to be done."""
        report = diagnostics.lint(
            self._model,
            self._config["batch_size"],
            num_steps=num_steps,
            replicas=self._workers.strategy.num_replicas_in_sync,
        )
        for sentence in report.sentences():
            terminal.say(self._console, f"lint: {sentence}")

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

    def _compute_statistics_if_asked(self) -> None:
        """Before the first step, gives the norms the statistics of training images."""
        if self._state.step or self._config["initial_statistics"] != "precise":
            return
        samples = min(_PRECISE_SAMPLES, len(self._dataset))
        batches = pictures.evaluation_batches(self._config, self._dataset)
        statistics.precise(self._model, batches, num_samples=samples, verbose=0)
        if self._averages is not None:
            self._averages.model.set_weights(self._model.get_weights())
        terminal.say(self._console, f"statistics computed of {samples} training images")

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
            self._profiler.before(self._state.step + 1)
            self._do_step(images, labels, stop)
            self._profiler.after(self._state.step)
            # Before the first step has ended there is nothing to save, and it can take minutes.
            stop.listen()
            self._state.seconds = resumed_at + time.perf_counter() - begin
            if self._due("log_every_steps"):
                self._record_training()
            if self._workers.is_chief and self._due_gauges():
                self._record_gauges(images)
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

    def _due_gauges(self) -> bool:
        """Whether it is time for the gauges, if they are wanted at all."""
        return self._config["gauges_every_steps"] > 0 and self._due("gauges_every_steps")

    def _record_gauges(self, images: Any) -> None:
        """Writes the limits, clipped shares and drifts of every norm for this minibatch."""
        step = self._state.step
        report = diagnostics.renorm_report(
            self._model, images, steps=step, num_steps=self._config["num_steps"]
        )
        self._outputs.gauges(step, report.scalars())

    def _freeze_statistics_if_due(self) -> None:
        """From the step that the config says, normalizes with the moving statistics as they are."""
        at_step = self._config["freeze_statistics_at_step"]
        due = 0 < at_step <= self._state.step or self._config["initial_statistics"] == "frozen"
        if self._statistics_frozen or not due:
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
        raise DivergedError(
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
            for split, evaluate in self._evaluators.items():
                result = evaluate(lambda: stop.received is not None)
                self._record_result(split, result)
            self._evaluated_at = self._state.step
        except evaluation.InterruptedEvaluationError:
            stop.agreed = True

    def _record_result(self, split: str, result: evaluation.Result) -> None:
        """Writes the record of an evaluation."""
        if not math.isfinite(result.loss):  # The last step's own loss is of the weights before it.
            if self._workers.is_chief:
                self._store.remove(self._state.step)
            self._fail(result.loss)
        record = self._record(
            split=split,
            loss=result.loss,
            accuracy=result.accuracy,
            images_per_second=result.num_examples / result.seconds,
        )
        if split == "test":
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
        for split, path in (
            ("test_averaged", self._workdir.averaged),
            ("test", self._workdir.model),
        ):
            if trained := self._models().get(split):
                # The counters of schedules are variables, and no weights.
                values = [keras.ops.convert_to_numpy(variable) for variable in trained.variables]
                write = functools.partial(self._write_model, trained, values, path)
                self._workers.chiefs(write)

    def _write_model(self, trained: keras.Model, values: list[Any], path: Path) -> None:
        """Writes a model of these variables."""
        model = keras.models.clone_model(trained)
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)
        with files.replacing(path) as temporary:
            model.save(temporary)
            write_card(temporary, pictures.card(self._config, self._dataset))
