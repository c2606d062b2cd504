"""The affine map of a batch norm in inference, and kernels with it folded in."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_renorm.models import KERNELS
from keras_renorm.typing import Layer

Array = NDArray[np.float64]

# x * scale + offset has an error of about 6e-8 * |mean| * |scale|. Our layers subtract the mean
# first and have none. Above this limit a channel would miss the promised 1e-5.
LARGE_MEAN = 64.0


def folded_weights(layer: Layer, norm: Layer) -> list[Array]:
    """The weights of `layer` with those of the norm after it, in float64.

    ```
    kernel' = kernel * scale,  bias' = beta + (bias - moving_mean) * scale
    scale = gamma / sqrt(moving_variance + epsilon)
    ```

    Args:
        layer: A layer of one of the classes in `KERNELS`.
        norm: A batch norm over its channels.

    Returns:
        The weights of such a layer with a bias.
    """
    mean, scale, offset = _affine(norm)
    weights = [_numpy(weight) for weight in layer.weights]
    index, axes = KERNELS[type(layer)]
    kernel = weights[index]
    shape = [size if i - kernel.ndim in axes else 1 for i, size in enumerate(kernel.shape)]
    bias = weights[index + 1] if layer.use_bias else 0.0
    return [*weights[:index], kernel * scale.reshape(shape), offset + (bias - mean) * scale]


def has_large_mean(norm: Layer) -> bool:
    """Whether a moving mean is beyond `LARGE_MEAN` deviations."""
    mean, scale, _ = _affine(norm)
    return bool(np.any(np.abs(mean * scale) > LARGE_MEAN))


def largest(weights: list[Array]) -> float:
    """The largest magnitude in `weights`, NaN aside."""
    return max(float(np.nanmax(np.abs(weight), initial=0.0)) for weight in weights)


def _affine(norm: Layer) -> tuple[Array, Array, Array]:
    """Mean, scale and offset of a norm in inference: y = (x - mean) * scale + offset."""
    mean, variance = _numpy(norm.moving_mean), _numpy(norm.moving_variance)
    gamma = 1.0 if norm.gamma is None else _numpy(norm.gamma)
    beta = np.zeros_like(mean) if norm.beta is None else _numpy(norm.beta)
    # Statistics that are not finite give NaN, as in the norm.
    with np.errstate(invalid="ignore", divide="ignore"):
        return mean, gamma / np.sqrt(variance + norm.epsilon), beta


def _numpy(variable: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(variable)).astype(np.float64)
