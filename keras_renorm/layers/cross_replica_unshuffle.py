"""The way back from `CrossReplicaShuffle`."""

from typing import Any

import keras

from keras_renorm import ops
from keras_renorm.ops import arguments


@keras.saving.register_keras_serializable("keras_renorm")
class CrossReplicaUnshuffle(keras.layers.Layer):
    """Takes shuffled examples, or a head's outputs for them, back to their replicas.

    The layer undoes `CrossReplicaShuffle` by one collective per tensor, and one backward. It does
    nothing where that layer shuffled nothing.

    Args:
        **kwargs: Keras's own layer arguments, such as `name`.

    Call arguments:
        inputs: A tensor `[b, ...]`, or a list, tuple or dictionary of tensors, with a row for each
            of the b examples that this replica got from the shuffle, in their order.
        order: The second output of `CrossReplicaShuffle`.

    Returns:
        The inputs, each row at the place of its example.

    Raises:
        TypeError: If the inputs are no tensors.
        ValueError: If `order` is missing or not of shape `[B, 2]`.
        tensorflow.errors.InvalidArgumentError: Under TensorFlow, if the inputs do not have b rows.

    Example:
        >>> rows, order = CrossReplicaShuffle(seed=1)(regions)
        >>> logits = CrossReplicaUnshuffle()(head(rows), order)

    Source: He et al. 2020 (MoCo), section 3.3, Shuffling BN.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.built = True

    def call(self, inputs: Any, order: Any = None) -> Any:
        """Takes `inputs` back; see the class."""
        arguments.tensors(inputs)
        _check_order(order)
        replicas = ops.Replicas.running()
        if replicas is None or order.shape[0] == 0:
            return inputs
        return keras.tree.map_structure(lambda x: ops.unshuffle(replicas, x, order), inputs)

    def compute_output_shape(self, input_shape: Any, order_shape: Any = None) -> Any:
        """The inputs' shapes.

        Raises:
            TypeError: If `input_shape` is neither a shape nor a structure of shapes.
        """
        return arguments.shapes(input_shape)

    def compute_output_spec(self, inputs: Any, order: Any = None) -> Any:
        """Shapes and dtypes of the outputs for symbolic inputs."""
        arguments.tensors(inputs)
        _check_order(order)
        return keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, dtype=x.dtype), inputs)


def _check_order(order: Any) -> None:
    shape = getattr(order, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] != 2:
        received = "no tensor" if shape is None else f"a tensor of shape {tuple(shape)}"
        raise ValueError(
            "`order` must be the second output of CrossReplicaShuffle, of shape (B, 2); received "
            f"{received}. Write `rows, order = shuffle(inputs)` and "
            "`unshuffle(head(rows), order)`."
        )
