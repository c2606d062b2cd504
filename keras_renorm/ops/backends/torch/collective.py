"""The processes of `torch.distributed` that train one model together."""

from typing import Literal

import numpy as np
import torch
from torch import distributed

from keras_renorm.ops.backends.replicas import Replicas


class Processes(Replicas):
    """See `keras_renorm.ops.Replicas`: the default process group."""

    has_gradient = False

    @property
    def size(self) -> int:
        """The number of processes."""
        return distributed.get_world_size()

    @property
    def index(self) -> torch.Tensor:
        """The rank of this process."""
        return torch.tensor(distributed.get_rank())

    def all_reduce(self, operation: Literal["SUM", "MEAN"], value: torch.Tensor) -> torch.Tensor:
        """The sum or the mean of every process's `value`."""
        total = value.detach().clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total / self.size if operation == "MEAN" else total

    def uniform(self, count: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
        """`count` random numbers that depend on `seed` only."""
        key = np.asarray(seed.cpu(), np.int64).view(np.uint64)
        draws = np.random.Generator(np.random.Philox(key=key)).random(int(count), np.float32)
        return torch.as_tensor(draws, device=seed.device)
