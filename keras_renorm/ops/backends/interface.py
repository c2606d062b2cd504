"""What every backend gives to the steps and to the rest of the package.

A backend is one object (`keras_renorm.ops.backends.current`) that fulfils `Backend`. A member that
a backend lacks is None.
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
        """The number of replicas."""
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
        """Whether a tensor's size may depend on exchanged values, as moving rows needs."""
        ...

    @property
    def index(self) -> Tensor:
        """The place of this replica, from 0."""
        ...

    def all_reduce(self, operation: Literal["SUM", "MEAN"], value: Tensor) -> Tensor:
        """The sum or the mean of every replica's `value`, the same on all replicas."""
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
        """A mask of the batch as a mask of the values."""
        ...

    def by_value(self, each: Tensor) -> Tensor:
        """A value per example, `[B]`, repeated for each of its values, `[N]`."""
        ...

    def restored(self, values: Tensor) -> Any:
        """A batch with the same lengths, of other values in the shape of `values`."""
        ...

    def joined(self, others: Sequence[Any]) -> Any:
        """The batch, followed by the examples of `others`, which are ragged, too."""
        ...


class Backend(Protocol):
    """A backend of Keras, as this package sees it."""

    @property
    def name(self) -> str:
        """Keras's name for the backend."""
        ...

    @property
    def title(self) -> str:
        """The backend's name in messages."""
        ...

    # For inputs that are no dense tensors.

    @property
    def takes_strings(self) -> bool:
        """Whether tensors may hold strings."""
        ...

    def ragged(self, x: Any) -> Ragged | None:
        """The values of a ragged tensor, or None for any other tensor."""
        ...

    def is_sparse(self, x: Any) -> bool:
        """Whether `x` is a sparse tensor."""
        ...

    def required(self, x: Tensor, holds: Tensor, message: str) -> Tensor:
        """`x`. A graph that can stop raises an error of this message unless all `holds`."""
        ...

    # For the steps.

    def native_problem(self) -> str | None:
        """Why the native library cannot be used, or None once it is loaded and registered."""
        ...

    def off_cpu(self) -> str | None:
        """Why computation here and now is not on one CPU, or None where it is."""
        ...

    def own_operations_only(self) -> str | None:
        """Why the library must not be called here and now, or None where it may."""
        ...

    def check_environment(self) -> None:
        """Raises a ValueError if one of the backend's environment variables has a wrong value."""
        ...

    @property
    def elsewhere(self) -> Elsewhere:
        """The lowering on devices other than the CPU."""
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
            portable: Whether TensorFlow's graphs must run without the library.
            demanded: Whether the user demands the library.
        """
        ...

    @property
    def fused(self) -> FusedKernel | None:
        """The backend's own fused batch norm for training."""
        ...

    @property
    def fused_inference(self) -> FusedInference | None:
        """The backend's own batch norm for inference."""
        ...

    @property
    def prefers_plain_passes(self) -> bool:
        """Whether a gradient by hand in plain operations is better than the backend's own.

        A gradient by hand keeps less, but has no forward derivative under JAX.
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
        """The tensors, made tensors of the traced graph if there is one.

        Raises:
            ValueError: The graph differentiates them forwards, past a gradient by hand.
        """
        ...

    def pinned(self, constant: Tensor) -> Tensor:
        """The same values, which a compiled gradient does not compute again."""
        ...

    def at_once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a function without gradient cheap where operations run one by one.

        Args:
            function: A function of tensors in tuples. By name it takes the numbers `momentum` and
                `epsilon`, and `ops`: `keras.ops` or NumPy.
        """
        ...

    def in_one_pass(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`function(*tensors, settings=...)` in one pass, even where operations run one by one."""
        ...

    def collective(self) -> Collective | None:
        """The replicas that run this function together, or None for a single one."""
        ...

    # For the rest of the package.

    def in_replica(self) -> bool:
        """Whether this runs in a replica of a strategy, which may have only one."""
        ...

    @property
    def synchronizes(self) -> bool:
        """Whether the moments of a minibatch can be those of all replicas."""
        ...

    def is_traced(self, x: Any) -> bool:
        """Whether `x` has no values yet, because a function is traced or compiled."""
        ...

    @property
    def untraced(self) -> str:
        """A sentence that says what to write so that a call is not traced."""
        ...

    def graph(self) -> Any:
        """The graph that is traced here and now, or None where there is none to tell apart."""
        ...

    @property
    def leaks(self) -> tuple[type[Exception], ...]:
        """The errors when a tensor of a traced loop is used outside the loop."""
        ...

    def number_of_replicas(self, variables: Sequence[Any]) -> int:
        """How many replicas `variables` were made for."""
        ...

    @property
    def compiles(self) -> bool:
        """Whether `compiled` compiles, unless `eager` is True."""
        ...

    def compiled(
        self, function: Callable[..., Any], variables: Sequence[Any], *, eager: bool
    ) -> Callable[[Sequence[Any], Any], Any]:
        """`function` as one compiled call without gradients, run by every replica.

        Args:
            function: `function(state, part, shared)`, of structures of tensors. `state` is pairs
                of a variable and its value, for a `keras.StatelessScope`.
            variables: The variables that `function` reads.
            eager: Whether the operations run one by one instead. Several replicas ignore it.

        Returns:
            A function of structures of arrays: one part for each replica, and what the replicas
            share. It returns what `function` returns on the first replica.
        """
        ...

    def without_gradients(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which nothing is recorded for gradients."""
        ...

    def generators_kept(self) -> contextlib.AbstractContextManager[Any]:
        """A context that leaves the process's random generators as they were."""
        ...
