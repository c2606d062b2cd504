"""What every backend gives to the steps and to the rest of the package.

A backend is one object (`keras_renorm.ops.backends.current`) that fulfils `Backend`. What it may
lack is None there.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from keras_renorm.ops.backends.kernels import (
    Differentiable,
    FusedInference,
    FusedKernel,
    InferencePasses,
    Passes,
    StepCalls,
)
from keras_renorm.ops.maths.operands import Arguments
from keras_renorm.typing import Tensor

Elsewhere = Literal["fused", "composite"]


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
        """A function without gradient, at little cost where a program runs operation by operation.

        Args:
            function: It takes tensors in tuples. By name it takes `momentum` and `epsilon`,
                numbers, and `ops`: `keras.ops`, or NumPy.
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
