"""A step of training, in the lowering that `keras_renorm.ops.lowering` tells.

All give the same numbers, and the gradient of the paper: `one_call` of the native library,
`pass_by_pass` of native or plain operations, the fused kernels of TensorFlow (`fused`) and of
PyTorch (`torch_fused`), and `plain` operations with the backend's own gradient. For derivatives of
the gradients see `keras_renorm.ops.backends.tensorflow.derivatives`.
"""

import dataclasses
from typing import Any

import keras

from keras_renorm.ops.backends.replicas import Replicas
from keras_renorm.ops.maths import passes as composite
from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.maths.moving import Moving, update_moving
from keras_renorm.ops.steps import lowerings, one_call, pass_by_pass, plain
from keras_renorm.ops.steps.step import Step
from keras_renorm.typing import Tensor


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
        y, statistics, *_ = one_call.take(lowerings.native_calls(), x, gamma, beta, step)
        return y, one_call.moments(statistics, step)
    if replicas is None and name == "fused":
        return lowerings.fused_kernel().take(x, gamma, beta, step)
    if keras.backend.backend() != "tensorflow":
        # A gradient of ours would be wrong when it is differentiated again, or forwards.
        return plain.take(x, gamma, beta, step)
    passes = lowerings.native_passes() if name == "native" else composite
    return pass_by_pass.take(passes, x, gamma, beta, step, replicas)


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
        y, _, *found = one_call.take(calls, x, gamma, beta, step, **average)
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
