"""PyTorch."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import keras
import torch
from torch import distributed

from keras_renorm.ops.backends.interface import Backend, Elsewhere, by_numpy
from keras_renorm.ops.backends.kernels import InferencePasses, Passes, StepCalls
from keras_renorm.ops.backends.torch import calls, derivatives, fused, operators
from keras_renorm.ops.backends.torch.collective import Processes
from keras_renorm.ops.native import loader

# From so many values on, inference is faster by the library than by plain operations: to make a
# call differentiable takes 0.1 ms, forwards and backwards together.
_LARGE = 1 << 19


class Torch(Backend):
    """See `keras_renorm.ops.backends.interface.Backend`."""

    elsewhere: Elsewhere = "fused"
    fused = fused
    synchronizes = True
    untraced = "Take out the torch.compile or the export around it."
    differentiable = staticmethod(derivatives.apply)
    pinned = staticmethod(derivatives.pinned)

    def is_sparse(self, x: Any) -> bool:
        """Whether `x` is a sparse tensor."""
        return bool(getattr(x, "is_sparse", False))

    def native_problem(self) -> str | None:
        """Why PyTorch does not take the library, or None."""
        return loader.problem(operators.register)

    def off_cpu(self) -> str | None:
        """The device of Keras's tensors, if it is not the CPU."""
        device = keras.ops.convert_to_tensor(0.0).device.type
        return None if device == "cpu" else f"PyTorch computes on {device}"

    def own_operations_only(self) -> str | None:
        """PyTorch's compiler and exporters take PyTorch's operations only."""
        return "PyTorch compiles or exports its own operations" if _compiles() else None

    def step_calls(self, x: torch.Tensor) -> StepCalls | None:
        """The library's operators."""
        return calls if calls.takes(x) else None

    def native_passes(self, x: torch.Tensor) -> Passes | None:
        """The library's operators."""
        return calls if calls.takes(x) else None

    def inference_passes(
        self, x: torch.Tensor, *, portable: bool, demanded: bool
    ) -> InferencePasses | None:
        """The library's operators for large tensors, in eager programs only."""
        if _compiles() or not calls.takes(x):
            return None
        return calls if demanded or math.prod(x.shape) >= _LARGE else None

    def at_once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """NumPy in eager programs on the CPU. An accelerator would have to wait for it."""
        if _compiles() or self.off_cpu() is not None:
            return function

        def call(*tensors: Any, **settings: Any) -> Any:
            try:
                return by_numpy(function, *tensors, **settings)
            except (RuntimeError, TypeError):  # torch.func hides the values, or they are bfloat16
                return function(*tensors, **settings)

        return call

    def replicas(self) -> Processes | None:
        """The processes of the default group, or None without a group or in a group of one."""
        if not distributed.is_available() or not distributed.is_initialized():
            return None
        return None if distributed.get_world_size() == 1 else Processes()

    def is_traced(self, x: Any) -> bool:
        """Whether PyTorch compiles, traces or exports here and now."""
        return _compiles()

    def without_gradients(self) -> contextlib.AbstractContextManager[Any]:
        """`torch.no_grad`."""
        return torch.no_grad()

    def generators_kept(self) -> contextlib.AbstractContextManager[Any]:
        """`torch.random.fork_rng`: PyTorch's dropout without a seed draws from the process."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        return torch.random.fork_rng(devices)


def _compiles() -> bool:
    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())


BACKEND = Torch("torch", "PyTorch")
