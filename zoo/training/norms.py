"""What a run does with its normalization beside training it: lint, first statistics, freezing."""

import dataclasses

from keras_renorm import diagnostics, statistics
from zoo.training import pictures
from zoo.training.setup import Setup

#: Number of training images for population statistics, unless a caller says another.
PRECISE_SAMPLES = 2000


class Norms:
    """The normalization layers of a run.

    Args:
        setup: The run's.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._frozen = False

    def prepare(self, step: int) -> None:
        """Brings the norms to their state after `step`, and says what is wrong with them."""
        config = self._setup.config
        if step == 0 and config["initial_statistics"] == "precise":
            self._compute_statistics()
        if step < config["num_steps"]:
            self._lint(config["num_steps"] - step)
        if step > 0:
            self.freeze_if_due(step - 1)  # as before the last step

    def _compute_statistics(self) -> None:
        """Gives the norms the statistics of training images."""
        setup = self._setup
        samples = min(PRECISE_SAMPLES, len(setup.dataset))
        batches = pictures.evaluation_batches(setup.config, setup.dataset)
        with pictures.reading_errors_named():
            statistics.precise(setup.model, batches, num_samples=samples, verbose=0)
        if setup.averages is not None:
            setup.averages.model.set_weights(setup.model.get_weights())
        setup.say(f"statistics computed from {samples} training images")

    def _lint(self, num_steps: int) -> None:
        """Prints what is wrong with the normalization for the steps that are to be done."""
        setup, parts = self._setup, self._setup.config["accumulate"]

        def found(num_steps: int) -> diagnostics.LintReport:
            return diagnostics.lint(
                setup.model,
                max(1, setup.config["batch_size"] // parts),
                num_steps=num_steps,
                replicas=setup.workers.strategy.num_replicas_in_sync,
            )

        report = found(num_steps)
        if parts > 1:  # Schedules move once in a step, moving averages with each part.
            averages = [one for one in found(num_steps * parts).findings if one.kind == "momentum"]
            others = [one for one in report.findings if one.kind != "momentum"]
            report = dataclasses.replace(report, findings=(*others, *averages))
        for sentence in report.sentences():
            setup.say(f"lint: {sentence}")

    def freeze_if_due(self, step: int) -> None:
        """Freezes the moving statistics from the step on that the config says."""
        config = self._setup.config
        at_step = config["freeze_statistics_at_step"]
        due = 0 < at_step <= step or config["initial_statistics"] == "frozen"
        if self._frozen or not due:
            return
        statistics.freeze(self._setup.model)
        with self._setup.workers.strategy.scope():
            self._setup.trace_again()
        self._frozen = True
        self._setup.say(f"statistics frozen after step {min(step, at_step)}")
