"""The training loop: steps, and after each of them the records, evaluations and checkpoints due."""

import math
import time
from typing import Any

import tensorflow as tf
from rich.console import Console

from zoo.training import builders, evaluation, pictures
from zoo.training.cli.signals import StopRequest
from zoo.training.distribution.workers import Workers
from zoo.training.keeping import Keeper
from zoo.training.norms import Norms
from zoo.training.records.outputs import open_outputs
from zoo.training.records.profiling import Profiler
from zoo.training.records.recorder import Recorder
from zoo.training.setup import Setup
from zoo.training.storage.workdir import Workdir


class Trainer:
    """One run: its objects, and what is done with them.

    Every worker has one, and all do the same at the same step; the chief alone writes files.

    Args:
        config: Checked, and the same on every worker.
        workdir: Checked: the run may use it.
        console: Where to report to.
        workers: Those that train together, this one among them.
        profile_steps: The first and the last step of a profile, if one is wanted.

    Attributes:
        setup: What the run trains with.
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
        self.setup = Setup(config, console, workers)
        self._config = self.setup.config
        self._workdir = workdir
        self._workers = workers
        self._norms = Norms(self.setup)
        self._keeper = Keeper(self.setup, workdir)
        self._save_asked = False

    def check(self) -> None:
        """Raises a `UserError` if the run that is there cannot go on. Writes nothing."""
        pictures.check_description(self._workdir.data, self.setup.dataset, self.setup.test_set)
        self._keeper.check()

    def run(self) -> int:
        """Trains to the last step, or until a signal; returns the exit status."""
        setup, num_steps = self.setup, self._config["num_steps"]
        self._workers.chiefs(
            lambda: pictures.keep_description(self._workdir.data, setup.dataset, setup.test_set)
        )
        self._state, self._evaluated_at = self._keeper.resume()
        self._norms.prepare(self._state.step)
        if self._profiler.is_past(self._state.step):
            setup.warn(
                f"--profile_steps lie before step {self._state.step + 1}, where this run goes on: "
                "nothing is profiled"
            )
        outputs = open_outputs(
            self._workers.is_chief, self._workdir, setup.console, self._state.step, num_steps
        )
        with StopRequest() as stop, outputs as self._outputs, self._profiler:
            self._recorder = Recorder(setup, self._outputs)
            self._steps_until(stop)
        if stop.agreed and self._evaluated_at < num_steps:
            setup.say(
                f"stopped by {stop.cause.name} after step {self._state.step} of {num_steps}, and "
                "saved: the same command resumes the run."
            )
            return 128 + stop.cause
        self._keeper.save_models()
        return 0

    def _steps_until(self, stop: StopRequest) -> None:
        """Does the steps that are left, and after each of them what is due."""
        state = self._state
        resumed_at, begin = state.seconds, time.perf_counter()
        # A run that was killed or stopped in an evaluation has its checkpoint and no record.
        if state.step > self._evaluated_at and self._due("eval_every_steps"):
            self._evaluate(stop)
        for images, labels in self.setup.batches(state.step):
            self._norms.freeze_if_due(state.step)
            self._profiler.before(state.step + 1)
            self._do_step(images, labels, stop)
            self._profiler.after(state.step)
            # There is nothing to save before the end of the first step, which can take minutes.
            stop.listen()
            state.seconds = resumed_at + time.perf_counter() - begin
            self._do_what_is_due(images, stop)
            if stop.agreed:
                return

    def _do_step(self, images: Any, labels: Any, stop: StopRequest) -> None:
        """Does one step and adds what it tells to the window."""
        state, begin = self._state, time.perf_counter()
        asked = tf.constant([stop.received is not None, self._keeper.is_late], tf.bool)
        told = self.setup.step(images, labels, tf.cast(asked, tf.float64))
        state.step += 1
        if not math.isfinite(told.objective):
            raise self._keeper.diverged(state.step, float(told.objective), images)
        stop.agreed |= bool(told.stop)
        self._save_asked = bool(told.save)
        seconds = time.perf_counter() - begin
        state.window.add(float(told.loss), int(told.correct), len(labels), seconds)
        self._outputs.advance(state.step)

    def _do_what_is_due(self, images: Any, stop: StopRequest) -> None:
        """Records, saves, evaluates: so a kill in an evaluation costs the evaluation only."""
        if self._due("log_every_steps"):
            self._recorder.training(self._state)
        if self._workers.is_chief and self._due("gauges_every_steps"):
            self._recorder.gauges(self._state.step, images)
        evaluate = self._due("eval_every_steps") and not stop.agreed
        best_wanted = evaluate and self._config["keep_best"]
        if self._due("checkpoint_every_steps") or self._save_asked or stop.agreed or best_wanted:
            self._save()
        if evaluate:
            self._evaluate(stop)
            if stop.agreed and self._keeper.saved_at < self._state.step:
                self._save()
        if self._workers.is_chief and self._keeper.saved_at == self._state.step:
            self._keeper.prune()

    def _due(self, key: str) -> bool:
        """Whether what the config asks for every so many steps is due; 0 means never."""
        step, every = self._state.step, self._config[key]
        return every > 0 and (step % every == 0 or step == self._config["num_steps"])

    def _save(self) -> None:
        """Saves a checkpoint."""
        self._keeper.save(self._state, self._outputs)

    def _evaluate(self, stop: StopRequest) -> None:
        """Evaluates on the test set and writes the records, unless a signal comes."""
        try:
            found = {
                split: evaluate(lambda: stop.received is not None)
                for split, evaluate in self.setup.evaluators.items()
            }
        except evaluation.InterruptedEvaluationError:
            stop.agreed = True
            return
        # A record of one of two evaluations would keep a resumed run from the other.
        for split, result in found.items():
            self._note(split, result)
        self._evaluated_at = self._state.step

    def _note(self, split: str, result: evaluation.Result) -> None:
        """Writes the record of an evaluation."""
        step = self._state.step
        if not math.isfinite(result.loss):  # The last step's own loss is of the weights before it.
            self._keeper.forget(step)
            raise self._keeper.diverged(step, result.loss)
        record = self._recorder.evaluation(self._state, split, result)
        if split == "test":
            self._keeper.note(record)
