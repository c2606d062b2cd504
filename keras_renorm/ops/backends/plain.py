"""The base of all backends: it lacks everything that a backend may lack.

The steps then run in plain operations, which the backend differentiates itself. A new backend
derives from this one and overrides what it has.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_renorm.ops.backends.interface import Collective, Elsewhere, Ragged
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


class PlainBackend:
    """A backend that has plain operations only, which it differentiates itself.

    Some members belong together. A subclass with `step_calls`, `native_passes` or
    `inference_passes` also overrides `native_problem`, `off_cpu` and `differentiable`. A subclass
    whose `collective` has no gradient overrides `differentiable`.

    Args:
        name: Keras's name for the backend.
        title: The backend's name in messages, by default the same.
    """

    def __init__(self, name: str, title: str | None = None) -> None:
        self.name = name
        self.title = title or name

    elsewhere: Elsewhere = "composite"
    fused: FusedKernel | None = None
    fused_inference: FusedInference | None = None
    prefers_plain_passes = False
    compiles = False
    synchronizes = False
    takes_strings = False
    untraced = "Run the gauge where nothing is compiled."
    leaks: tuple[type[Exception], ...] = ()

    def ragged(self, x: Any) -> Ragged | None:
        """None: there are no ragged tensors."""
        return None

    def is_sparse(self, x: Any) -> bool:
        """False: there are no sparse tensors."""
        # Symbolic ones cannot be told: Keras calls `2 * x` sparse for a dense x.
        return False

    def required(self, x: Tensor, holds: Tensor, message: str) -> Tensor:
        """`x` unchecked: compiled programs cannot stop."""
        return x

    def native_problem(self) -> str | None:
        """The library does not serve this backend."""
        return f"the native library does not serve the {self.name} backend"

    def off_cpu(self) -> str | None:
        """The library's problem, so that no warning says that the library is missing."""
        return self.native_problem()

    def own_operations_only(self) -> str | None:
        """None: `native_problem` says why."""
        return None

    def check_environment(self) -> None:
        """Nothing to check."""

    def step_calls(self, x: Tensor) -> StepCalls | None:
        """None: the library does not serve this backend."""
        return None

    def native_passes(self, x: Tensor) -> Passes | None:
        """None: the library does not serve this backend."""
        return None

    def inference_passes(
        self, x: Tensor, *, portable: bool, demanded: bool
    ) -> InferencePasses | None:
        """None: the library does not serve this backend."""
        return None

    def differentiable(
        self, function: Differentiable, arguments: Arguments, constants: Any
    ) -> tuple[Tensor, ...]:
        """A backend that gives the library's calls or passes must override this.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"{self.title} attaches no gradient by hand.")

    def of_this_graph(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The tensors themselves: no graph is traced around them."""
        return tuple(tensors)

    def pinned(self, constant: Tensor) -> Tensor:
        """The constant itself: gradients compute nothing again."""
        return constant

    def at_once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself."""
        return function

    def in_one_pass(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The function itself."""
        return function

    def collective(self) -> Collective | None:
        """None: there is a single replica."""
        return None

    def in_replica(self) -> bool:
        """False: there is no strategy."""
        return False

    def is_traced(self, x: Any) -> bool:
        """Whether `x` is one of Keras's symbolic tensors."""
        return isinstance(x, keras.KerasTensor)

    def graph(self) -> Any:
        """None: there is no graph to tell apart."""
        return None

    def number_of_replicas(self, variables: Sequence[Any]) -> int:
        """One."""
        return 1

    def compiled(
        self, function: Callable[..., Any], variables: Sequence[Any], *, eager: bool
    ) -> Callable[[Sequence[Any], Any], Any]:
        """A function whose operations run one by one."""

        def run(parts: Sequence[Any], shared: Any) -> Any:
            with self.without_gradients():
                return function((), *parts, shared)

        return run

    def without_gradients(self) -> contextlib.AbstractContextManager[Any]:
        """A context that does nothing."""
        return contextlib.nullcontext()

    def generators_kept(self) -> contextlib.AbstractContextManager[Any]:
        """A context that does nothing."""
        return contextlib.nullcontext()
