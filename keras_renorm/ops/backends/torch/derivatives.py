"""Calls of the native library with all of PyTorch's derivatives.

The first derivative backwards is by calls, too. A gradient that is differentiated again, and the
forward derivative, are those of the same formula in plain operations; `torch.vmap` makes a call for
each of its examples.

For what PyTorch compiles, which is no call of the library, see `kept`.
"""

from collections.abc import Callable
from typing import Any

import torch

from keras_renorm.ops.backends.tensorflow.derivatives import Functions


def apply(
    functions: Functions,
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    *constants: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """What `functions.forward` returns, with derivatives.

    Args:
        functions: What to compute.
        x: Tensor `[..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        *constants: Vectors and scalars, of which copies are kept, and masks of `x`'s rank.
    """
    outputs: tuple[torch.Tensor, ...] = _Differentiable.apply(functions, x, gamma, beta, *constants)
    return outputs


@torch.library.custom_op("keras_renorm::kept", mutates_args=())
def _kept(constant: torch.Tensor) -> torch.Tensor:
    return constant.clone()


_kept.register_fake(torch.empty_like)
_kept.register_vmap(lambda _, in_dims, constant: (_kept(constant), in_dims[0]))


def kept(constant: torch.Tensor) -> torch.Tensor:
    """The same values, which a compiled gradient does not compute again.

    PyTorch's compiler would, to save memory, and of moving statistics that have changed meanwhile.
    """
    exporting = getattr(torch.compiler, "is_exporting", bool)()
    return _kept(constant) if torch.compiler.is_compiling() and not exporting else constant


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(functions: Functions, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return functions.forward(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        functions, x, gamma, beta, *constants = inputs
        # Copies: a layer's moving statistics change in place before the gradient is taken.
        copies = (value if value.ndim > 1 else value.clone() for value in constants)
        kept = [] if functions.kept is None else [output[functions.kept]]
        saved = x, gamma, beta, *copies, *kept
        ctx.functions = functions
        ctx.outputs, ctx.constants = len(output), len(constants)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor | None, *_: Any) -> tuple[torch.Tensor | None, ...]:
        x, gamma, beta, *others = ctx.saved_tensors
        constants = others[: ctx.constants]
        gradients: tuple[torch.Tensor | None, ...] = None, None, None
        if dy is not None and torch.is_grad_enabled():  # which is to be differentiated again
            _, pull = _vjp(ctx.functions, (x, gamma, beta), constants)
            gradients = pull(dy)
        elif dy is not None:
            gradients = ctx.functions.backward(dy, x, gamma, beta, *others)
        return None, *gradients, *(None for _ in constants)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        x, gamma, beta, *others = ctx.saved_tensors
        arguments, constants = (x, gamma, beta), others[: ctx.constants]
        given = tuple(
            torch.zeros_like(at) if tangent is None else tangent
            for at, tangent in zip(arguments, tangents, strict=False)
        )
        # The transpose of the gradient, which is linear in dy: also within forward derivatives.
        y, pull = _vjp(ctx.functions, arguments, constants)
        _, push = torch.func.vjp(pull, torch.zeros_like(y))
        return push(given)[0], *(None,) * (ctx.outputs - 1)

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
