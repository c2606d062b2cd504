"""What every backend gives to the steps and to the rest of the package.

A backend is one object (`keras_renorm.ops.backends.current`) that fulfils `Backend`. What it may
lack is None there.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.maths.operands import Affine, Arguments, Constants, Line, Settings, Sums
from keras_renorm.typing import Tensor

Elsewhere = Literal["fused", "composite"]
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

    def moments(self, x: Tensor, mask: Tensor | None, settings: Settings) -> Moments:
        """The moments of the positions that count."""
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


class Collective(Protocol):
    """The replicas that run the same step together, as the backend knows them."""

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    @property
    def wide(self) -> Literal["float64", "float32"]:
        """The type in which moments and sums travel."""
        ...

    @property
    def has_gradient(self) -> bool:
        """Whether the backend differentiates `all_reduce`."""
        ...

    @property
    def moves_rows(self) -> bool:
        """Whether a tensor's size may follow from what was exchanged, as rows that move need."""
        ...

    @property
    def index(self) -> Tensor:
        """The place of this one among them, from 0."""
        ...

    def all_reduce(self, operation: Literal["SUM", "MEAN"], value: Tensor) -> Tensor:
        """The sum or the mean of every replica's `value`, the same on all of them."""
        ...

    def uniform(self, count: Tensor, seed: Tensor) -> Tensor:
        """`count` random numbers that depend on `seed`, `[2]`, and on no device."""
        ...


class Ragged(Protocol):
    """A batch whose examples differ in length, as a dense tensor of their values."""

    @property
    def values(self) -> Tensor:
        """The values of all examples together, `[N, ..., C, ...]`."""
        ...

    def values_of(self, mask: Any) -> Tensor:
        """A mask of the batch as one of the values."""
        ...

    def by_value(self, each: Tensor) -> Tensor:
        """What examples have, `[B]`, for each of their values, `[N]`."""
        ...

    def restored(self, values: Tensor) -> Any:
        """Other values of the shape of `values`, as a batch with the same lengths."""
        ...

    def joined(self, others: Sequence[Any]) -> Any:
        """The batch with the examples of `others`, batches of its kind, after its own."""
        ...


class Backend(Protocol):
    """A backend of Keras, as this package sees it."""

    @property
    def name(self) -> str:
        """Keras's name for it."""
        ...

    @property
    def title(self) -> str:
        """Its name in messages."""
        ...

    # What it has for inputs that are no dense tensor.

    @property
    def takes_strings(self) -> bool:
        """Whether its tensors hold strings."""
        ...

    def ragged(self, x: Any) -> Ragged | None:
        """A ragged tensor as its values, or None of a dense one."""
        ...

    def is_sparse(self, x: Any) -> bool:
        """Whether `x` is a sparse tensor."""
        ...

    def required(self, x: Tensor, holds: Tensor, message: str) -> Tensor:
        """`x`; in a graph that can stop, with an error of this message unless all `holds`."""
        ...

    # What it has for the steps.

    def native_problem(self) -> str | None:
        """Why the native library cannot be used, or None once it is loaded and registered."""
        ...

    def off_cpu(self) -> str | None:
        """Why what runs here and now does not run on one CPU, or None where it does."""
        ...

    def own_operations_only(self) -> str | None:
        """Why no call of the library may stand here and now, or None where one may."""
        ...

    def check_environment(self) -> None:
        """Raises a ValueError if an environment variable of the backend's has a wrong value."""
        ...

    @property
    def elsewhere(self) -> Elsewhere:
        """The lowering on other devices than the CPU."""
        ...

    def step_calls(self, x: Tensor) -> StepCalls | None:
        """The library's calls, if they take `x`."""
        ...

    def native_passes(self, x: Tensor) -> Passes | None:
        """The library's passes, if they take `x`."""
        ...

    def inference_passes(
        self, x: Tensor, *, portable: bool, demanded: bool
    ) -> InferencePasses | None:
        """The library's passes for inference, if they take `x` and are worth it.

        Args:
            x: The input.
            portable: Whether what is traced here must run without the library.
            demanded: Whether the user demands the library.
        """
        ...

    @property
    def fused(self) -> FusedKernel | None:
        """Its own fused batch norm for training."""
        ...

    @property
    def fused_inference(self) -> FusedInference | None:
        """Its own batch norm for inference."""
        ...

    @property
    def prefers_plain_passes(self) -> bool:
        """Whether a gradient by hand in plain operations is better than the backend's own.

        It keeps less; but it has no forward derivative under JAX.
        """
        ...

    def differentiable(
        self, function: Differentiable, arguments: Arguments, constants: Any
    ) -> tuple[Tensor, ...]:
        """The outputs of `function.forward`, with the derivatives that it describes.

        Args:
            function: What to compute.
            arguments: The operands that have a gradient.
            constants: A named tuple whose entries are tensors without gradient, or None.
        """
        ...

    def of_this_graph(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The tensors, where a graph is traced as tensors of that graph.

        Raises:
            ValueError: The graph differentiates them forwards, past a gradient by hand.
        """
        ...

    def pinned(self, constant: Tensor) -> Tensor:
        """The same values, which a compiled gradient does not compute again."""
        ...

    def at_once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function without gradient, compiled where a program runs operation by operation.

        Args:
            function: It takes tensors in tuples, by name `momentum` and `epsilon`, numbers, and
                `ops`, what to compute with: by default `keras.ops`; it may be NumPy.
        """
        ...

    def in_one_pass(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`function(*tensors, settings=...)` as one pass, also where operations run one by one."""
        ...

    def collective(self) -> Collective | None:
        """The replicas that the running function is one of; None where it runs on a single one."""
        ...

    # What the rest of the package asks.

    def in_replica(self) -> bool:
        """Whether this runs in a replica of a strategy, also of one with a single replica."""
        ...

    @property
    def synchronizes(self) -> bool:
        """Whether the moments of a minibatch can be those of all replicas."""
        ...

    def is_traced(self, x: Any) -> bool:
        """Whether `x` is a tensor without values, of a function that is traced or compiled."""
        ...

    @property
    def untraced(self) -> str:
        """What to write so that a call is not traced, as a sentence."""
        ...

    def graph(self) -> Any:
        """The graph that is traced here and now; None where there is none to tell apart."""
        ...

    @property
    def leaks(self) -> tuple[type[Exception], ...]:
        """The errors for a tensor of a traced loop that is used outside of it."""
        ...

    def number_of_replicas(self, variables: Sequence[Any]) -> int:
        """How many replicas `variables` were made for."""
        ...

    @property
    def compiles(self) -> bool:
        """Whether `compiled` compiles, unless it is asked not to."""
        ...

    def compiled(
        self, function: Callable[..., Any], variables: Sequence[Any], *, eager: bool
    ) -> Callable[[Sequence[Any], Any], Any]:
        """`function` as one compiled call without gradients, run by every replica.

        Args:
            function: `function(state, part, shared)`, of structures of tensors. `state` is pairs
                of a variable and its value, for a `keras.StatelessScope`.
            variables: The variables that `function` reads.
            eager: Whether its operations run one by one instead, which replicas cannot.

        Returns:
            A function of one part for each replica and what they share, structures of arrays,
            that returns what `function` returns on the first replica.
        """
        ...

    def without_gradients(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which nothing is recorded for gradients."""
        ...

    def generators_kept(self) -> contextlib.AbstractContextManager[Any]:
        """The context after which the process's random generators are as they were."""
        ...
