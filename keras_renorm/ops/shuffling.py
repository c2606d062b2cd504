"""Shuffling the examples of a global batch among the replicas that hold it, and back.

An example's place in the global batch counts through the replicas in their order.
"""

from typing import Any

import keras

from keras_renorm.ops import arguments
from keras_renorm.ops.backends.replicas import Replicas
from keras_renorm.typing import Tensor

# Types that collectives carry on every device. Other integers and booleans travel as int64.
_CARRIED = ("float16", "bfloat16", "float32", "float64", "int32", "int64")


def shuffle_order(replicas: Replicas, size: Tensor, seed: Tensor) -> Tensor:
    """A random order of the examples of a global batch, the same on every replica.

    One small collective exchanges batch sizes and seeds. All replicas use replica 0's seed.

    Args:
        replicas: The replicas that hold the batch.
        size: Scalar, the number of this replica's examples. It may differ between replicas.
        seed: `[2]`, integers. Equal seeds and sizes give equal orders.

    Returns:
        `[B, 2]`, integers, a row for each place of the shuffled global batch: the replica that
        holds the place, and the example's place in the unshuffled batch. Each replica has as many
        examples after as before.

    Raises:
        TypeError: If `replicas` is None, or `seed` holds no integers.
        ValueError: If `seed` is not `[2]`.
    """
    _check_replicas(replicas)
    seed = _integers("seed", seed)
    if tuple(seed.shape) != (2,):
        raise ValueError(f"`seed` must be two integers, received shape {tuple(seed.shape)}.")
    own = [size, *keras.ops.unstack(seed, 2)]
    gathered = replicas.gather(keras.ops.stack([keras.ops.cast(value, "int64") for value in own]))
    ends = keras.ops.cumsum(gathered[:, 0])
    places = keras.ops.arange(ends[-1], dtype="int64")
    holders = keras.ops.sum(places[:, None] >= ends, axis=1)
    draws = replicas.uniform(ends[-1], gathered[0, 1:])
    sources = keras.ops.argsort(draws)
    return keras.ops.stack([keras.ops.cast(a, "int32") for a in (holders, sources)], axis=1)


def shuffle(replicas: Replicas, rows: Tensor, order: Tensor) -> Tensor:
    """The rows that this replica holds in the shuffled batch. One collective, and one backward.

    Args:
        replicas: The replicas that hold the batch.
        rows: `[b, ...]`, this replica's rows of the batch, numbers or booleans.
        order: From `shuffle_order`.

    Returns:
        `[b, ...]`.

    Raises:
        TypeError: If `replicas` is None, `rows` are neither numbers nor booleans, or `order` holds
            no integers.
        ValueError: If `rows` are a scalar, or `order` has another shape.
    """
    rows, order = _checked(replicas, rows, order)
    home, sources = _own_places(replicas, order)
    return _exchange(replicas, rows, home, sources, order)


def unshuffle(replicas: Replicas, rows: Tensor, order: Tensor) -> Tensor:
    """Takes rows back where they came from: the inverse of `shuffle`, at the same cost.

    Args:
        replicas: The replicas that hold the batch.
        rows: `[b, ...]`, a row for each row that `shuffle` returned here.
        order: From `shuffle_order`.

    Returns:
        `[b, ...]`.

    Raises:
        TypeError: As `shuffle`.
        ValueError: As `shuffle`.
    """
    rows, order = _checked(replicas, rows, order)
    home, sources = _own_places(replicas, order)
    return _exchange(replicas, rows, sources, home, order)


def _checked(replicas: Replicas, rows: Any, order: Any) -> tuple[Tensor, Tensor]:
    """`rows` and `order` as tensors, if they can travel among `replicas`."""
    _check_replicas(replicas)
    rows = keras.ops.convert_to_tensor(arguments.numbers("rows", rows))
    dtype = keras.backend.standardize_dtype(rows.dtype)
    if not any(kind in dtype for kind in ("float", "int", "bool")):
        raise TypeError(
            f"Only numbers and booleans can be shuffled among replicas, received dtype {dtype}."
        )
    order = _integers("order", order)
    if rows.shape == () or len(order.shape) != 2 or order.shape[1] != 2:
        raise ValueError(
            "`rows` must have a first axis, the examples, and `order` must be `[B, 2]`, as "
            f"`shuffle_order` returns it; received shapes {tuple(rows.shape)} and "
            f"{tuple(order.shape)}."
        )
    return rows, order


def _check_replicas(replicas: Any) -> None:
    if replicas is None:
        raise TypeError(
            "`replicas` must be those of `keras_renorm.ops.Replicas.running()`, received None: one "
            "replica runs here, and has nobody to exchange rows with. Leave the rows as they are."
        )


def _integers(name: str, value: Any) -> Tensor:
    tensor = keras.ops.convert_to_tensor(arguments.numbers(name, value))
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if "int" not in dtype:
        raise TypeError(f"`{name}` must hold integers, received dtype {dtype}.")
    return tensor


def _own_places(replicas: Replicas, order: Tensor) -> tuple[Tensor, Tensor]:
    """The places that this replica holds, and the places that their examples came from."""
    own = order[:, 0] == keras.ops.cast(replicas.index, order.dtype)
    home = keras.ops.reshape(keras.ops.where(own)[0], (-1,))
    return home, keras.ops.take(order[:, 1], home)


def _exchange(replicas: Replicas, rows: Tensor, put: Tensor, take: Tensor, order: Tensor) -> Tensor:
    dtype = keras.backend.standardize_dtype(rows.dtype)
    wide = "float32" if "float" in dtype else "int64"
    carried = keras.ops.cast(rows, dtype if dtype in _CARRIED else wide)
    taken = replicas.exchange(carried, put, take, keras.ops.shape(order)[0])
    return keras.ops.cast(taken, dtype)
