"""A step in operations that the backend differentiates, any number of times."""

import dataclasses

import keras

from keras_renorm.ops import arguments as checks
from keras_renorm.ops import backends
from keras_renorm.ops.maths import correction, passes
from keras_renorm.ops.maths.correction import Correction
from keras_renorm.ops.maths.masks import without_masked_gradients
from keras_renorm.ops.maths.moments import moments_and_shift, shift_or_mean
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.steps.ghosts import in_ghosts
from keras_renorm.ops.steps.lowerings import Name
from keras_renorm.ops.steps.step import Step, Trained, trained
from keras_renorm.typing import Tensor


class Plain:
    """For every dtype, rank, backend and device. The other ways take further derivatives of it."""

    lowering: Name = "composite"

    def fits(self, step: Step) -> bool:
        """Always: this is the last way."""
        return True

    def train(self, step: Step) -> Trained:
        """Computes the step."""
        return _train(step)


def output(settings: Settings) -> "Output":
    """The output by these settings. Those of the moving average do not change it."""
    return Output(settings._replace(momentum=1.0, by_stddev=False))


@dataclasses.dataclass(frozen=True)
class Output:
    """The output as a function of arguments and constants. Equal settings make equal functions.

    Attributes:
        settings: The step's settings.
    """

    settings: Settings

    def __call__(self, arguments: Arguments, constants: Constants) -> Tensor:
        """The output, in the dtype and shape of the input."""
        return _train(Step(arguments, constants, self.settings)).y


def _train(step: Step) -> Trained:
    if step.settings.ghost_size is not None:
        return in_ghosts(_train, step)
    settings, constants = step.settings, step.constants
    dtype = step.arguments.x.dtype
    # One cast, so the gradient is rounded once: its parts cancel, which half types cannot take.
    arguments = step.arguments._replace(x=keras.ops.cast(step.arguments.x, checks.wide(dtype)))
    batch, shift = moments_and_shift(
        arguments.x, settings.axis, constants.mask, ghosts=settings.ghosts
    )
    if step.replicas is not None:
        own, batch = batch, step.replicas.merge(batch)
        shift = shift_or_mean(own, shift, batch)
    found = correction.of_step(batch, constants, settings)
    found = Correction(*map(backends.current().pinned, found))
    ratio = found.r / keras.ops.sqrt(batch.variance + settings.epsilon)
    # Centred at the shift of the moments, the mean's gradient takes sums that exist already.
    # Centred at the mean, it would take one more sum over the tensor.
    affine = correction.affine(found, batch, arguments, ratio, shift)

    def normalized(x: Tensor) -> Tensor:
        return passes.normalize_by(backends.current().product, x, affine, settings)

    y = without_masked_gradients(constants.mask, normalized, arguments.x)
    return trained(step, keras.ops.cast(y, dtype), batch)
