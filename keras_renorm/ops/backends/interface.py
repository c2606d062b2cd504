"""What every backend gives to the steps and to the rest of the package.

A backend is one object, `keras_renorm.ops.backends.current()`. A `Backend` lacks all that a backend
may lack, so the steps run in plain operations, which the backend differentiates itself. Subclasses
override what they have.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import keras
import numpy as np

from keras_renorm.ops.backends.kernels import (
    Differentiable,
    FusedInference,
    FusedKernel,
    InferencePasses,
    Passes,
    StepCalls,
)
from keras_renorm.ops.backends.replicas import Replicas
from keras_renorm.ops.maths.operands import Arguments
from keras_renorm.typing import Tensor

Elsewhere = Literal["fused", "composite"]


class Ragged(Protocol):
    """A batch whose examples differ in length, as a dense tensor of their values."""

    @property
    def values(self) -> Tensor:
        """The values of all examples together, `[N, ..., C, ...]`."""

    def values_of(self, mask: Any) -> Tensor:
        """A mask of the batch as a mask of the values."""

    def by_value(self, each: Tensor) -> Tensor:
        """A value per example, `[B]`, repeated for each of its values, `[N]`."""

    def restored(self, values: Tensor) -> Any:
        """A batch with the same lengths, of other values in the shape of `values`."""

    def joined(self, others: Sequence[Any]) -> Any:
        """The batch, followed by the examples of `others`, which are ragged, too."""


class Backend:
    """A backend of Keras. This one has plain operations only.

    Some members belong together. A subclass with `step_calls`, `native_passes` or
    `inference_passes` also overrides `native_problem`, `off_cpu` and `differentiable`. A subclass
    whose `replicas` have no gradient overrides `differentiable`.

    Args:
        name: Keras's name for the backend.
        title: The backend's name in messages, by default the same.

    Attributes:
        elsewhere: The lowering on devices other than the CPU.
        fused: The backend's own fused batch norm for training.
        fused_inference: The backend's own batch norm for inference.
        prefers_plain_passes: Whether a gradient by hand in plain operations is better than the
            backend's own. It keeps less, but has no forward derivative under JAX.
        compiles: Whether `compiled` compiles, unless `eager` is True.
        synchronizes: Whether the moments of a minibatch can be those of all replicas.
        takes_strings: Whether tensors may hold strings.
        untraced: A sentence that says what to write so that a call is not traced.
        leaks: The errors when a tensor of a traced loop is used outside the loop.
    """

    elsewhere: Elsewhere = "composite"
    fused: FusedKernel | None = None
    fused_inference: FusedInference | None = None
    prefers_plain_passes = False
    compiles = False
    synchronizes = False
    takes_strings = False
    untraced = "Run the gauge where nothing is compiled."
    leaks: tuple[type[Exception], ...] = ()

    def __init__(self, name: str, title: str | None = None) -> None:
        self.name = name
        self.title = title or name

    # For inputs that are no dense tensors.

    def ragged(self, x: Any) -> Ragged | None:
        """The values of a ragged tensor, or None for any other tensor."""
        return None

    def is_sparse(self, x: Any) -> bool:
        """Whether `x` is a sparse tensor."""
        # Symbolic ones cannot be told: Keras calls `2 * x` sparse for a dense x.
        return False

    def required(self, x: Tensor, holds: Tensor, message: str) -> Tensor:
        """`x`. A graph that can stop raises an error of this message unless all `holds`."""
        return x

    # For the steps.

    def native_problem(self) -> str | None:
        """Why the native library cannot be used, or None once it is loaded and registered.

        Raises:
            ValueError: If one of the backend's environment variables has a wrong value.
        """
        return f"the native library does not serve the {self.name} backend"

    def off_cpu(self) -> str | None:
        """Why computation here and now is not on one CPU, or None where it is.

        Without the library it is the library's problem, which then nobody is warned of.
        """
        return self.native_problem()

    def own_operations_only(self) -> str | None:
        """Why the library must not be called here and now, or None where it may."""
        return None

    def step_calls(self, x: Tensor) -> StepCalls | None:
        """The library's calls, if they take `x`."""
        return None

    def native_passes(self, x: Tensor) -> Passes | None:
        """The library's passes, if they take `x`."""
        return None

    def inference_passes(
        self, x: Tensor, *, portable: bool, demanded: bool
    ) -> InferencePasses | None:
        """The library's passes for inference, if they take `x` and are worth it.

        Args:
            x: The input.
            portable: Whether TensorFlow's graphs must run without the library.
            demanded: Whether the user demands the library.
        """
        return None

    def differentiable(
        self, function: Differentiable, arguments: Arguments, constants: Any
    ) -> tuple[Tensor, ...]:
        """The outputs of `function.forward`, with the derivatives that it describes.

        Args:
            function: What to compute.
            arguments: The operands that have a gradient.
            constants: A named tuple whose entries are tensors without gradient, or None.
        """
        raise NotImplementedError(f"{self.title} attaches no gradient by hand.")

    def of_this_graph(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The tensors, made tensors of the traced graph if there is one.

        Raises:
            ValueError: The graph differentiates them forwards, past a gradient by hand.
        """
        return tuple(tensors)

    def conditional(
        self,
        predicate: Tensor,
        on_true: Callable[..., Any],
        on_false: Callable[..., Any],
        operands: Sequence[Tensor],
    ) -> Any:
        """What one of two functions of the operands returns. Both return the same form."""
        return keras.ops.cond(predicate, lambda: on_true(*operands), lambda: on_false(*operands))

    def pinned(self, constant: Tensor) -> Tensor:
        """The same values, which a compiled gradient does not compute again."""
        return constant

    def product(self, x: Tensor, factor: Tensor) -> Tensor:
        """`x * factor`, for a factor that broadcasts against `x` and has fewer entries.

        The gradient of the factor may compute `x` again, so that no backend has to keep it.
        """
        return x * factor

    def at_once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a function without gradient cheap where operations run one by one.

        Args:
            function: A function of tensors in tuples. By name it takes the numbers `momentum` and
                `epsilon`, and `ops`: `keras.ops` or NumPy.
        """
        return function

    def in_one_pass(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`function(*tensors, settings=...)` in one pass, even where operations run one by one."""
        return function

    def replicas(self) -> Replicas | None:
        """The replicas that run this function together, or None for a single one."""
        return None

    # For the rest of the package.

    def in_replica(self) -> bool:
        """Whether this runs in a replica of a strategy, which may have only one."""
        return False

    def is_traced(self, x: Any) -> bool:
        """Whether `x` has no values yet, because a function is traced or compiled."""
        return isinstance(x, keras.KerasTensor)

    def graph(self) -> Any:
        """The graph that is traced here and now, or None where there is none to tell apart."""
        return None

    def number_of_replicas(self, variables: Sequence[Any]) -> int:
        """How many replicas `variables` were made for."""
        return 1

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

        def run(parts: Sequence[Any], shared: Any) -> Any:
            with self.without_gradients():
                return function((), *parts, shared)

        return run

    def without_gradients(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which nothing is recorded for gradients."""
        return contextlib.nullcontext()

    def generators_kept(self) -> contextlib.AbstractContextManager[Any]:
        """A context that leaves the process's random generators as they were."""
        return contextlib.nullcontext()


def by_numpy(function: Callable[..., Any], *tensors: Any, **settings: Any) -> Any:
    """Calls a function that `Backend.at_once` takes with NumPy, which is done with it in 0.1 ms."""
    arrays = map(_arrays, tensors)
    with np.errstate(all="ignore"):  # as the backends do
        return function(*arrays, **settings, ops=np)


def _arrays(values: Any) -> Any:
    """Arrays of a tensor, or of those in a tuple."""
    # `keras.tree` takes longer under PyTorch than the function itself.
    if not isinstance(values, tuple):
        # Keras's own conversion makes NumPy 2 warn of TensorFlow's tensors.
        return np.asarray(values.detach() if hasattr(values, "detach") else values)
    arrays = map(_arrays, values)
    return type(values)(*arrays) if hasattr(values, "_fields") else tuple(arrays)
