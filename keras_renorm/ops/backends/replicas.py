"""Moments and sums over `tf.distribute` replicas, PyTorch's processes or JAX's devices.

Each takes one collective. Merging means in float32 is not enough at mean 1e6 (error 1.4e-3), nor is
a plain sum of squares in float64 (1e-4). So replicas gather counts, means with what rounding took
from them, and variances, as float64 where the backend has it. Each merges them by Chan's formula in
the same order, so all get the same bits.
"""

import abc
from collections.abc import Sequence
from typing import Any, Literal

import keras

from keras_renorm.ops import backends
from keras_renorm.ops.maths.moments import Moments, merged
from keras_renorm.typing import Tensor


class Replicas(abc.ABC):
    """The replicas that run a function together. `Replicas.running()` finds them.

    Attributes:
        has_gradient: Whether the backend differentiates an exchange.
        moves_rows: Whether replicas can exchange rows, each its own number of rows.
    """

    has_gradient = True
    moves_rows = True

    @staticmethod
    def running() -> "Replicas | None":
        """The replicas of the running function, or None for a single one."""
        return backends.current().replicas()

    @property
    def wide(self) -> Literal["float64", "float32"]:
        """The type in which moments and sums travel: float64 where the backend has it."""
        return "float64"

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of replicas."""

    @property
    @abc.abstractmethod
    def index(self) -> Tensor:
        """The place of this replica, from 0."""

    @abc.abstractmethod
    def all_reduce(self, operation: Literal["SUM", "MEAN"], value: Tensor) -> Tensor:
        """The sum or the mean of every replica's `value`, the same on all replicas."""

    @abc.abstractmethod
    def uniform(self, count: Tensor, seed: Tensor) -> Tensor:
        """`count` random numbers in [0, 1) that depend on `seed`, `[2]`, and not on the replica."""

    def merge(self, local: Moments) -> Moments:
        """The moments of the union of all replicas' positions, by `moments.merged`.

        Args:
            local: This replica's moments, of any number of positions or none.

        Returns:
            The merged moments, the same on every replica.
        """
        own = keras.ops.stack([keras.ops.cast(v, self.wide) for v in local])
        every = Moments(*keras.ops.unstack(self.gather(own), len(local), axis=1))
        return merged(every, local.mean.dtype)

    def add(self, *vectors: Tensor) -> list[Tensor]:
        """The sums over all replicas of vectors of one shape, in one collective.

        They are added in float64 where the backend has it.
        """
        return self._reduce("SUM", vectors)

    def average(self, *vectors: Tensor) -> list[Tensor]:
        """The means over all replicas of vectors of one shape; as `add`."""
        return self._reduce("MEAN", vectors)

    def gather(self, own: Tensor) -> Tensor:
        """Every replica's `own`, stacked in the replicas' order, in one collective.

        Each replica fills its own slot of zeros, and a sum over replicas joins the slots exactly.
        `ReplicaContext.all_gather` takes two collectives, as it exchanges the shapes first.

        Args:
            own: Tensor of the same shape on every replica.

        Returns:
            Tensor of that shape, with an axis in front that counts the replicas.
        """
        replicas = self.size
        mine = keras.ops.reshape(
            keras.ops.arange(replicas) == self.index, (replicas, *(1 for _ in own.shape))
        )
        slot = keras.ops.where(mine, own, keras.ops.zeros_like(own))
        return self.all_reduce("SUM", slot)

    def exchange(self, rows: Tensor, put: Tensor, take: Tensor, total: Tensor) -> Tensor:
        """Rows of a table that all replicas fill together. One collective, and one backward.

        Args:
            rows: `[b, ...]`, this replica's rows. b may differ between replicas.
            put: `[b]`, the places of `rows` in the table. No two rows share a place.
            take: `[k]`, the places whose rows this replica gets.
            total: The number of rows of the table, the same on every replica.

        Returns:
            `[k, ...]`. The gradient goes the way back: it puts where this took, and takes where
            this put. So no two replicas may take the same row.
        """
        shape = (total, *keras.ops.shape(rows)[1:])

        @keras.ops.custom_gradient
        def forward(rows: Tensor) -> Any:
            table = keras.ops.scatter(keras.ops.expand_dims(put, 1), rows, shape)
            taken = keras.ops.take(self.all_reduce("SUM", table), take, axis=0)

            def backward(*given: Tensor, upstream: Tensor | None = None) -> Tensor:
                # PyTorch gives the gradient by name, and `rows` beside it.
                return self.exchange(given[-1] if upstream is None else upstream, take, put, total)

            return taken, backward

        return forward(rows)

    def _reduce(self, operation: Literal["SUM", "MEAN"], vectors: Sequence[Tensor]) -> list[Tensor]:
        wide = self.wide
        packed = keras.ops.stack([keras.ops.cast(vector, wide) for vector in vectors])
        total = keras.ops.cast(self.all_reduce(operation, packed), vectors[0].dtype)
        return keras.ops.unstack(total, len(vectors))
