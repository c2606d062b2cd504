"""The inputs of a layer's call, in the form that the steps take."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from keras_renorm.ops import arguments, backends
from keras_renorm.ops.backends.interface import Ragged
from keras_renorm.typing import Tensor

PAD = (
    "Pad them, `inputs.to_tensor()`, with the mask "
    "`inputs.with_flat_values(tf.ones(tf.shape(inputs.flat_values)[:-1], tf.bool)).to_tensor()`."
)
"""Advice for ragged inputs that a layer does not take, with channels last."""


class Inputs(NamedTuple):
    """The inputs of a call, dense: a ragged batch gives the values of all examples together.

    Attributes:
        x: `[..., C, ...]`.
        mask: None, or as in a call, without the last dimension.
        axis: The axis of the channels, counted from the end.
        ragged: The ragged batch whose values `x` holds, if there is one.
    """

    x: Tensor
    mask: Tensor | None
    axis: int
    ragged: Ragged | None = None

    def by_value(self, each: Any) -> Any:
        """Spreads a value per example, `[B]`, along the first axis of `x`. A number stays."""
        if self.ragged is None or not len(getattr(each, "shape", ())):
            return each
        return self.ragged.by_value(each)

    def restored(self, outputs: Tensor) -> Any:
        """Outputs of the shape of `x`, as a batch of the inputs' kind."""
        return outputs if self.ragged is None else self.ragged.restored(outputs)


def check_kind(inputs: Any) -> None:
    """Raises a TypeError for inputs that are several tensors, or a sparse one."""
    arguments.one_tensor(inputs)
    if backends.current().is_sparse(inputs):
        raise TypeError(
            "`inputs` must be dense or ragged, received a sparse tensor, whose output would not be "
            "sparse. Write `keras.ops.convert_to_tensor(inputs, sparse=False)`."
        )


def check(x: Any, mask: Any) -> None:
    """Raises for a dense or symbolic tensor, or for a mask, that a call does not take."""
    arguments.floating("inputs", x)
    if mask is not None:
        arguments.mask_shape(mask.shape, x.shape, layer=True)


def taken(inputs: Any, mask: Any, axis: int, channels: int) -> Inputs:
    """Checks inputs and mask and makes tensors of them.

    Restores the number of channels where a graph lost it.

    Args:
        inputs: The inputs of a layer's call.
        mask: The mask of a layer's call, or None.
        axis: The axis of the channels.
        channels: The number of channels.

    Raises:
        TypeError: If the inputs are several tensors, sparse or not floating point, or the mask does
            not go with ragged inputs.
        ValueError: If the inputs have no axis `axis`, it is ragged, or the mask's shape does not
            fit.
    """
    check_kind(inputs)
    ragged = backends.current().ragged(inputs)
    if ragged is None:
        inputs = keras.ops.convert_to_tensor(inputs)
        mask = None if mask is None else keras.ops.convert_to_tensor(mask)
    rank = len(inputs.shape)
    at, x = arguments.axis(axis, rank) - rank, inputs
    if ragged is not None:
        x, mask = ragged.values, None if mask is None else ragged.values_of(mask)
        if len(x.shape) + at < 1:
            raise ValueError(
                "The channels of ragged inputs must come after all ragged axes, received "
                f"axis={axis} for inputs of shape {tuple(inputs.shape)}. {PAD}"
            )
    if x.shape[at] is None:
        shape = list(keras.ops.shape(x))
        shape[at] = channels
        x = keras.ops.reshape(x, shape)
    check(x, mask)
    return Inputs(x, mask, at, ragged)


def switch(training: Any) -> Any:
    """`training`, or its value if it is a tensor that has one already.

    Raises:
        TypeError: If `training` is a text, or a tensor that is no scalar.
    """
    shape = getattr(training, "shape", ())
    known = getattr(shape, "rank", 0) is not None  # TensorFlow may not know the rank
    if isinstance(training, str) or (known and len(shape)):
        raise TypeError(
            "`training` must be True, False or None, or a scalar boolean tensor; received "
            f"{training!r}. Write training=True in a step of training."
        )
    has_value = keras.ops.is_tensor(training) and not backends.current().is_traced(training)
    return bool(training) if has_value else training


def decided(
    training: Tensor,
    layer: keras.layers.Layer,
    outputs: Callable[[bool, Tensor], tuple[Any, ...]],
    x: Tensor,
) -> tuple[Any, ...]:
    """`outputs(training, x)` where `training` gets its value only as a program runs.

    Args:
        training: A scalar of a graph.
        layer: The layer whose weights `outputs` reads and updates.
        outputs: A function that returns a tuple of the same form for True and for False.
        x: What `outputs` takes besides.
    """
    variables = layer.non_trainable_variables

    def branch(value: bool) -> Callable[..., Any]:
        def run(x: Tensor, *values: Tensor) -> Any:
            # A branch must not assign variables: under JAX its tracers would leak out of it. A
            # scope hides all values of the one around it.
            pairs = zip(layer.variables, values, strict=True)
            with keras.StatelessScope(list(pairs)) as scope:
                found = outputs(value, x)
            return found, [scope.get_current_value(v) for v in variables]

        return run

    found, values = backends.current().conditional(
        training, branch(True), branch(False), [x, *(v.value for v in layer.variables)]
    )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return tuple(found)
