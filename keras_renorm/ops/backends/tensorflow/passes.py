"""The passes over a tensor by the native kernels, under TensorFlow.

As in `keras_renorm.ops.maths.passes`; none of them has a gradient of its own.
"""

import keras
import tensorflow as tf

from keras_renorm.ops.backends.tensorflow import calls as tensorflow_calls
from keras_renorm.ops.maths.moments import Moments
from keras_renorm.typing import Tensor

normalize = tensorflow_calls.normalize


def moments(x: Tensor, axis: int, mask: Tensor | None) -> Moments:
    """As `composite.moments`, without a gradient."""
    dtype = tensorflow_calls.wide(x.dtype)
    found = tensorflow_calls.moments(x, mask, axis=axis)
    count, exact, variance = found
    mean = keras.ops.cast(exact, dtype)
    remainder = exact - keras.ops.cast(mean, "float64")
    return Moments(
        mean=mean,
        variance=keras.ops.cast(variance, dtype),
        count=keras.ops.cast(count, dtype),
        mean_remainder=keras.ops.cast(remainder, dtype),
    )


def gradient_sums(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    mean_remainder: Tensor,
    scale: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    *,
    axis: int,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """As `composite.gradient_sums`."""
    sums = tensorflow_calls.gradient_sums(
        dy, x, mean, mean_remainder, scale, offset, mask, axis=axis, relu=relu
    )
    first, second = (keras.ops.cast(value, mean.dtype) for value in sums)
    return first, second


def relu_gradient(dy: Tensor, y: Tensor) -> Tensor:
    """`dy` where the output `y` of a ReLU is positive, and 0 elsewhere."""
    return tf.raw_ops.ReluGrad(gradients=dy, features=y)


def input_gradient(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    mean_remainder: Tensor,
    scale: Tensor,
    offset: Tensor,
    bias: Tensor,
    slope: Tensor,
    mask: Tensor | None,
    *,
    axis: int,
    relu: bool = False,
) -> Tensor:
    """As `composite.input_gradient`."""
    return tensorflow_calls.input_gradient(
        dy, x, mean, mean_remainder, scale, offset, bias, slope, mask, axis=axis, relu=relu
    )
