"""Normalisation with population statistics, which do not depend on the minibatch.

Three ways give the same numbers: the native library's passes, which an exported model must not
hold, the backend's own operation, and plain operations.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import keras

from keras_renorm.ops import backends
from keras_renorm.ops.backends.kernels import Differentiable, InferencePasses
from keras_renorm.ops.maths import passes as plain_passes
from keras_renorm.ops.maths.operands import Affine, Arguments, Settings
from keras_renorm.ops.steps import lowerings
from keras_renorm.typing import Tensor


class InferenceStep(NamedTuple):
    """The operands of normalisation with population statistics.

    Attributes:
        arguments: The operands that have a gradient.
        mean: `[C]`, without gradient.
        variance: `[C]`, without gradient.
        settings: The axis, epsilon and ReLU are used.
        portable: Whether TensorFlow must not use the native library.
    """

    arguments: Arguments
    mean: Tensor
    variance: Tensor
    settings: Settings
    portable: bool = True


class WayToNormalize(Protocol):
    """One way to normalise."""

    def fits(self, step: InferenceStep) -> bool:
        """Whether the backend has this way, and it takes this input."""

    def normalize(self, step: InferenceStep) -> Tensor:
        """The output, in the dtype and shape of the input."""


class Native:
    """One pass over the tensor, and two for the gradient, or four after a ReLU."""

    def fits(self, step: InferenceStep) -> bool:
        """Whether the library takes the input and is worth a call. Only then is it loaded."""
        return _native_passes(step) is not None and lowerings.lowering().name == "native"

    def normalize(self, step: InferenceStep) -> Tensor:
        """Makes the calls. The gradient for `x` does not read `x`, which may hold NaN."""
        backend, passes = backends.current(), _native_passes(step)
        assert passes is not None
        (x, gamma, beta), mean, variance, settings, _ = step
        x, mean, variance, gamma, beta = backend.of_this_graph((x, mean, variance, gamma, beta))
        inverse = 1 / keras.ops.sqrt(variance + settings.epsilon)
        constants = _Constants(mean, inverse, keras.ops.zeros_like(mean))
        function = _differentiable(passes, settings)
        return backend.differentiable(function, Arguments(x, gamma, beta), constants)[0]


class Fused:
    """The backend's own operation, with the backend's derivatives."""

    def fits(self, step: InferenceStep) -> bool:
        """Whether the backend's operation takes the input and is not slower."""
        operation = backends.current().fused_inference
        return (
            operation is not None
            and lowerings.forced() != "composite"
            and operation.fits(step.arguments.x, step.settings)
        )

    def normalize(self, step: InferenceStep) -> Tensor:
        """Calls the operation."""
        operation = backends.current().fused_inference
        assert operation is not None
        y = operation.normalize(step.arguments, step.mean, step.variance, step.settings)
        return keras.ops.relu(y) if step.settings.relu else y


class Plain:
    """Operations that the backend differentiates."""

    def fits(self, step: InferenceStep) -> bool:
        """Always."""
        return True

    def normalize(self, step: InferenceStep) -> Tensor:
        """Computes the output."""
        compute = backends.current().in_one_pass(in_plain_operations)
        return compute(step.arguments, step.mean, step.variance, settings=step.settings)


IMPLEMENTATIONS: tuple[WayToNormalize, ...] = (Native(), Fused(), Plain())
"""The ways, the preferred ones first. The last one takes every input."""


def choose(step: InferenceStep) -> WayToNormalize:
    """The first way that takes an input."""
    return next(i for i in IMPLEMENTATIONS if i.fits(step))


def normalize(step: InferenceStep) -> Tensor:
    """The output in the best way. Mean and variance are constants for the gradient."""
    mean, variance = map(keras.ops.stop_gradient, (step.mean, step.variance))
    step = step._replace(mean=mean, variance=variance)
    return choose(step).normalize(step)


def in_plain_operations(
    arguments: Arguments, mean: Tensor, variance: Tensor, settings: Settings
) -> Tensor:
    """The output in operations that the backend differentiates, also for mean and variance."""
    x, gamma, beta = arguments
    affine = Affine(mean, None, gamma / keras.ops.sqrt(variance + settings.epsilon), beta)
    return plain_passes.normalize(x, affine, settings)


class _Constants(NamedTuple):
    """The population's mean and 1 / sigma, and zeros, `[C]` each."""

    mean: Tensor
    inverse: Tensor
    zero: Tensor


def _native_passes(step: InferenceStep) -> InferencePasses | None:
    return backends.current().inference_passes(
        step.arguments.x, portable=step.portable, demanded=lowerings.forced() == "native"
    )


def _differentiable(passes: InferencePasses, settings: Settings) -> Differentiable:
    linear = settings._replace(relu=False)

    def forward(arguments: Arguments, constants: _Constants) -> tuple[tuple[Tensor], Tensor | None]:
        (x, gamma, beta), (mean, inverse, zero) = arguments, constants
        y = passes.normalize(x, Affine(mean, zero, gamma * inverse, beta), settings)
        return (y,), y if settings.relu else None

    def backward(
        dy: Tensor, arguments: Arguments, constants: _Constants, y: Tensor | None
    ) -> Arguments:
        (x, gamma, _), (mean, inverse, zero) = arguments, constants
        dy = passes.relu_gradient(dy, y) if settings.relu else dy
        sums = passes.gradient_sums(dy, x, Affine(mean, zero, zero, zero), None, linear)
        dx = passes.normalize(dy, Affine(zero, zero, gamma * inverse, zero), linear)
        return Arguments(dx, inverse * sums.dy_centred, sums.dy)

    return Differentiable(forward, backward, _plain_output(settings._replace(epsilon=0.0)))


@functools.cache
def _plain_output(settings: Settings) -> Callable[[Arguments, _Constants], Tensor]:
    """The output in plain operations. Equal settings give the same function."""

    def output(arguments: Arguments, constants: _Constants) -> Tensor:
        (x, gamma, beta), (mean, inverse, _) = arguments, constants
        return plain_passes.normalize(x, Affine(mean, None, gamma * inverse, beta), settings)

    return output
