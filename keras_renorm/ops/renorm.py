"""Batch Renormalization: the corrections r and d, and the normalisation with its gradient."""

from typing import Any, NamedTuple

import keras

from keras_renorm.ops import arguments
from keras_renorm.ops.moments import Moments, canonical_inputs, centre, moments, select
from keras_renorm.ops.replicas import Replicas
from keras_renorm.ops.sums import channel_shape, channel_sum
from keras_renorm.typing import Tensor


class Correction(NamedTuple):
    """The corrections of Batch Renormalization, vectors of shape `[C]` without gradient.

    Attributes:
        r: Ratio of the minibatch's to the moving standard deviation, clipped.
        d: Difference of the means in moving standard deviations, clipped.
    """

    r: Tensor
    d: Tensor


def renorm_correction(
    batch: Moments,
    moving_mean: Tensor,
    moving_variance: Tensor,
    *,
    r_max: float | Tensor,
    d_max: float | Tensor,
    epsilon: float = 1e-3,
) -> Correction:
    """The clipped corrections that take minibatch to moving statistics.

    ```
    sigma_B = sqrt(var_B + epsilon)              sigma = sqrt(moving_variance + epsilon)
    r = clip(sigma_B / sigma, 1 / r_max, r_max)  d = clip((mu_B - mu) / sigma, -d_max, d_max)
    ```

    Both are constants for the gradient. `r_max=1` makes r exactly 1 and `d_max=0` makes d exactly
    0, which is Batch Normalization. `r_max=inf` and `d_max=inf` do not clip.

    Differs from `keras.layers.BatchNormalization(renorm=True)`: the lower clip of r is always
    1 / r_max, and the corrections are clipped from the first step.

    Args:
        batch: The minibatch's moments, from `moments`.
        moving_mean: `[C]`, the moving mean before this step's update.
        moving_variance: `[C]`, the moving variance before this step's update.
        r_max: Scalar of at least 1, a number or a tensor. A tensor's value below 1 counts as 1.
        d_max: Scalar of at least 0, a number or a tensor. A tensor's value below 0 counts as 0.
        epsilon: Added to both variances.

    Returns:
        `Correction(r, d)`.

    Raises:
        ValueError: If `r_max`, `d_max` or `epsilon` is a number out of range.

    Example:
        >>> batch = moments(np.array([[1.0], [3.0]]))
        >>> renorm_correction(batch, [0.0], [1.0], r_max=3.0, d_max=1.0)  # r = 1, d = 1

    Source: Ioffe 2017, Algorithm 1.
    """
    epsilon = arguments.epsilon(epsilon)
    dtype = keras.backend.standardize_dtype(batch.mean.dtype)
    sigma = keras.ops.sqrt(keras.ops.cast(moving_variance, dtype) + epsilon)
    sigma_b = keras.ops.sqrt(batch.variance + epsilon)
    difference = batch.mean - keras.ops.cast(moving_mean, dtype) + batch.mean_remainder
    r_max, d_max = _limit("r_max", r_max, 1, dtype), _limit("d_max", d_max, 0, dtype)
    r = keras.ops.clip(sigma_b / sigma, 1 / r_max, r_max)
    d = keras.ops.clip(difference / sigma, -d_max, d_max)
    return Correction(keras.ops.stop_gradient(r), keras.ops.stop_gradient(d))


def batch_renormalization(
    x: Tensor,
    moving_mean: Tensor,
    moving_variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    r_max: float | Tensor = 1.0,
    d_max: float | Tensor = 0.0,
    epsilon: float = 1e-3,
    axis: int = -1,
    mask: Tensor | None = None,
    synchronized: bool = False,
) -> tuple[Tensor, Moments]:
    """Normalises `x` with its own moments, corrected towards the moving ones. For training.

    ```
    y = gamma * ((x - mu_B) / sigma_B * r + d) + beta
    ```

    with r and d of `renorm_correction`. The gradient is the paper's, through mu_B and sigma_B but
    not through r and d; it keeps `x` and vectors of shape `[C]` and nothing else of `x`'s size:

    ```
    dL/dbeta  = sum dy
    dL/dgamma = r / sigma_B * sum dy * (x - mu_B) + d * sum dy
    dL/dx     = gamma * r / sigma_B * (dy - sum dy / m - (x - mu_B) * sum dy * (x - mu_B)
                                                         / (m * sigma_B^2))
    ```

    The defaults `r_max=1` and `d_max=0` are Batch Normalization. At masked positions `y` is
    computed as everywhere else, but nothing of them enters the moments or any gradient. A channel
    without a single position (no rows, or all masked) has moments 0, as in Keras, and gradients 0.

    Args:
        x: Tensor `[..., C, ...]` of rank 2 or more, floating point.
        moving_mean: `[C]`, before this step's update.
        moving_variance: `[C]`, before this step's update.
        gamma: Optional scale `[C]`; None is 1.
        beta: Optional offset `[C]`; None is 0.
        r_max: Limit of r, at least 1: a number or a scalar tensor.
        d_max: Limit of d, at least 0: a number or a scalar tensor.
        epsilon: Added to the variances, greater than 0.
        axis: The axis of the channels.
        mask: Optional boolean tensor of `x`'s rank that broadcasts against `x`; False where `x`
            contributes nothing, even if it is NaN.
        synchronized: Whether the minibatch is that of all replicas of the running `tf.distribute`
            strategy together, which may hold different numbers of positions, or none. One
            collective forward and one backward.

    Returns:
        `(y, batch)`: the output in the dtype and shape of `x`, and the `Moments` of the minibatch,
        without gradient, for the update of the moving statistics.

    Raises:
        TypeError: If `x` is not floating point.
        ValueError: If an argument is out of range or of the wrong shape.

    Example:
        >>> x = np.array([[1.0], [3.0]])
        >>> y, batch = batch_renormalization(x, [0.0], [1.0], r_max=3.0, d_max=5.0)
        >>> y  # [[1], [3]]: nothing clips, so training equals inference

    Source: Ioffe 2017, Algorithm 1 and the gradients of section 3.
    """
    x, axis, mask = canonical_inputs(x, axis, mask)
    epsilon = arguments.epsilon(epsilon)
    vectors = {"moving_mean": moving_mean, "moving_variance": moving_variance}
    vectors |= {"gamma": gamma, "beta": beta}
    dtype = keras.backend.result_type(x.dtype, "float32")
    mu, variance, gamma, beta = _vectors(vectors, x.shape[axis], dtype)
    replicas = Replicas.running() if synchronized else None
    batch = moments(keras.ops.stop_gradient(x), axis, mask)
    if replicas is not None:
        batch = replicas.merge(batch)
    correction = renorm_correction(batch, mu, variance, r_max=r_max, d_max=d_max, epsilon=epsilon)
    y = _normalize_with_gradient(x, axis, mask, gamma, beta, batch, correction, epsilon, replicas)
    return y, batch


def normalize(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    epsilon: float = 1e-3,
    axis: int = -1,
) -> Tensor:
    """Normalises `x` with given statistics. For inference.

    ```
    y = gamma * (x - mean) / sqrt(variance + epsilon) + beta
    ```

    One affine map of `x`, in plain ops that any exported model can hold.

    Args:
        x: Tensor `[..., C, ...]` of rank 2 or more, floating point.
        mean: `[C]`.
        variance: `[C]`.
        gamma: Optional scale `[C]`; None is 1.
        beta: Optional offset `[C]`; None is 0.
        epsilon: Added to the variance, greater than 0.
        axis: The axis of the channels.

    Returns:
        The output, in the dtype and shape of `x`. Differentiable in every tensor.

    Raises:
        TypeError: If `x` is not floating point.
        ValueError: If an argument is out of range or of the wrong shape.

    Example:
        >>> normalize(np.array([[1.0], [3.0]]), [1.0], [4.0], epsilon=1e-12)  # [[0], [1]]

    Source: Ioffe & Szegedy 2015, Algorithm 2; Ioffe 2017, Algorithm 1.
    """
    x, axis, _ = canonical_inputs(x, axis, None)
    epsilon = arguments.epsilon(epsilon)
    vectors = {"mean": mean, "variance": variance, "gamma": gamma, "beta": beta}
    dtype = keras.backend.result_type(x.dtype, "float32")
    mean, variance, gamma, beta = _vectors(vectors, x.shape[axis], dtype)
    scale = gamma / keras.ops.sqrt(variance + epsilon)
    return _affine(x, centre(x, axis, mean), axis, scale, beta)


def _normalize_with_gradient(
    x: Tensor,
    axis: int,
    mask: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    batch: Moments,
    correction: Correction,
    epsilon: float,
    replicas: Replicas | None,
) -> Tensor:
    """The output of Algorithm 1, whose gradient takes `batch` for a function of `x`."""

    # Everything is an argument, since JAX cannot close over values under differentiation. Only x,
    # gamma and beta have a gradient; one output, since Keras's torch backend allows no more.
    @keras.ops.custom_gradient
    def forward(x: Tensor, gamma: Tensor, beta: Tensor, *constants: Tensor) -> Any:
        mean, variance, count, remainder, r, d, *given_mask = constants
        mask = given_mask[0] if given_mask else None
        inverse = 1 / keras.ops.sqrt(variance + epsilon)
        scale = gamma * (inverse * r)
        y = _affine(x, centre(x, axis, mean, remainder), axis, scale, gamma * d + beta)

        def backward(*args: Tensor, upstream: Tensor | None = None) -> tuple[Any, ...]:
            dy = args[0] if upstream is None else upstream  # torch passes it by keyword
            dy = select(mask, keras.ops.cast(dy, mean.dtype))
            centred = select(mask, centre(x, axis, mean, remainder))
            sum_dy = channel_sum(dy, axis)
            sum_dy_centred = channel_sum(dy * centred, axis)
            dgamma, dbeta = inverse * r * sum_dy_centred + d * sum_dy, sum_dy
            if replicas is not None:  # x acts on all replicas' outputs, through the moments
                sum_dy, sum_dy_centred = replicas.add(sum_dy, sum_dy_centred)
            m = keras.ops.maximum(count, 1)
            shape = channel_shape(x, axis)
            slope = keras.ops.reshape(inverse * inverse * sum_dy_centred / m, shape)
            offset = keras.ops.reshape(sum_dy / m, shape)
            dx = keras.ops.reshape(scale, shape) * (dy - offset - centred * slope)
            dx = keras.ops.cast(select(mask, dx), x.dtype)
            return dx, dgamma, dbeta, *(None for _ in constants)

        return y, backward

    constants = (*batch, *correction) if mask is None else (*batch, *correction, mask)
    return forward(x, gamma, beta, *constants)


def _affine(x: Tensor, centred: Tensor, axis: int, scale: Tensor, offset: Tensor) -> Tensor:
    """`centred * scale + offset` in the dtype of `x`."""
    shape = channel_shape(x, axis)
    y = centred * keras.ops.reshape(scale, shape) + keras.ops.reshape(offset, shape)
    return keras.ops.cast(y, x.dtype)


def _limit(name: str, value: float | Tensor, low: int, dtype: str) -> Tensor:
    """A limit in `dtype`: a number that must not be, or a tensor that is not, below `low`."""
    if isinstance(value, int | float):
        return keras.ops.cast(arguments.real(name, value, low=low), dtype)
    return keras.ops.maximum(keras.ops.cast(value, dtype), low)


def _vectors(vectors: dict[str, Tensor | None], size: int, dtype: str) -> list[Tensor]:
    """The vectors in `dtype`, with ones for a missing gamma and zeros for a missing beta."""
    result = []
    for name, value in vectors.items():
        if value is None:
            value = keras.ops.full((size,), 1 if name == "gamma" else 0, dtype)
        value = keras.ops.cast(keras.ops.convert_to_tensor(value), dtype)
        arguments.channels(name, value.shape, size)
        result.append(value)
    return result
