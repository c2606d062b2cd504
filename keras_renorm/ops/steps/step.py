"""What a step of training knows beside the tensors that have a gradient."""

import dataclasses

import keras

from keras_renorm.ops.maths.correction import Correction, renorm_correction
from keras_renorm.ops.maths.moments import Moments
from keras_renorm.typing import Tensor


@dataclasses.dataclass(frozen=True)
class Step:
    """The rest of a step's operands, and its settings.

    Attributes:
        moving_mean: `[C]`, before the update.
        moving_variance: `[C]`, before the update.
        r_max: Scalar tensor; a value below 1 counts as 1.
        d_max: Scalar tensor; a value below 0 counts as 0.
        mask: None, or booleans that broadcast against the input.
        axis: The axis of the channels, counted from the front.
        epsilon: Added to the variances.
        relu: Whether to take the positive part of the output.
        ghost_size: Rows of the batch in one ghost batch; None where there are none.
        ghosts: Whether the first axis of the input counts ghost batches.
    """

    moving_mean: Tensor
    moving_variance: Tensor
    r_max: Tensor
    d_max: Tensor
    mask: Tensor | None
    axis: int
    epsilon: float
    relu: bool
    ghost_size: int | None = None
    ghosts: bool = False

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """Its tensors: moving mean and variance, r_max, d_max, and the mask if there is one."""
        masks = [] if self.mask is None else [self.mask]
        return self.moving_mean, self.moving_variance, self.r_max, self.d_max, *masks

    def correction(self, batch: Moments) -> Correction:
        """The minibatch's r and d."""
        correction = renorm_correction(
            batch,
            self.moving_mean,
            self.moving_variance,
            r_max=self.r_max,
            d_max=self.d_max,
            epsilon=self.epsilon,
        )
        if keras.backend.backend() != "torch":
            return correction
        from keras_renorm.ops.backends.torch import derivatives as torch_derivatives

        return Correction(*map(torch_derivatives.kept, correction))
