"""JAX."""

from typing import Any

import jax

from keras_renorm.ops.backends.interface import PlainBackend


class Jax(PlainBackend):
    """See `keras_renorm.ops.backends.interface.Backend`."""

    synchronizes = True

    def is_traced(self, x: Any) -> bool:
        """Whether `x` is a tracer."""
        return isinstance(x, jax.core.Tracer)


BACKEND = Jax("jax", "JAX")
