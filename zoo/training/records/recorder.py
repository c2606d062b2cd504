"""Makes records of what was measured, and writes them."""

from typing import Any

from keras_renorm import diagnostics
from zoo.training import builders
from zoo.training.evaluation import Result
from zoo.training.records import metrics
from zoo.training.records.outputs import Outputs
from zoo.training.setup import Setup
from zoo.training.state import State, Window


class Recorder:
    """Writes the records of a run.

    Args:
        setup: The run's.
        outputs: Where the records go.
    """

    def __init__(self, setup: Setup, outputs: Outputs) -> None:
        self._setup = setup
        self._outputs = outputs

    def training(self, state: State) -> None:
        """Writes the record of the state's window, and empties it."""
        window, state.window = state.window, Window()
        self._write(
            state,
            split="train",
            loss=window.loss / window.steps,
            accuracy=window.correct / window.examples,
            images_per_second=window.examples / window.seconds,
        )

    def evaluation(self, state: State, split: str, result: Result) -> metrics.Record:
        """Writes the record of an evaluation, and returns it."""
        return self._write(
            state,
            split=split,
            loss=result.loss,
            accuracy=result.accuracy,
            images_per_second=result.num_examples / result.seconds,
        )

    def gauges(self, step: int, images: Any) -> None:
        """Writes the limits, clipped shares and drifts of every norm for this minibatch.

        Where a step takes its minibatch in parts, that is for the first of them.
        """
        config = self._setup.config
        part = images[: max(1, len(images) // config["accumulate"])]
        report = diagnostics.renorm_report(
            self._setup.model, part, steps=step, num_steps=config["num_steps"]
        )
        self._outputs.gauges(step, report.scalars())

    def _write(self, state: State, **measured: Any) -> metrics.Record:
        r_max, d_max = builders.current_limits(self._setup.model)
        record = metrics.Record(
            step=state.step,
            learning_rate=self._setup.rate(state.step),
            r_max=r_max,
            d_max=d_max,
            seconds=state.seconds,
            **measured,
        )
        self._outputs.write(record)
        return record
