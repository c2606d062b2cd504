"""What can compute a step of training or inference on a backend, and how it gets a gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.maths.operands import Affine, Arguments, Constants, Line, Settings, Sums
from keras_renorm.typing import Tensor

PlainOutput = Callable[[Arguments, Any], Tensor]


class Forward(NamedTuple):
    """What the library's forward call returns.

    Attributes:
        y: The output, like `x`.
        statistics: Packed, `[9, G, C]`: the rows of `keras_renorm.ops.native.layout.Statistics`.
        moving_mean: `[C]`, after the update.
        moving_variance: `[C]`, after the update.
        updated: Scalar, 1 if a channel was updated, else 0.
    """

    y: Tensor
    statistics: Tensor
    moving_mean: Tensor
    moving_variance: Tensor
    updated: Tensor


class StepCalls(Protocol):
    """A step of training in one call of the library forwards and one backwards."""

    def forward(self, arguments: Arguments, constants: Constants, settings: Settings) -> Forward:
        """Batch Renormalization of a batch by its own moments, and the moving update.

        With mu_B and sigma_B^2 = var_B + epsilon over all positions of a channel, and sigma^2 =
        moving_variance + epsilon:

            r = clip(sigma_B / sigma, 1 / r_max, r_max)
            d = clip((mu_B - moving_mean) / sigma, -d_max, d_max)
            y = (x - mu_B) gamma r / sigma_B + gamma d + beta

        A channel without a single position that counts has moments 0. The moving update is that of
        `keras_renorm.ops.maths.moving`.

        Args:
            arguments: `x` is of type float16, bfloat16, float32 or float64.
            constants: The mask is fastest with size 1 along the axis of the channels.
            settings: All but `ghosts`.
        """

    def backward(
        self, dy: Tensor, x: Tensor, statistics: Tensor, mask: Tensor | None, settings: Settings
    ) -> Arguments:
        """The gradients of `forward`, r and d held constant.

        Args:
            dy: Gradient of the output, like `x`.
            x: The input of `forward`.
            statistics: What `forward` packed.
            mask: As in `forward`.
            settings: The axis, ghost size and ReLU are used.
        """


class InferencePasses(Protocol):
    """The passes of normalisation with given statistics and of its gradient."""

    def normalize(self, x: Tensor, affine: Affine, settings: Settings) -> Tensor:
        """`y = (x - mean) * scale + offset`, or its positive part, like `x`."""

    def gradient_sums(
        self, dy: Tensor, x: Tensor, affine: Affine, mask: Tensor | None, settings: Settings
    ) -> Sums:
        """`sum dy` and `sum dy * (x - mean)` over the positions that count.

        A ReLU lets only some of `dy` through. The pass finds its mask again from `x`.
        """

    def relu_gradient(self, dy: Tensor, y: Tensor) -> Tensor:
        """`dy` where the output `y` of a ReLU is positive, and 0 elsewhere, even of inf or NaN.

        PyTorch's own operation also gives `dy` where `y` is NaN.
        """


class Passes(InferencePasses, Protocol):
    """The passes over a tensor that a step of training takes. None has a gradient of its own.

    `keras_renorm.ops.maths.passes` has their formulas in plain operations.
    """

    def moments(self, x: Tensor, mask: Tensor | None, settings: Settings) -> tuple[Moments, Tensor]:
        """The moments of the positions that count, and the value near the mean to centre `x` at."""

    def input_gradient(
        self,
        dy: Tensor,
        x: Tensor,
        affine: Affine,
        line: Line,
        mask: Tensor | None,
        settings: Settings,
    ) -> Tensor:
        """`dx = scale * dy - bias - (x - mean) * slope`, and 0 at masked positions."""


class FusedKernel(Protocol):
    """The backend's own fused batch norm, as a step of training with derivatives."""

    def fits(self, x: Tensor, mask: Tensor | None, settings: Settings) -> bool:
        """Whether `train` takes this input."""

    def train(
        self, arguments: Arguments, constants: Constants, settings: Settings, plain: PlainOutput
    ) -> tuple[Tensor, Moments]:
        """The output and the minibatch's moments. `plain` is that of `Differentiable`."""


class FusedInference(Protocol):
    """The backend's own operation for normalisation with given statistics."""

    def fits(self, x: Tensor, settings: Settings) -> bool:
        """Whether `normalize` takes this input and is not slower than plain operations."""

    def normalize(
        self, arguments: Arguments, mean: Tensor, variance: Tensor, settings: Settings
    ) -> Tensor:
        """`y = (x - mean) * gamma / sqrt(variance + epsilon) + beta`, with derivatives."""


class Differentiable(NamedTuple):
    """A function of `Arguments` with a gradient by hand.

    Attributes:
        forward: `forward(arguments, constants)` returns `(outputs, kept)`. Only the first output
            has a gradient. `kept` is what `backward` needs: a tensor, a named tuple or None.
        backward: `backward(dy, arguments, constants, kept)` returns the gradients as `Arguments`.
        plain: `plain(arguments, constants)` returns the first output in plain operations, for
            further derivatives. Backends keep traces of it, and find them by an equal function.
        refusal: The message of the ValueError that a second derivative raises, or None where there
            is a second derivative. JAX does not ask for it.
    """

    forward: Callable[[Arguments, Any], tuple[tuple[Tensor, ...], Any]]
    backward: Callable[[Tensor, Arguments, Any, Any], Arguments]
    plain: PlainOutput
    refusal: str | None = None
