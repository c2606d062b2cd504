"""A step in one call of the native library forwards and one backwards."""

import functools

import keras

from keras_renorm.ops import backends
from keras_renorm.ops.backends.kernels import Differentiable, StepCalls
from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.maths.moving import Moving
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.steps import plain
from keras_renorm.ops.steps.lowerings import Name
from keras_renorm.ops.steps.step import Step, Trained
from keras_renorm.typing import Tensor


class OneCall:
    """By one call of the library, which updates the moving statistics, too."""

    lowering: Name = "native"

    def fits(self, step: Step) -> bool:
        """Whether the library takes the input, on one replica."""
        alone = step.replicas is None
        return alone and backends.current().step_calls(step.arguments.x) is not None

    def train(self, step: Step) -> Trained:
        """Makes the call."""
        backend = backends.current()
        calls = backend.step_calls(step.arguments.x)
        assert calls is not None
        function = _differentiable(calls, step.settings)
        y, statistics, *found = backend.differentiable(function, step.arguments, step.constants)
        moments = functools.partial(_moments, statistics, step.settings)
        return Trained(y, moments, lambda: Moving(*map(keras.ops.stop_gradient, found)))


def _differentiable(calls: StepCalls, settings: Settings) -> Differentiable:
    def forward(arguments: Arguments, constants: Constants) -> tuple[tuple[Tensor, ...], Tensor]:
        found = calls.forward(arguments, constants, settings)
        return tuple(found), found.statistics

    def backward(
        dy: Tensor, arguments: Arguments, constants: Constants, statistics: Tensor
    ) -> Arguments:
        return calls.backward(dy, arguments.x, statistics, constants.mask, settings)

    return Differentiable(forward, backward, plain.output(settings))


def _moments(statistics: Tensor, settings: Settings) -> Moments:
    """The moments among the packed statistics."""
    rows = keras.ops.stop_gradient(statistics)[:4]
    rows = rows[:, 0] if settings.ghost_size is None else rows
    mean, remainder, variance, count = keras.ops.unstack(rows, 4)
    return Moments(mean, variance, count, remainder)
