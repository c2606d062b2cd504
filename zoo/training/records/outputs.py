"""Where a run's records go: `metrics.jsonl`, TensorBoard, the screen; or nowhere."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

from rich.console import Console

from zoo.training.records import metrics
from zoo.training.records.display import Display, open_display
from zoo.training.records.events import EventLog
from zoo.training.storage.workdir import Workdir


class Outputs:
    """Where the records of a worker that is not the chief go: nowhere."""

    def write(self, record: metrics.Record) -> None:
        """Writes and shows a record."""

    def gauges(self, step: int, values: Mapping[str, float]) -> None:
        """Writes what gauges tell of the layers."""

    def advance(self, step: int) -> None:
        """Shows that `step` steps are done."""

    def sync(self) -> None:
        """Waits until every record is on the disk."""


@dataclasses.dataclass(frozen=True)
class ChiefsOutputs(Outputs):
    """Where the chief's records go.

    Attributes:
        log: The open `metrics.jsonl`.
        events: TensorBoard's files.
        display: What the user sees.
    """

    log: metrics.MetricsLog
    events: EventLog
    display: Display

    def write(self, record: metrics.Record) -> None:
        """Writes and shows a record."""
        self.log.write(record)
        self.events.write(record)
        self.display.show(record)

    def gauges(self, step: int, values: Mapping[str, float]) -> None:
        """Writes what gauges tell of the layers, for TensorBoard."""
        self.events.scalars("gauges", step, values)

    def advance(self, step: int) -> None:
        """Shows that `step` steps are done."""
        self.display.advance(step)

    def sync(self) -> None:
        """Waits until every record is on the disk."""
        self.log.sync()


@contextlib.contextmanager
def open_outputs(
    is_chief: bool, workdir: Workdir, console: Console, step: int, num_steps: int
) -> Iterator[Outputs]:
    """Opens the outputs of a worker.

    Args:
        is_chief: Whether the worker writes at all.
        workdir: The run's.
        console: Where to show records.
        step: Steps done before.
        num_steps: Steps to do in all.

    Yields:
        The outputs.
    """
    if not is_chief:
        yield Outputs()
        return
    with (
        metrics.MetricsLog(workdir.metrics, step) as log,
        contextlib.closing(EventLog(workdir.tensorboard, step)) as events,
        open_display(console, step, num_steps) as display,
    ):
        yield ChiefsOutputs(log, events, display)
