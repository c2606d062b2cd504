"""PyTorch."""

import contextlib
from typing import Any

import torch

from keras_renorm.ops.backends.interface import PlainBackend


class Torch(PlainBackend):
    """See `keras_renorm.ops.backends.interface.Backend`."""

    def is_traced(self, x: Any) -> bool:
        """Whether PyTorch compiles, traces or exports what is done here and now."""
        return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())

    def without_gradients(self) -> contextlib.AbstractContextManager[Any]:
        """`torch.no_grad`."""
        return torch.no_grad()

    def generators_kept(self) -> contextlib.AbstractContextManager[Any]:
        """PyTorch's dropout without a seed draws from the generators of the process."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        return torch.random.fork_rng(devices)


BACKEND = Torch("torch", "PyTorch")
