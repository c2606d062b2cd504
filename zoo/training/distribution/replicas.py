"""What each replica has of its own: a part of the minibatch, and statistics.

A replica is one copy of the model on one device. Without a strategy there is one.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def own_rows(*tensors: Any) -> tuple[Any, ...]:
    """Returns the running replica's rows of tensors that hold all replicas' rows.

    Replica i of R gets rows floor(i*N/R) to floor((i+1)*N/R): all rows are taken once, the numbers
    differ by at most one, and a replica gets none when there are too few.

    Args:
        *tensors: Tensors with the same number of rows N, in the function that `strategy.run` runs.

    Returns:
        The rows, of each tensor.
    """
    context = tf.distribute.get_replica_context()
    replicas, replica = context.num_replicas_in_sync, context.replica_id_in_sync_group
    if replicas == 1:
        return tensors
    # Numbers rather than tensors where they are known, so that the parts have known shapes.
    known = tf.get_static_value(replica)
    index = replica if known is None else int(known)
    rows = tensors[0].shape[0]
    total = tf.shape(tensors[0])[0] if rows is None else rows
    part = slice(index * total // replicas, (index + 1) * total // replicas)
    # On the host, where minibatches come from: a GPU receives its own part only.
    with tf.device("CPU:0"):
        return tuple(tensor[part] for tensor in tensors)


class OwnStatistics:
    """The variables that differ between replicas, as tables with a row for each replica.

    The moving statistics of layers that are not synchronized are such variables. TensorFlow saves
    their mean over the replicas, which inference uses. A run that is resumed from the mean does not
    end with the same bits, since Batch Renorm's corrections are made of each replica's own.

    Args:
        strategy: The strategy in whose scope the variables were made.
        variables: All variables of a run.

    Attributes:
        shared: The variables that are equal on all replicas.
        tables: Ordinary variables `[R, ...]`, one for each variable that differs.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, variables: Sequence[keras.Variable]
    ) -> None:
        self._strategy = strategy
        self._own = [variable.value for variable in variables if _differs(strategy, variable)]
        self.shared = [v.value for v in variables if not _differs(strategy, v)]
        self.tables = [
            tf.Variable(tf.zeros([strategy.num_replicas_in_sync, *own.shape], own.dtype))
            for own in self._own
        ]

    def gather(self) -> None:
        """Fills the tables. A collective: all workers must call it together."""
        if self._own:
            for table, rows in zip(self.tables, self._gathered(), strict=True):
                table.assign(rows)

    def scatter(self) -> None:
        """Gives each replica its row of the tables, which must be equal on all workers."""
        if self._own:
            self._scattered()

    @tf.function
    def _gathered(self) -> list[Any]:
        def rows() -> list[Any]:
            return [tf.expand_dims(own.read_value(), 0) for own in self._own]

        return [self._strategy.gather(value, axis=0) for value in self._strategy.run(rows)]

    @tf.function
    def _scattered(self) -> None:
        def take_rows() -> None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            for own, table in zip(self._own, self.tables, strict=True):
                own.assign(table[replica])

        self._strategy.run(take_rows)


def _differs(strategy: tf.distribute.Strategy, variable: keras.Variable) -> bool:
    """Whether the replicas' values of a variable may differ."""
    return (
        strategy.num_replicas_in_sync > 1
        and variable.synchronization == "on_read"
        and variable.aggregation != "only_first_replica"
    )
