"""Batch Renormalization, as functions of tensors."""

import keras

from keras_renorm.ops import arguments, backends
from keras_renorm.ops.backends.replicas import Replicas
from keras_renorm.ops.maths.masks import without_masked_gradients
from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.maths.moving import Moving
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.steps import inference, training
from keras_renorm.ops.steps.inference import InferenceStep
from keras_renorm.ops.steps.step import Step, Trained
from keras_renorm.typing import Tensor

_MOST_ROWS = 2**31 - 2
"""The most rows of a batch: TensorFlow's sizes are int32, without the largest one."""


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
    relu: bool = False,
    synchronized: bool = False,
    virtual_batch_size: int | None = None,
) -> tuple[Tensor, Moments]:
    """Normalises `x` in training with its own moments, corrected towards the moving ones.

    ```
    y = gamma * ((x - mu_B) / sigma_B * r + d) + beta
    ```

    r and d come from `renorm_correction`. The gradient is the paper's: it passes through mu_B and
    sigma_B but not through r and d. The native kernels, and plain operations under TensorFlow, keep
    `x` and vectors of shape `[C]` for the gradient. Plain operations with a ReLU also keep `y`:

    ```
    dL/dbeta  = sum dy
    dL/dgamma = r / sigma_B * sum dy * (x - mu_B) + d * sum dy
    dL/dx     = gamma * r / sigma_B * (dy - sum dy / m - (x - mu_B) * sum dy * (x - mu_B)
                                                         / (m * sigma_B^2))
    ```

    You can differentiate the output a second time, and forwards, even as part of a `tf.function`
    that you differentiate as a whole. Forward derivatives do not work inside a `tf.function`, and
    neither works for a minibatch of several replicas. Under JAX forward derivatives need
    `KERAS_RENORM_LOWERING=composite`.

    The defaults `r_max=1` and `d_max=0` give Batch Normalization. Masked positions have a `y` like
    all others, but enter neither the moments nor any gradient. A channel without a single position
    (no rows, or all masked) has moments 0, as in Keras, and gradients 0.

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
        mask: Optional boolean tensor of `x`'s rank that broadcasts against `x`. Where it is False,
            `x` contributes nothing, even if it is NaN.
        relu: Whether to take the positive part of `y`. The gradient's mask is that of the float32
            value in the native library, and in plain operations under JAX and PyTorch. Elsewhere it
            is that of `y`. They part where a float16 `y` of less than 2^-25 is rounded to 0.
            Where `y` is 0, an inf in its gradient does not come through.
        synchronized: Whether the minibatch is that of all replicas together: of the running
            `tf.distribute` strategy, of PyTorch's default process group, or of all devices that
            `jax.shard_map` maps over. Replicas may hold different numbers of positions, or none.
            Synchronizing takes one collective forward and one backward.
        virtual_batch_size: Rows of a ghost batch. The batch, the first axis of `x`, is cut into
            ghost batches, each with its own moments, r and d. The last is smaller where the rows do
            not divide. None keeps the minibatch whole.

    Returns:
        `(y, batch)`: the output in the dtype and shape of `x`, and the `Moments` of the minibatch,
        without gradient, for the update of the moving statistics. With `virtual_batch_size`,
        `batch` holds the ghost batches' moments, of shape `[G, C]`.

    Raises:
        TypeError: If `x` is not floating point.
        ValueError: If an argument is out of range or of the wrong shape.

    Example:
        >>> x = np.array([[1.0], [3.0]])
        >>> y, batch = batch_renormalization(x, [0.0], [1.0], r_max=3.0, d_max=5.0)
        >>> print(np.asarray(y))  # nothing clips, so training equals inference
        [[0.9995]
         [2.9985]]

    Source: Ioffe 2017, Algorithm 1 and the gradients of section 3. The ghost batches: Hoffer,
    Hubara & Soudry 2017, Algorithm 1.
    """
    trained = train(
        x,
        moving_mean,
        moving_variance,
        gamma,
        beta,
        r_max=r_max,
        d_max=d_max,
        epsilon=epsilon,
        axis=axis,
        mask=mask,
        relu=relu,
        synchronized=synchronized,
        virtual_batch_size=virtual_batch_size,
    )
    return trained.y, trained.moments()


def training_step(
    x: Tensor,
    moving_mean: Tensor,
    moving_variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    momentum: float,
    by_stddev: bool = False,
    r_max: float | Tensor = 1.0,
    d_max: float | Tensor = 0.0,
    epsilon: float = 1e-3,
    axis: int = -1,
    mask: Tensor | None = None,
    relu: bool = False,
    synchronized: bool = False,
    virtual_batch_size: int | None = None,
) -> tuple[Tensor, Moving]:
    """`batch_renormalization` and the update of the moving statistics that follows it.

    The update is `update_moving`. The native library does both in one call, which leaves 5
    operations in TensorFlow's graph instead of 46.

    Args:
        x: Tensor `[..., C, ...]` of rank 2 or more, floating point.
        moving_mean: `[C]`, before this step's update.
        moving_variance: `[C]`, before this step's update.
        gamma: Optional scale `[C]`; None is 1.
        beta: Optional offset `[C]`; None is 0.
        momentum: Weight of the old moving statistics, in [0, 1].
        by_stddev: Whether to average sigma, as in Batch Renormalization, and not the variance.
        r_max: This and all following arguments: as in `batch_renormalization`.
        d_max: Limit of d.
        epsilon: Added to the variances.
        axis: The axis of the channels.
        mask: Optional boolean tensor.
        relu: Whether to take the positive part of `y`.
        synchronized: Whether the minibatch is that of all replicas.
        virtual_batch_size: Rows of a ghost batch.

    Returns:
        `(y, moving)`: the output, and the moving statistics after the update, without gradient.

    Raises:
        TypeError: If `x` is not floating point.
        ValueError: If an argument is out of range or of the wrong shape.

    Example:
        >>> x = np.array([[1.0], [3.0]])
        >>> y, moving = training_step(x, [0.0], [1.0], momentum=0.9)
        >>> print(np.asarray(moving.mean))
        [0.2]

    Source: Ioffe 2017, Algorithm 1.
    """
    trained = train(
        x,
        moving_mean,
        moving_variance,
        gamma,
        beta,
        r_max=r_max,
        d_max=d_max,
        epsilon=epsilon,
        axis=axis,
        mask=mask,
        relu=relu,
        synchronized=synchronized,
        virtual_batch_size=virtual_batch_size,
        momentum=momentum,
        by_stddev=by_stddev,
    )
    return trained.y, trained.moving()


def train(
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
    relu: bool = False,
    synchronized: bool = False,
    virtual_batch_size: int | None = None,
    momentum: float = 1.0,
    by_stddev: bool = False,
) -> Trained:
    """Checks the operands, casts them as the lowerings need, and takes the step.

    `batch_renormalization` and `training_step` each return a part of the result.
    """
    x, axis, mask = arguments.inputs(x, axis, mask)
    named = {"moving_mean": moving_mean, "moving_variance": moving_variance}
    dtype = arguments.wide(x.dtype)
    mu, variance, gamma, beta = _vectors(x, axis, **named, gamma=gamma, beta=beta)
    size = arguments.virtual_batch_size(virtual_batch_size, axis=axis, synchronized=synchronized)
    r_max = arguments.limit("r_max", r_max, dtype)
    d_max = arguments.limit("d_max", d_max, dtype)
    tensors = x, gamma, beta, mu, variance, r_max, d_max, *([] if mask is None else [mask])
    own = backends.current().of_this_graph(tensors)
    settings = Settings(
        axis=axis,
        epsilon=arguments.positive("epsilon", epsilon),
        relu=arguments.flag("relu", relu),
        ghost_size=size if size is None else min(size, _MOST_ROWS),
        momentum=arguments.real("momentum", momentum, low=0, high=1),
        by_stddev=arguments.flag("by_stddev", by_stddev),
    )
    replicas = Replicas.running() if arguments.flag("synchronized", synchronized) else None
    return training.train(Step(Arguments(*own[:3]), Constants(*own[3:]), settings, replicas))


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
    """Normalises `x` with given statistics.

    ```
    y = gamma * (x - mean) / sqrt(variance + epsilon) + beta
    ```

    This is one affine map of `x`, in plain operations.

    Args:
        x: Tensor `[..., C, ...]` of rank 2 or more, floating point.
        mean: `[C]`.
        variance: `[C]`.
        gamma: Optional scale `[C]`; None is 1.
        beta: Optional offset `[C]`; None is 0.
        epsilon: Added to the variance, greater than 0.
        axis: The axis of the channels.

    Returns:
        The output, in the dtype and shape of `x`, differentiable in every tensor.

    Raises:
        TypeError: If `x` is not floating point.
        ValueError: If an argument is out of range or of the wrong shape.

    Example:
        >>> y = normalize(np.array([[1.0], [3.0]]), [1.0], [4.0], epsilon=1e-12)
        >>> print(np.asarray(y))
        [[0.]
         [1.]]

    Source: Ioffe & Szegedy 2015, Algorithm 2; Ioffe 2017, Algorithm 1.
    """
    x, axis, _ = arguments.inputs(x, axis, None)
    mean, variance, gamma, beta = _vectors(
        x, axis, mean=mean, variance=variance, gamma=gamma, beta=beta
    )
    settings = Settings(axis, arguments.positive("epsilon", epsilon))
    return inference.in_plain_operations(Arguments(x, gamma, beta), mean, variance, settings)


def inference_step(
    x: Tensor,
    moving_mean: Tensor,
    moving_variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    epsilon: float = 1e-3,
    axis: int = -1,
    mask: Tensor | None = None,
    relu: bool = False,
    portable: bool = True,
) -> Tensor:
    """A faster `normalize` with population statistics, which are constants for the gradient.

    Under TensorFlow this is one operation, which a graph merges with a convolution before it. That
    holds where the channels come last (on a GPU anywhere), the type is not float64 and `epsilon` is
    at least 1.001e-5. It does not hold for `[rows, C]` in graphs, nor where XLA compiles: XLA
    merges plain operations itself. Under PyTorch this is a call of the native library, for large
    tensors on the CPU, except in compiled, traced or exported programs.

    You can differentiate the output any number of times backwards, and forwards, with two
    exceptions. TensorFlow finds no derivative of its operation, but gives None or 0, where a
    `tf.autodiff.ForwardAccumulator` is around a `tf.function`. The native library's operations
    refuse an accumulator inside a `tf.function`. Set `KERAS_RENORM_LOWERING=composite` for both.

    Args:
        x: Tensor `[..., C, ...]` of rank 2 or more, floating point.
        moving_mean: `[C]`, a constant for the gradient.
        moving_variance: `[C]`, a constant for the gradient.
        gamma: Optional scale `[C]`; None is 1.
        beta: Optional offset `[C]`; None is 0.
        epsilon: Added to the variance, greater than 0.
        axis: The axis of the channels.
        mask: Optional boolean tensor of `x`'s rank that broadcasts against `x`. False does not
            change `y`, but keeps the position out of every gradient, even if `x` is NaN. A mask
            costs a second pass.
        relu: Whether to take the positive part of `y`. A gradient that is inf or NaN where `y` is 0
            does not come through, except under TensorFlow with `portable`: TensorFlow's own ReLU,
            which graphs merge with a convolution, multiplies it by 0 outside XLA.
        portable: Whether TensorFlow uses no operation of the native library, so that an exported
            model needs no library. False is faster where gradients are taken: one pass over the
            memory forwards and two backwards (four with `relu`).

    Returns:
        The output, in the dtype and shape of `x`.

    Raises:
        TypeError: If `x` is not floating point.
        ValueError: If an argument is out of range or of the wrong shape.

    Example:
        >>> y = inference_step(np.array([[1.0], [3.0]]), [1.0], [4.0], epsilon=1e-12)
        >>> print(np.asarray(y))
        [[0.]
         [1.]]

    Source: Ioffe & Szegedy 2015, Algorithm 2; Ioffe 2017, Algorithm 1.
    """
    x, axis, mask = arguments.inputs(x, axis, mask)
    named = {"moving_mean": moving_mean, "moving_variance": moving_variance}
    mean, variance, gamma, beta = _vectors(x, axis, **named, gamma=gamma, beta=beta)
    settings = Settings(axis, arguments.positive("epsilon", epsilon), arguments.flag("relu", relu))
    portable = arguments.flag("portable", portable)

    def output(x: Tensor) -> Tensor:
        given = Arguments(x, gamma, beta)
        return inference.normalize(InferenceStep(given, mean, variance, settings, portable))

    return without_masked_gradients(mask, output, x)


def _vectors(x: Tensor, axis: int, **vectors: Tensor | None) -> list[Tensor]:
    """The vectors in the dtype of statistics; a missing gamma is 1, a missing beta 0."""
    result, size, dtype = [], x.shape[axis], arguments.wide(x.dtype)
    for name, value in vectors.items():
        if value is None:
            value = keras.ops.full((size,), 1 if name == "gamma" else 0, dtype)
        value = arguments.converted(arguments.numbers(name, value), dtype)
        arguments.channels(name, value.shape, size)
        result.append(value)
    return result
