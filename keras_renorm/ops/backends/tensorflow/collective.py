"""The replicas of a `tf.distribute` strategy."""

from typing import Literal

import tensorflow as tf

from keras_renorm.ops.backends.replicas import Replicas


class StrategyReplicas(Replicas):
    """See `keras_renorm.ops.Replicas`.

    Args:
        context: The context of the running replica.
    """

    def __init__(self, context: tf.distribute.ReplicaContext) -> None:
        self._context = context

    @property
    def size(self) -> int:
        """The number of replicas."""
        return int(self._context.num_replicas_in_sync)

    @property
    def index(self) -> tf.Tensor:
        """The place of this replica, from 0."""
        return self._context.replica_id_in_sync_group

    def all_reduce(self, operation: Literal["SUM", "MEAN"], value: tf.Tensor) -> tf.Tensor:
        """The sum or the mean of every replica's `value`.

        Raises:
            RuntimeError: TensorFlow allows no collective here.
        """
        try:
            return self._context.all_reduce(operation, value)
        except RuntimeError as error:
            if "merge_call" not in str(error):
                raise
            raise RuntimeError(
                "A layer that is synchronized, or one at inference whose statistics are averaged "
                "over replicas, was called where TensorFlow allows no collective: in a "
                "`tf.function` (with or without jit_compile) or a `tf.cond`, `tf.while_loop` or "
                "`tf.map_fn` inside the function that `strategy.run` runs, or with a tensor as "
                "`training`. Call it from that function itself with True or False, and put one "
                "`tf.function` around `strategy.run`."
            ) from error

    def uniform(self, count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """`count` random numbers that depend on `seed` only."""
        # Philox by name: "auto_select" may differ between the replicas' kinds of device.
        return tf.random.stateless_uniform([count], seed, alg="philox")
