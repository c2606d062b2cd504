"""A step pass by pass, over one replica or several, with a gradient by hand."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from keras_renorm.ops import backends
from keras_renorm.ops.backends.kernels import Differentiable, Passes
from keras_renorm.ops.backends.replicas import Replicas
from keras_renorm.ops.maths import correction
from keras_renorm.ops.maths import passes as plain_passes
from keras_renorm.ops.maths.correction import Correction
from keras_renorm.ops.maths.moments import Moments, shift_or_mean
from keras_renorm.ops.maths.operands import Affine, Arguments, Constants, Line, Settings, Sums
from keras_renorm.ops.maths.sums import at_least
from keras_renorm.ops.steps import plain
from keras_renorm.ops.steps.ghosts import in_ghosts
from keras_renorm.ops.steps.lowerings import Name
from keras_renorm.ops.steps.step import Step, Trained, trained
from keras_renorm.typing import Tensor

_OF_REPLICAS = (
    "The gradient of a normalization synchronized over several replicas cannot be differentiated "
    "again. Write synchronized=False where second derivatives are needed."
)


# Makes the function of a step.
_Maker = Callable[[Settings, Replicas | None], Differentiable]


class NativePasses:
    """By the library's passes, for moments that travel between replicas before their use."""

    lowering: Name = "native"

    def fits(self, step: Step) -> bool:
        """Whether the library has passes. `OneCall` comes first, and takes all ghost batches."""
        return backends.current().native_passes(step.arguments.x) is not None

    def train(self, step: Step) -> Trained:
        """Takes the passes."""
        passes = backends.current().native_passes(step.arguments.x)
        assert passes is not None
        return _train(functools.partial(_differentiable, passes), step)


class PlainPasses:
    """By plain operations that keep `x` and vectors per channel for the gradient."""

    lowering: Name = "composite"

    def fits(self, step: Step) -> bool:
        """Whether a gradient by hand is better than the backend's own, or the only one."""
        only = step.replicas is not None and not step.replicas.has_gradient
        return only or backends.current().prefers_plain_passes

    def train(self, step: Step) -> Trained:
        """Takes the passes."""
        return _train(_in_plain_operations, step)


class _Kept(NamedTuple):
    """What the gradient needs beside the arguments, in vectors of the moments' shape.

    Attributes:
        affine: The map from input to output.
        inverse: 1 / sigma_B.
        correction: r and d.
        count: The number of positions that counted.
    """

    affine: Affine
    inverse: Tensor
    correction: Correction
    count: Tensor


def _train(make: _Maker, step: Step) -> Trained:
    if step.settings.ghost_size is not None:
        return in_ghosts(functools.partial(_train, make), step)
    function = make(step.settings, step.replicas)
    y, *batch = backends.current().differentiable(function, step.arguments, step.constants)
    return trained(step, y, Moments(*batch))


def _in_plain_operations(settings: Settings, replicas: Replicas | None) -> Differentiable:
    """By plain passes. The ReLU's gradient reads `y` only, which the next layer keeps, too."""
    linear = _differentiable(plain_passes, settings._replace(relu=False), replicas)
    if not settings.relu:
        return linear

    def forward(arguments: Arguments, constants: Constants) -> tuple[tuple[Tensor, ...], Any]:
        (y, *batch), kept = linear.forward(arguments, constants)
        y = keras.ops.relu(y)
        return (y, *batch), (y, kept)

    def backward(dy: Tensor, arguments: Arguments, constants: Constants, kept: Any) -> Arguments:
        y, others = kept
        dy = plain_passes.relu_gradient(dy, y)
        return linear.backward(dy, arguments, constants, others)

    return Differentiable(forward, backward, plain.output(settings), linear.refusal)


def _differentiable(
    passes: Passes, settings: Settings, replicas: Replicas | None
) -> Differentiable:
    def forward(arguments: Arguments, constants: Constants) -> tuple[tuple[Tensor, ...], _Kept]:
        # An eager tape would keep the intermediate tensors, which have no gradient here.
        arguments = Arguments(*map(keras.ops.stop_gradient, arguments))
        batch, centre = passes.moments(arguments.x, constants.mask, settings)
        if replicas is not None:
            own, batch = batch, replicas.merge(batch)
            centre = shift_or_mean(own, centre, batch)
        found = correction.of_step(batch, constants, settings)
        inverse = 1 / keras.ops.sqrt(batch.variance + settings.epsilon)
        affine = correction.affine(found, batch, arguments, inverse * found.r, centre)
        y = passes.normalize(arguments.x, affine, settings)
        return (y, *batch), _Kept(affine, inverse, found, batch.count)

    def backward(dy: Tensor, arguments: Arguments, constants: Constants, kept: _Kept) -> Arguments:
        (affine, inverse, (r, d), count), mask = kept, constants.mask
        sums = passes.gradient_sums(dy, arguments.x, affine, mask, settings)
        dgamma, dbeta = inverse * r * sums.dy_centred + d * sums.dy, sums.dy
        if settings.ghosts:
            dgamma, dbeta = keras.ops.sum(dgamma, axis=0), keras.ops.sum(dbeta, axis=0)
        if replicas is not None:  # x acts on the outputs of all replicas, through the moments
            sums = Sums(*replicas.add(*sums))
        m = at_least(1, count)
        bias = affine.scale * (sums.dy / m)
        slope = affine.scale * (inverse * inverse * sums.dy_centred / m)
        dx = passes.input_gradient(dy, arguments.x, affine, Line(bias, slope), mask, settings)
        return Arguments(dx, dgamma, dbeta)

    refusal = None if replicas is None else _OF_REPLICAS
    return Differentiable(forward, backward, plain.output(settings), refusal)
