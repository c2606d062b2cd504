"""A step of training: what it takes, and what it gives."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import keras

from keras_renorm.ops.backends.replicas import Replicas
from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.maths.moving import Moving, update_moving
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.steps.lowerings import Name
from keras_renorm.typing import Tensor


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step takes.

    Attributes:
        arguments: The operands that have a gradient.
        constants: The operands that have no gradient.
        settings: The numbers and switches.
        replicas: The replicas that make up the minibatch together; None for this one alone.
    """

    arguments: Arguments
    constants: Constants
    settings: Settings
    replicas: Replicas | None = None

    def with_settings(self, **changes: Any) -> "Step":
        """The same step with other settings."""
        return dataclasses.replace(self, settings=self.settings._replace(**changes))


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a step gives. It computes statistics only on demand.

    Attributes:
        y: The output, in the dtype and shape of the input.
        moments: Gives the `Moments` of the minibatch, without gradient.
        moving: Gives the `Moving` statistics after the step, without gradient.
    """

    y: Tensor
    moments: Callable[[], Moments]
    moving: Callable[[], Moving]


def trained(step: Step, y: Tensor, batch: Moments) -> Trained:
    """What a step gives whose moments are known, but not yet the moving statistics."""
    settings, batch = step.settings, Moments(*map(keras.ops.stop_gradient, batch))
    moving = functools.partial(
        update_moving,
        step.constants.moving_mean,
        step.constants.moving_variance,
        batch,
        momentum=settings.momentum,
        epsilon=settings.epsilon,
        by_stddev=settings.by_stddev,
    )
    return Trained(y, lambda: batch, moving)


class WayToTrain(Protocol):
    """One way to compute a step. All give the same numbers and the paper's gradient.

    Attributes:
        lowering: The lowering that this way belongs to.
    """

    lowering: Name

    def fits(self, step: Step) -> bool:
        """Whether the backend has this way, and it takes this step."""

    def train(self, step: Step) -> Trained:
        """Takes the step."""
