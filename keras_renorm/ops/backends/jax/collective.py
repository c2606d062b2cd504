"""The devices that run one function together, each on a part of its arguments."""

from typing import Literal

import jax

from keras_renorm.ops.backends.replicas import Replicas


class MappedDevices(Replicas):
    """See `keras_renorm.ops.Replicas`: the devices of all manual axes.

    Args:
        axes: The names of the axes.
    """

    moves_rows = False

    def __init__(self, axes: tuple[str, ...]) -> None:
        self._axes = axes

    @property
    def wide(self) -> Literal["float64", "float32"]:
        """float64 where `jax_enable_x64` is set, else float32."""
        return "float64" if jax.config.jax_enable_x64 else "float32"

    @property
    def size(self) -> int:
        """The number of devices."""
        return int(jax.lax.psum(1, self._axes))

    @property
    def index(self) -> jax.Array:
        """The place of this device, from 0."""
        return jax.lax.axis_index(self._axes)

    def all_reduce(self, operation: Literal["SUM", "MEAN"], value: jax.Array) -> jax.Array:
        """The sum or the mean of every device's `value`."""
        reduce = jax.lax.psum if operation == "SUM" else jax.lax.pmean
        return reduce(value, self._axes)

    def uniform(self, count: jax.Array, seed: jax.Array) -> jax.Array:
        """Not available: `count` is unknown before the function runs.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("JAX makes no array of a size that it does not know.")
