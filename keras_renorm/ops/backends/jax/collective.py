"""The devices that run one function together, each on a part of its arguments."""

from typing import Literal

import jax


class MappedDevices:
    """See `keras_renorm.ops.backends.interface.Collective`: those of all axes mapped by hand.

    Args:
        axes: The names of the axes.
    """

    has_gradient = True
    moves_rows = False

    def __init__(self, axes: tuple[str, ...]) -> None:
        self._axes = axes

    @classmethod
    def running(cls) -> "MappedDevices | None":
        """Those of the running function; None where `jax.shard_map` or `jax.pmap` runs none.

        Also a single one, whose results have the same types as those of several. A `jax.pmap` that
        is not made of `jax.shard_map`, as in older versions, tells nobody its axis.
        """
        mesh = getattr(jax.sharding, "get_abstract_mesh", lambda: None)()
        axes = tuple(getattr(mesh, "manual_axes", ()))
        return cls(axes) if axes else None

    @property
    def wide(self) -> Literal["float64", "float32"]:
        """JAX has float64 only when asked for."""
        return "float64" if jax.config.jax_enable_x64 else "float32"

    @property
    def size(self) -> int:
        """How many they are."""
        return int(jax.lax.psum(1, self._axes))

    @property
    def index(self) -> jax.Array:
        """The place of this one among them, from 0."""
        return jax.lax.axis_index(self._axes)

    def all_reduce(self, operation: Literal["SUM", "MEAN"], value: jax.Array) -> jax.Array:
        """The sum or the mean of every device's `value`."""
        reduce = jax.lax.psum if operation == "SUM" else jax.lax.pmean
        total: jax.Array = reduce(value, self._axes)
        return total

    def uniform(self, count: jax.Array, seed: jax.Array) -> jax.Array:
        """Not to be had: `count` is not known before the function runs.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("JAX makes no array of a size that it does not know.")
