"""The native kernels as functions of PyTorch tensors, on the CPU.

The same calls as in `tensorflow_calls`, but for those that merge replicas. Their derivatives are in
`keras_renorm.ops.backends.torch.derivatives`.
"""

import torch

from keras_renorm.ops.backends.torch.operators import ELEMENTS, register


def takes(x: torch.Tensor) -> bool:
    """Whether the kernels can work on this input."""
    return x.device.type == "cpu" and x.dtype in ELEMENTS


def forward(
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    moving_mean: torch.Tensor,
    moving_variance: torch.Tensor,
    r_max: torch.Tensor,
    d_max: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    axis: int,
    epsilon: float,
    relu: bool = False,
    ghost_size: int | None = None,
    momentum: float = 1.0,
    by_stddev: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Batch Renormalization and the moving update; see `tensorflow_calls.forward`.

    Args:
        x: [..., channels, ...].
        gamma: [channels], float64 for float64 and otherwise float32, as are all the following.
        beta: [channels].
        moving_mean: [channels].
        moving_variance: [channels].
        r_max: Scalar; a value below 1 counts as 1.
        d_max: Scalar; a value below 0 counts as 0.
        weights: Mask (bool) or weights, of the rank of `x` and broadcast against it.
        axis: The axis of the channels, at least 0.
        epsilon: Added to both variances.
        relu: Whether to take the positive part of y.
        ghost_size: Rows of the batch with moments of their own; None for all together.
        momentum: Weight of the old moving statistics in the new ones.
        by_stddev: Whether sigma is averaged, and not the variance.

    Returns:
        y, the packed statistics [9, ghosts, channels], the moving mean and variance after the
        update [channels], and whether there was one: a scalar, 1 or 0.
    """
    register()
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
    found = torch.ops.keras_renorm.forward.default(
        x,
        gamma,
        beta,
        moving_mean,
        moving_variance,
        r_max,
        d_max,
        weights,
        axis=axis,
        epsilon=epsilon,
        relu=relu,
        ghost_size=ghost_size or 0,
        momentum=momentum,
        by_stddev=by_stddev,
    )
    return found


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    statistics: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    axis: int,
    relu: bool = False,
    ghost_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of `forward` for x, gamma and beta; see `tensorflow_calls.backward`.

    Args:
        dy: Gradient of the output, like x.
        x: The input of `forward`.
        statistics: Its packed statistics.
        weights: Its weights.
        axis: As there.
        relu: As there.
        ghost_size: As there.
    """
    register()
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    found = torch.ops.keras_renorm.backward.default(
        dy, x, statistics, weights, axis=axis, relu=relu, ghost_size=ghost_size or 0
    )
    return found


def normalize(
    x: torch.Tensor,
    mean: torch.Tensor,
    mean_remainder: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    *,
    axis: int,
    relu: bool = False,
) -> torch.Tensor:
    """Normalises with given vectors; see `tensorflow_calls.normalize`.

    Args:
        x: As in `forward`.
        mean: [channels], as are the following.
        mean_remainder: What rounding to `mean` left out.
        scale: Factor of the centred value.
        offset: Added to the product.
        axis: The axis of the channels.
        relu: Whether to take the positive part of y.
    """
    register()
    parameters = torch.stack((mean, mean_remainder, scale, offset))
    y: torch.Tensor = torch.ops.keras_renorm.normalize.default(x, parameters, axis=axis, relu=relu)
    return y


def gradient_sums(
    dy: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    mean_remainder: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    axis: int,
    relu: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums of dy, and of dy times the centred value; see `tensorflow_calls.gradient_sums`.

    Args:
        dy: Gradient of the output of `normalize`.
        x: Its input, as are the following.
        mean: As there.
        mean_remainder: As there.
        scale: As there; read with `relu` only.
        offset: As there; read with `relu` only.
        weights: As in `forward`.
        axis: As there.
        relu: As there.

    Returns:
        Both sums, each [channels], of the type of `mean`.
    """
    register()
    parameters = torch.stack((mean, mean_remainder, scale, offset))
    sums: torch.Tensor = torch.ops.keras_renorm.gradient_sums.default(
        dy, x, parameters, weights, axis=axis, relu=relu
    )
    first, second = sums.to(mean.dtype).unbind()
    return first, second


def relu_gradient(dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`dy` where the output `y` of a ReLU is positive, and 0 elsewhere."""
    return torch.ops.aten.threshold_backward.default(dy, y, 0)
