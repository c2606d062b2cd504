"""A step of training: moments, corrections and output, and the gradient of the paper.

The lowerings, which give the same numbers: `in_one_call` of the native library, `in_passes` of
plain or native operations, the fused kernels of TensorFlow and of PyTorch, and
`in_plain_operations` with the backend's own gradient. Under TensorFlow all can be differentiated
once more, and forwards; see `keras_renorm.ops.derivatives`.
"""

import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import keras

from keras_renorm.ops import arguments, composite, lowerings
from keras_renorm.ops.correction import Correction, renorm_correction
from keras_renorm.ops.derivatives import differentiable, held
from keras_renorm.ops.ghosts import in_ghosts
from keras_renorm.ops.moments import Moments, without_masked_gradients
from keras_renorm.ops.moving import Moving, update_moving
from keras_renorm.ops.replicas import Replicas
from keras_renorm.ops.sums import at_least
from keras_renorm.typing import Tensor

_OF_REPLICAS = (
    "The gradient of a normalization synchronized over several replicas cannot be differentiated "
    "again. Write synchronized=False where second derivatives are needed."
)


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step knows beside the tensors that have a gradient.

    Attributes:
        moving_mean: `[C]`, before the update.
        moving_variance: `[C]`, before the update.
        r_max: Scalar tensor; a value below 1 counts as 1.
        d_max: Scalar tensor; a value below 0 counts as 0.
        mask: None, or booleans that broadcast against the input.
        axis: The axis of the channels, counted from the front.
        epsilon: Added to the variances.
        relu: Whether to take the positive part of the output.
        ghost_size: Rows of the batch in one ghost batch; None where there are none.
        ghosts: Whether the first axis of the input counts ghost batches.
    """

    moving_mean: Tensor
    moving_variance: Tensor
    r_max: Tensor
    d_max: Tensor
    mask: Tensor | None
    axis: int
    epsilon: float
    relu: bool
    ghost_size: int | None = None
    ghosts: bool = False

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """Its tensors: moving mean and variance, r_max, d_max, and the mask if there is one."""
        masks = [] if self.mask is None else [self.mask]
        return self.moving_mean, self.moving_variance, self.r_max, self.d_max, *masks


def take(
    x: Tensor, gamma: Tensor, beta: Tensor, step: Step, *, synchronized: bool
) -> tuple[Tensor, Moments]:
    """The step in the lowering that `keras_renorm.ops.lowering` tells.

    Args:
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest.
        synchronized: Whether the minibatch is that of all replicas together.

    Returns:
        `(y, batch)`, as `batch_renormalization`.
    """
    if _is_one_ghost(x, step):
        whole = dataclasses.replace(step, ghost_size=None)
        y, batch = take(x, gamma, beta, whole, synchronized=synchronized)
        return y, Moments(*(keras.ops.expand_dims(value, 0) for value in batch))
    replicas = Replicas.running() if synchronized else None
    name = _lowering(x, step)
    if replicas is None and name == "native":
        y, statistics, *_ = in_one_call(lowerings.native_calls(), x, gamma, beta, step)
        return y, _moments(statistics, step)
    if replicas is None and name == "fused":
        by_kernel = _FUSED_KERNELS[keras.backend.backend()]
        return by_kernel(x, gamma, beta, step)
    if keras.backend.backend() != "tensorflow":
        # A gradient of ours would be wrong when it is differentiated again, or forwards.
        return in_plain_operations(x, gamma, beta, step)
    passes = lowerings.native_passes() if name == "native" else composite
    return in_passes(passes, x, gamma, beta, step, replicas)


def train(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    step: Step,
    *,
    synchronized: bool,
    momentum: float,
    by_stddev: bool,
) -> tuple[Tensor, Moving]:
    """The step and that of the moving statistics, by the native library in the same call.

    Args:
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest.
        synchronized: As in `take`.
        momentum: As in `keras_renorm.ops.update_moving`.
        by_stddev: As there.

    Returns:
        `(y, moving)`, as `training_step`.
    """
    average: dict[str, Any] = {"momentum": momentum, "by_stddev": by_stddev}
    if _is_one_ghost(x, step):
        step = dataclasses.replace(step, ghost_size=None)
    alone = not synchronized or Replicas.running() is None
    if alone and _lowering(x, step) == "native":
        calls = lowerings.native_calls()
        y, _, *found = in_one_call(calls, x, gamma, beta, step, **average)
        return y, Moving(*(keras.ops.stop_gradient(value) for value in found))
    y, batch = take(x, gamma, beta, step, synchronized=synchronized)
    statistics = step.moving_mean, step.moving_variance
    return y, update_moving(*statistics, batch, epsilon=step.epsilon, **average)


def _is_one_ghost(x: Tensor, step: Step) -> bool:
    """Whether the batch is known to be a single ghost: then the whole is done, with its bits."""
    rows = x.shape[0]
    return step.ghost_size is not None and isinstance(rows, int) and 0 < rows <= step.ghost_size


def _lowering(x: Tensor, step: Step) -> lowerings.Name:
    return lowerings.choose(
        x,
        axis=step.axis,
        epsilon=step.epsilon,
        weighted=step.mask is not None,
        ghosts=step.ghost_size is not None,
    )


def in_plain_operations(
    x: Tensor, gamma: Tensor, beta: Tensor, step: Step
) -> tuple[Tensor, Moments]:
    """The step in operations that the backend differentiates, as often as one likes.

    Args:
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest.

    Returns:
        `(y, batch)`, as `batch_renormalization`.
    """
    if step.ghost_size is not None:
        return in_ghosts(in_plain_operations, x, gamma, beta, step)
    dtype = x.dtype
    # Once, and so is its gradient rounded: parts of it, which cancel, are not fit for half types.
    x = keras.ops.cast(x, arguments.wide(dtype))
    batch = composite.moments(x, step.axis, step.mask, ghosts=step.ghosts)
    r, d = _correction(batch, step)
    scale = gamma * (r / keras.ops.sqrt(batch.variance + step.epsilon))
    affine = batch.mean, batch.mean_remainder, scale, gamma * d + beta

    def output(x: Tensor) -> Tensor:
        return composite.normalize(x, *affine, axis=step.axis, relu=step.relu)

    y = keras.ops.cast(without_masked_gradients(step.mask, output, x), dtype)
    return y, Moments(*(keras.ops.stop_gradient(value) for value in batch))


def in_one_call(
    calls: ModuleType,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    step: Step,
    *,
    momentum: float = 1.0,
    by_stddev: bool = False,
) -> tuple[Tensor, ...]:
    """The step as one call of the native library forwards and one backwards.

    Args:
        calls: `forward` and `backward`, as in `keras_renorm.ops.xla.tensorflow_calls`.
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest.
        momentum: As in `train`.
        by_stddev: As in `train`.

    Returns:
        The output, its statistics, and those that `Moving` holds, as `calls.forward` gives them.
    """
    options: dict[str, Any] = {"axis": step.axis, "relu": step.relu, "ghost_size": step.ghost_size}
    more = {"epsilon": step.epsilon, "momentum": momentum, "by_stddev": by_stddev}

    @keras.ops.custom_gradient
    def forward(x: Tensor, gamma: Tensor, beta: Tensor, *constants: Tensor) -> Any:
        mask = constants[4:]
        outputs = tuple(calls.forward(x, gamma, beta, *constants, **options, **more))

        def fast(dy: Tensor, x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
            return calls.backward(dy, x, outputs[1], *mask, **options)

        def backward(*upstream: Any) -> tuple[Any, ...]:
            # TensorFlow passes the outputs' gradients one by one, JAX as one tuple.
            dy = upstream[0][0] if isinstance(upstream[0], tuple) else upstream[0]
            gradients = _gradient(fast, step)(dy, x, gamma, beta)
            return *gradients, *(None for _ in constants)

        return outputs, backward

    found: tuple[Tensor, ...] = forward(x, gamma, beta, *step.constants)
    return found


def _moments(statistics: Tensor, step: Step) -> Moments:
    """The moments among the statistics of `in_one_call`."""
    rows = keras.ops.stop_gradient(statistics)[:4]
    rows = rows[:, 0] if step.ghost_size is None else rows
    mean, remainder, variance, count = keras.ops.unstack(rows, 4)
    return Moments(mean, variance, count, remainder)


def by_tensorflow_kernel(
    x: Tensor, gamma: Tensor, beta: Tensor, step: Step
) -> tuple[Tensor, Moments]:
    """The step by TensorFlow's fused batch norm; see `keras_renorm.ops.fused`.

    Args:
        x: Tensor `[..., C]`, float32.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest, without a mask.

    Returns:
        `(y, batch)`, as `batch_renormalization`.
    """
    from keras_renorm.ops import fused

    moving = step.moving_mean, step.moving_variance
    limits = step.r_max, step.d_max

    @keras.ops.custom_gradient
    def forward(*arguments: Tensor) -> Any:
        x, gamma, beta = held(arguments)
        result = fused.forward(
            x, gamma, beta, *moving, *limits, epsilon=step.epsilon, relu=step.relu
        )

        def fast(dy: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
            return fused.backward(dy, result.saved, epsilon=step.epsilon)

        def backward(dy: Tensor, *_: Any) -> Any:
            return _gradient(fast, step)(dy, *arguments)

        return tuple(result[:5]), backward

    y, *batch = forward(x, gamma, beta)
    mean, remainder, variance, count = (keras.ops.stop_gradient(value) for value in batch)
    return y, Moments(mean, variance, count, remainder)


def by_pytorch_kernel(x: Tensor, gamma: Tensor, beta: Tensor, step: Step) -> tuple[Tensor, Moments]:
    """The step by PyTorch's fused batch norm; see `keras_renorm.ops.torch_fused`.

    Args:
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest, without a mask.

    Returns:
        `(y, batch)`, as `batch_renormalization`.
    """
    from keras_renorm.ops import torch_fused

    images, shift = torch_fused.shifted(x, step.axis)
    batch = torch_fused.moments(images, shift)
    r, d = _correction(batch, step)
    y = torch_fused.normalize(images, gamma * r, gamma * d + beta, epsilon=step.epsilon)
    y = torch_fused.restored(y, x, step.axis)
    return keras.ops.relu(y) if step.relu else y, batch


_FUSED_KERNELS = {"tensorflow": by_tensorflow_kernel, "torch": by_pytorch_kernel}


def in_passes(
    passes: ModuleType,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    step: Step,
    replicas: Replicas | None,
) -> tuple[Tensor, Moments]:
    """The step, a pass over the tensor at a time.

    Args:
        passes: `moments`, `normalize`, `gradient_sums` and `input_gradient`, as in
            `keras_renorm.ops.composite`.
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest.
        replicas: Those whose positions make up the minibatch together; None for this one alone.

    Returns:
        `(y, batch)`, as `batch_renormalization`.
    """
    if step.ghost_size is not None:
        whole = functools.partial(in_passes, passes, replicas=replicas)
        return in_ghosts(whole, x, gamma, beta, step)
    own = {"ghosts": True} if step.ghosts else {}
    batch = passes.moments(keras.ops.stop_gradient(x), step.axis, step.mask, **own)
    if replicas is not None:
        batch = replicas.merge(batch)
    correction = _correction(batch, step)
    options: dict[str, Any] = {"axis": step.axis, "relu": step.relu}

    mean, variance, count, remainder = batch
    r, d = correction
    inverse = 1 / keras.ops.sqrt(variance + step.epsilon)
    refusal = None if replicas is None else _OF_REPLICAS

    @keras.ops.custom_gradient
    def forward(*arguments: Tensor) -> Any:
        x, gamma, beta = held(arguments)
        scale = gamma * (inverse * r)
        affine = mean, remainder, scale, gamma * d + beta

        def fast(dy: Tensor, x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
            sum_dy, sum_dy_centred = passes.gradient_sums(dy, x, *affine, step.mask, **options)
            dgamma, dbeta = inverse * r * sum_dy_centred + d * sum_dy, sum_dy
            if step.ghosts:
                dgamma, dbeta = keras.ops.sum(dgamma, axis=0), keras.ops.sum(dbeta, axis=0)
            if replicas is not None:  # x acts on the outputs of all, through the moments
                sum_dy, sum_dy_centred = replicas.add(sum_dy, sum_dy_centred)
            m = at_least(1, count)
            bias = scale * (sum_dy / m)
            slope = scale * (inverse * inverse * sum_dy_centred / m)
            dx = passes.input_gradient(dy, x, *affine, bias, slope, step.mask, **options)
            return dx, dgamma, dbeta

        def backward(dy: Tensor) -> tuple[Tensor, ...]:
            return _gradient(fast, step, refusal=refusal)(dy, *arguments)

        return passes.normalize(x, *affine, **options), backward

    return forward(x, gamma, beta), batch


def _correction(batch: Moments, step: Step) -> Correction:
    return renorm_correction(
        batch,
        step.moving_mean,
        step.moving_variance,
        r_max=step.r_max,
        d_max=step.d_max,
        epsilon=step.epsilon,
    )


def _gradient(
    gradient: Callable[..., tuple[Tensor, ...]], step: Step, *, refusal: str | None = None
) -> Callable[..., tuple[Tensor, ...]]:
    """`gradient(dy, x, gamma, beta)` of a step, with the derivatives of the plain operations."""
    output = _plain_output(step.axis, step.epsilon, step.relu, step.ghost_size, step.ghosts)
    return differentiable(gradient, output, step.constants, refusal=refusal)


@functools.cache
def _plain_output(
    axis: int, epsilon: float, relu: bool, ghost_size: int | None, ghosts: bool
) -> Callable[..., Tensor]:
    """The output of `in_plain_operations` as a function of `(x, gamma, beta, *step.constants)`."""

    def output(x: Tensor, gamma: Tensor, beta: Tensor, *constants: Tensor) -> Tensor:
        mean, variance, r_max, d_max, *masks = constants
        step = Step(
            moving_mean=mean,
            moving_variance=variance,
            r_max=r_max,
            d_max=d_max,
            mask=masks[0] if masks else None,
            axis=axis,
            epsilon=epsilon,
            relu=relu,
            ghost_size=ghost_size,
            ghosts=ghosts,
        )
        y, _ = in_plain_operations(x, gamma, beta, step)
        return y

    return output
