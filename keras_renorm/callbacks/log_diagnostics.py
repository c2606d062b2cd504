"""A callback that takes gauges during training and logs them."""

import pathlib
from collections.abc import Callable, Sequence

import keras

from keras_renorm.diagnostics.report import Report
from keras_renorm.diagnostics.step_callback import StepCallback
from keras_renorm.models import at_step


class LogDiagnostics(StepCallback):
    """Takes gauges during training and writes their numbers and findings for TensorBoard.

    A gauge is a function of the model that returns a report: a function of
    `keras_renorm.diagnostics` with its other arguments filled in. It changes nothing in the model.
    The callback keeps the last reports in `reports`, and prints a fault once, when it first
    appears. In a loop of your own call `set_model(model)`, and then `record(step)` where it suits.

    Args:
        gauges: Functions of the model.
        log_dir: Folder for `tensorboard --logdir`, or None to write nothing.
        every_n_steps: Steps between two records. There is also one before the first step, and one
            at the end. A gauge costs two to four forward passes of its batch.
        verbose: Whether to print faults.
        optimizer: The optimizer whose steps count, by default the model's. Needed where a
            `train_step` uses another. The gauges take its steps for the model's.

    Attributes:
        reports: The last report of each gauge, in the order of `gauges`.

    Raises:
        TypeError: If `gauges` is no list of functions, or a gauge returns no report.
        ValueError: If `every_n_steps` is less than 1.
        ImportError: If there is a `log_dir`, and TensorFlow, which writes the files under every
            backend, or TensorBoard is not installed.

    Example:
        >>> from keras_renorm import diagnostics
        >>> gauges = [
        ...     lambda model: diagnostics.renorm_report(model, images, num_steps=40_000),
        ...     lambda model: diagnostics.train_inference_gap(model, images),
        ... ]
        >>> model.fit(dataset, callbacks=[LogDiagnostics(gauges, "logs")])
    """

    def __init__(
        self,
        gauges: Sequence[Callable[[keras.Model], Report]],
        log_dir: str | pathlib.Path | None = None,
        *,
        every_n_steps: int = 1000,
        verbose: bool = True,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        super().__init__(every_n_steps, log_dir, optimizer)
        if not isinstance(gauges, Sequence) or not all(map(callable, gauges)):
            raise TypeError(
                "`gauges` must be a list of functions of the model, such as "
                f"[lambda model: diagnostics.renorm_report(model, images)], received {gauges!r}."
            )
        self._gauges = list(gauges)
        self._verbose = verbose
        self._printed: set[tuple[str, str]] = set()
        self.reports: tuple[Report, ...] = ()

    def record(self, step: int) -> None:
        """Takes all gauges.

        Args:
            step: Training steps so far.
        """
        with at_step(step):
            self.reports = tuple(_taken(gauge, self.model) for gauge in self._gauges)
        for report in self.reports:
            self.log(report, step)
            if self._verbose:
                self._print(report, step)

    def _print(self, report: Report, step: int) -> None:
        """Prints faults that were not printed before."""
        for finding in report.findings:
            fault = (finding.layer, finding.kind)
            if fault not in self._printed:
                self._printed.add(fault)
                print(f"\nStep {step}: {finding}")


def _taken(gauge: Callable[[keras.Model], Report], model: keras.Model) -> Report:
    report = gauge(model)
    if not isinstance(report, Report):
        raise TypeError(
            "A gauge must return a report of keras_renorm.diagnostics, such as "
            f"lambda model: diagnostics.lint(model), received {report!r} from {gauge!r}."
        )
    return report
