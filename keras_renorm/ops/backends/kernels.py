"""What may compute a step of training or of inference on a backend, and how it gets a gradient."""

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
        updated: Scalar, 1 where a channel was updated, or else 0.
    """

    y: Tensor
    statistics: Tensor
    moving_mean: Tensor
    moving_variance: Tensor
    updated: Tensor


class StepCalls(Protocol):
    """A step of training as one call of the library forwards and one backwards."""

    def forward(self, arguments: Arguments, constants: Constants, settings: Settings) -> Forward:
        """Batch Renormalization of a batch by its own moments, and the moving update.

        With mu_B and sigma_B^2 = var_B + epsilon over all positions of a channel, sigma^2 =
        moving_variance + epsilon:

            r = clip(sigma_B / sigma, 1 / r_max, r_max)
            d = clip((mu_B - moving_mean) / sigma, -d_max, d_max)
            y = (x - mu_B) gamma r / sigma_B + gamma d + beta

        The moments of a channel without a single position that counts are 0. The moving update is
        that of `keras_renorm.ops.maths.moving`.

        Args:
            arguments: `x` of type float16, bfloat16, float32 or float64.
            constants: Its mask is fastest with size 1 along the axis of the channels.
            settings: All but `ghosts`.
        """
        ...

    def backward(
        self, dy: Tensor, x: Tensor, statistics: Tensor, mask: Tensor | None, settings: Settings
    ) -> Arguments:
        """The gradients of `forward`, r and d held constant.

        Args:
            dy: Gradient of the output, like `x`.
            x: The input of `forward`.
            statistics: What `forward` packed.
            mask: As in `forward`.
            settings: Its axis, ghost size and ReLU.
        """
        ...


class InferencePasses(Protocol):
    """The passes that normalisation with given statistics takes, and its gradient."""

    def normalize(self, x: Tensor, affine: Affine, settings: Settings) -> Tensor:
        """`y = (x - mean) * scale + offset`, or its positive part, like `x`."""
        ...

    def gradient_sums(
        self, dy: Tensor, x: Tensor, affine: Affine, mask: Tensor | None, settings: Settings
    ) -> Sums:
        """`sum dy` and `sum dy * (x - mean)` over the positions that count.

        With a ReLU, of the `dy` that it lets through: its mask is computed again from `x`.
        """
        ...

    def relu_gradient(self, dy: Tensor, y: Tensor) -> Tensor:
        """`dy` where the output `y` of a ReLU is positive, and 0 elsewhere."""
        ...


class Passes(Protocol):
    """A step of training a pass over the tensor at a time; none has a gradient of its own.

    `keras_renorm.ops.maths.passes` is the formulas of all in plain operations.
    """

    def moments(self, x: Tensor, mask: Tensor | None, settings: Settings) -> tuple[Moments, Tensor]:
        """The moments of the positions that count, and the value near the mean to centre `x` at."""
        ...

    def normalize(self, x: Tensor, affine: Affine, settings: Settings) -> Tensor:
        """As in `InferencePasses`."""
        ...

    def gradient_sums(
        self, dy: Tensor, x: Tensor, affine: Affine, mask: Tensor | None, settings: Settings
    ) -> Sums:
        """As in `InferencePasses`."""
        ...

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
        ...


class FusedKernel(Protocol):
    """The backend's own fused batch norm, as a step of training with derivatives."""

    def fits(self, x: Tensor, mask: Tensor | None, settings: Settings) -> bool:
        """Whether `train` can take this input."""
        ...

    def train(
        self, arguments: Arguments, constants: Constants, settings: Settings, plain: PlainOutput
    ) -> tuple[Tensor, Moments]:
        """The output and the minibatch's moments; `plain` is as in `Differentiable`."""
        ...


class FusedInference(Protocol):
    """Normalisation with given statistics as one operation of the backend's own."""

    def fits(self, x: Tensor, settings: Settings) -> bool:
        """Whether `normalize` can take this input, and is not the slower for it."""
        ...

    def normalize(
        self, arguments: Arguments, mean: Tensor, variance: Tensor, settings: Settings
    ) -> Tensor:
        """`y = (x - mean) * gamma / sqrt(variance + epsilon) + beta`, with derivatives."""
        ...


class Differentiable(NamedTuple):
    """A function of `Arguments` whose gradient is given by hand.

    Attributes:
        forward: `forward(arguments, constants)` returns `(outputs, kept)`: a tuple whose first
            entry alone has a gradient, and what `backward` needs: a tensor, a named tuple or
            None.
        backward: `backward(dy, arguments, constants, kept)` returns the gradients as `Arguments`.
        plain: `plain(arguments, constants)` returns the first output in plain operations, of
            which further derivatives are taken. Traces of it are kept, and found again by an
            equal function.
        refusal: The message of the ValueError that a second derivative raises; None where there
            is one. JAX does not ask for it.
    """

    forward: Callable[[Arguments, Any], tuple[tuple[Tensor, ...], Any]]
    backward: Callable[[Tensor, Arguments, Any, Any], Arguments]
    plain: PlainOutput
    refusal: str | None = None
