"""A step by calls of the native library that has all of PyTorch's derivatives.

The first derivative backwards is a call. A gradient that is differentiated again, and the forward
derivative, are those of the same formula in plain operations; `torch.vmap` makes a call for each of
its examples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class Functions(NamedTuple):
    """What a step computes, of arguments (x, gamma, beta) and the constants of `Step`.

    Attributes:
        forward: `forward(*arguments, *constants)`: the output, the packed statistics, and more that
            has no gradient.
        backward: `backward(dy, x, statistics, *mask)`: the gradients for the arguments.
        output: `output(*arguments, *constants)`: the output in plain operations.
    """

    forward: Callable[..., tuple[torch.Tensor, ...]]
    backward: Callable[..., tuple[torch.Tensor, ...]]
    output: Callable[..., torch.Tensor]


def apply(
    functions: Functions,
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    *constants: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """What `functions.forward` returns, with derivatives.

    Args:
        functions: The step.
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        *constants: Those of `keras_renorm.ops.step.Step`.
    """
    outputs: tuple[torch.Tensor, ...] = _Differentiable.apply(functions, x, gamma, beta, *constants)
    return outputs


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(functions: Functions, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return functions.forward(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        functions, x, gamma, beta, *constants = inputs
        _, statistics, *_ = output
        vectors, masks = constants[:4], constants[4:]
        # Copies: a layer's moving statistics change in place before the gradient is taken.
        saved = x, gamma, beta, statistics, *(vector.clone() for vector in vectors), *masks
        ctx.functions = functions
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor | None, *_: Any) -> tuple[torch.Tensor | None, ...]:
        x, gamma, beta, statistics, *constants = ctx.saved_tensors
        gradients: tuple[torch.Tensor | None, ...] = None, None, None
        if dy is not None and torch.is_grad_enabled():  # which is to be differentiated again
            _, pull = _vjp(ctx.functions, (x, gamma, beta), constants)
            gradients = pull(dy)
        elif dy is not None:
            gradients = ctx.functions.backward(dy, x, statistics, *constants[4:])
        return None, *gradients, *(None for _ in constants)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        x, gamma, beta, _, *constants = ctx.saved_tensors
        arguments = x, gamma, beta
        given = tuple(
            torch.zeros_like(at) if tangent is None else tangent
            for at, tangent in zip(arguments, tangents, strict=False)
        )
        # The transpose of the gradient, which is linear in dy: also within forward derivatives.
        y, pull = _vjp(ctx.functions, arguments, constants)
        _, push = torch.func.vjp(pull, torch.zeros_like(y))
        return push(given)[0], None, None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], functions: Functions, *tensors: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
        def example(i: int) -> tuple[torch.Tensor, ...]:
            pairs = zip(tensors, in_dims[1:], strict=True)
            selected = (t if axis is None else t.select(axis, i) for t, axis in pairs)
            return apply(functions, *selected)

        examples = zip(*map(example, range(info.batch_size)), strict=True)
        outputs = tuple(torch.stack(parts) for parts in examples)
        return outputs, (0,) * len(outputs)


def _vjp(
    functions: Functions, arguments: tuple[torch.Tensor, ...], constants: list[torch.Tensor]
) -> tuple[torch.Tensor, Callable[..., tuple[torch.Tensor, ...]]]:
    """The output, and its gradients for the arguments as a function of that for the output."""
    found: tuple[torch.Tensor, Callable[..., tuple[torch.Tensor, ...]]] = torch.func.vjp(
        lambda *at: functions.output(*at, *constants), *arguments
    )
    return found
