"""Shuffling the examples of a global batch among replicas."""

import random
from typing import Any

import keras

from keras_renorm import ops
from keras_renorm.layers.inputs import switch
from keras_renorm.ops import arguments
from keras_renorm.typing import Tensor


@keras.saving.register_keras_serializable("keras_renorm")
class CrossReplicaShuffle(keras.layers.Layer):
    """Deals the global batch's examples out to the replicas at random, in training.

    ```
    outputs of replica k = the examples at places order[offset_k : offset_k + b_k] of the batch
    ```

    Use it before a head whose minibatch on one replica is no sample of the data: the regions of one
    image in detection, the positive pair of contrastive learning. Batch Normalization lets the
    members of such a minibatch see each other, and the head learns to use that ("leakage"). After
    the shuffle, a replica's minibatch is a sample of the global one. `CrossReplicaUnshuffle` takes
    the head's outputs back to the replicas of their labels. The other cure is `synchronized=True`.

    Gradients flow back to the replica that each example came from. Replicas may have batches of
    different sizes, and each gets as many examples as it gave. The layer takes a small collective
    (sizes and seed), one per tensor with the whole batch, and one per tensor backward. Replicas are
    those of a `tf.distribute` strategy, or the processes of PyTorch's default process group.
    Elsewhere, and at inference, the layer is the identity. So it is under JAX's
    `keras.distribution.DataParallel`, which has no minibatches of replicas.

    Args:
        seed: Integer that makes the orders the same in every run. None draws a seed. The layer's
            one weight counts the orders drawn so far, so training that resumes from a checkpoint
            draws the next ones.
        **kwargs: Keras's own layer arguments, such as `name`.

    Call arguments:
        inputs: A tensor `[b, ...]`, or a list, tuple or dictionary of tensors with the same b, all
            shuffled alike. Hand a mask over as one of the tensors: a mask that Keras attached
            does not follow.
        training: Whether to shuffle.

    Returns:
        `(outputs, order)`: the inputs shuffled, and a tensor `[B, 2]` for `CrossReplicaUnshuffle`,
        with 0 rows if nothing was shuffled. B is the size of the global batch.

    Raises:
        TypeError: If `seed` is not an integer, or the inputs are no tensors of numbers or booleans.
        ValueError: If `seed` does not fit into 64 bits, the inputs differ in batch size or have
            none, or the layer is called in training inside `jax.shard_map` or `jax.pmap`.

    Example:
        >>> rows, order = CrossReplicaShuffle(seed=1)(regions)
        >>> logits = CrossReplicaUnshuffle()(head(rows), order)

    Source: Wu & Johnson 2021, section 6; He et al. 2020 (MoCo), section 3.3, Shuffling BN.
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        seed = arguments.optional_integer("seed", seed, allowed="an integer or None")
        if seed is not None and not -(2**63) <= seed < 2**63:
            raise ValueError(f"`seed` must fit into 64 bits with a sign, received seed={seed}.")
        super().__init__(autocast=False, **kwargs)
        self.seed = seed
        self._seed = random.randrange(2**31) if seed is None else seed
        self.draw_count = self.add_weight(
            name="draw_count",
            shape=(),
            initializer="zeros",
            dtype="int",
            trainable=False,
            autocast=False,
        )
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> tuple[Any, Tensor]:
        """Shuffles `inputs`; see the class."""
        shapes = [keras.ops.shape(tensor) for tensor in arguments.tensors(inputs)]
        if () in shapes:
            raise ValueError(
                "The inputs must have a batch dimension, received a scalar: `inputs[None]` has one."
            )
        rows = [shape[0] for shape in shapes]
        known = {size for size in rows if isinstance(size, int)}
        if len(known) > 1:
            raise ValueError(
                "The inputs must all have the same batch size, received tensors of batch sizes "
                f"{rows}. Shuffle tensors of different batch sizes with a layer for each."
            )
        replicas = ops.Replicas.running()
        # Without replicas the value of `training`, which may be a graph's, makes no difference.
        if replicas is None or not _is_true(training):
            return inputs, keras.ops.zeros((0, 2), "int32")
        if not replicas.moves_rows:
            raise ValueError(
                "CrossReplicaShuffle moves no examples inside jax.shard_map or jax.pmap, received "
                "a call in training there. Leave the layer out, and give the normalization layers "
                "behind it synchronized=True."
            )
        drawn = keras.ops.cast(self.draw_count, "int64")
        seed = keras.ops.stack([keras.ops.convert_to_tensor(self._seed, "int64"), drawn])
        order = ops.shuffle_order(replicas, rows[0], seed)
        self.draw_count.assign_add(1)
        shuffled = keras.tree.map_structure(lambda x: ops.shuffle(replicas, x, order), inputs)
        return shuffled, order

    def compute_output_spec(
        self, inputs: Any, training: bool | None = None
    ) -> tuple[Any, keras.KerasTensor]:
        """Shapes and dtypes of the outputs for symbolic inputs."""
        arguments.tensors(inputs)
        outputs = keras.tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, dtype=x.dtype), inputs
        )
        return outputs, keras.KerasTensor((None, 2), dtype="int32")

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, tuple[int | None, ...]]:
        """The inputs' shapes, and that of the order.

        Raises:
            TypeError: If `input_shape` is neither a shape nor a structure of shapes.
        """
        return arguments.shapes(input_shape), (None, 2)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return super().get_config() | {"seed": self.seed}


def _is_true(training: Any) -> bool:
    """Whether `training` is, unless it gets its value only as a program runs."""
    training = switch(training)
    if keras.ops.is_tensor(training):
        raise ValueError(
            "CrossReplicaShuffle takes True or False as `training` among several replicas, "
            f"received {training!r}, whose value is not known yet. Compile a function for each."
        )
    return bool(training)
