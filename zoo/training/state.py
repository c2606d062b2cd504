"""What the loop remembers beside the variables."""

import dataclasses
from typing import Any


@dataclasses.dataclass
class Window:
    """Sums over the training steps since the last record; part of every checkpoint.

    Attributes:
        steps: Number of steps.
        examples: Number of examples.
        loss: Sum of the steps' mean cross-entropies.
        correct: Number of examples classified rightly.
        seconds: Time that the steps took.
    """

    steps: int = 0
    examples: int = 0
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0

    def add(self, loss: float, correct: int, examples: int, seconds: float) -> None:
        """Adds one step."""
        self.steps += 1
        self.examples += examples
        self.loss += loss
        self.correct += correct
        self.seconds += seconds


@dataclasses.dataclass
class State:
    """What the loop remembers beside the variables; part of every checkpoint.

    Attributes:
        step: Steps done.
        seconds: Time spent since the run began, without pauses between interruptions.
        window: Sums over the steps since the last training record.
    """

    step: int = 0
    seconds: float = 0.0
    window: Window = dataclasses.field(default_factory=Window)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "State":
        """Returns the state that `dataclasses.asdict` turned into `values`."""
        return cls(**{**values, "window": Window(**values["window"])})
