"""The native library's passes over a tensor: see `keras_renorm.ops.backends.kernels.Passes`.

None of them has a gradient of its own.
"""

import keras
import tensorflow as tf

from keras_renorm.ops.backends.tensorflow import calls
from keras_renorm.ops.maths import passes as plain_passes
from keras_renorm.ops.maths.moments import Moments, rounded
from keras_renorm.ops.maths.operands import Affine, Settings, Sums

normalize = calls.normalize
input_gradient = calls.input_gradient
relu_gradient = plain_passes.relu_gradient


def moments(x: tf.Tensor, mask: tf.Tensor | None, settings: Settings) -> tuple[Moments, tf.Tensor]:
    """The moments of the positions that count, and their mean."""
    count, mean, variance, rest = calls.moments(x, mask, settings)
    batch = rounded(count, mean, rest, variance, calls.wide(x.dtype))
    return batch, batch.mean


def gradient_sums(
    dy: tf.Tensor, x: tf.Tensor, affine: Affine, mask: tf.Tensor | None, settings: Settings
) -> Sums:
    """The two sums in the dtype of the vectors."""
    sums = calls.gradient_sums(dy, x, affine, mask, settings)
    return Sums(*(keras.ops.cast(value, affine.mean.dtype) for value in sums))
