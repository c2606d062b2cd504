"""Gradients by hand with all of PyTorch's derivatives.

The first derivative backwards is by hand. Second derivatives and forward derivatives are those of
the same formula in plain operations. `torch.vmap` computes the function for each example.

PyTorch compiles no call of the library. See `pinned` for what it compiles.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import torch

from keras_renorm.ops.backends.kernels import Differentiable
from keras_renorm.ops.maths.operands import Arguments


def apply(
    function: Differentiable, arguments: Arguments, constants: Any
) -> tuple[torch.Tensor, ...]:
    """What `function.forward` returns, with derivatives.

    Args:
        function: What to compute.
        arguments: The operands that have a gradient.
        constants: A named tuple of vectors, scalars, masks of the rank of `x`, and None, without
            gradient. The gradient keeps copies of vectors and scalars.
    """
    places = _Places()
    outputs = _Differentiable.apply(function, type(constants), places, *arguments, *constants)
    return outputs[: places.returned]


def pinned(constant: torch.Tensor) -> torch.Tensor:
    """The same values, which a compiled gradient does not compute again.

    PyTorch's compiler would do so to save memory, from moving statistics that have changed since.
    """
    exporting = getattr(torch.compiler, "is_exporting", bool)()
    if exporting or not torch.compiler.is_compiling():
        return constant
    from keras_renorm.ops.backends.torch import pinning

    return pinning.copied(constant)


class _Places:
    """Which of a function's outputs are whose: the gradient can keep outputs only.

    Attributes:
        returned: The number of outputs for the caller. Other kept tensors follow them.
        kept: What is kept, with each tensor's place among the outputs, or None.
    """

    returned: int
    kept: Any = None


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(
        function: Differentiable, form: type, places: _Places, *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        outputs, kept = function.forward(Arguments(*tensors[:3]), form(*tensors[3:]))
        every = list(outputs)
        places.returned = len(outputs)
        if kept is not None:
            places.kept = keras.tree.map_structure(functools.partial(_place_in, every), kept)
        return tuple(every)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.function, ctx.form, ctx.places, *tensors = inputs
        # Copies: a layer's moving statistics change in place before the gradient is taken.
        copies = map(_copy, tensors[3:])
        places = ctx.places.kept
        kept = () if places is None else (output[i] for i in keras.tree.flatten(places))
        saved = *tensors[:3], *copies, *kept
        ctx.outputs = len(output)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor | None, *_: Any) -> tuple[torch.Tensor | None, ...]:
        arguments, constants, kept = _saved(ctx)
        gradients: tuple[torch.Tensor | None, ...] = None, None, None
        if dy is not None and torch.is_grad_enabled():  # the gradient gets differentiated again
            _refuse(ctx.function)
            _, pull = _vjp(ctx.function, arguments, constants)
            gradients = pull(dy)
        elif dy is not None:
            gradients = ctx.function.backward(dy, arguments, constants, kept)
        return None, None, None, *gradients, *(None for _ in constants)

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        _refuse(ctx.function)
        arguments, constants, _ = _saved(ctx)
        given = tuple(
            torch.zeros_like(at) if tangent is None else tangent
            for at, tangent in zip(arguments, tangents[3:], strict=False)
        )
        # The transpose of the gradient, which is linear in dy. It nests in forward derivatives.
        y, pull = _vjp(ctx.function, arguments, constants)
        _, push = torch.func.vjp(pull, torch.zeros_like(y))
        return push(given)[0], *(None,) * (ctx.outputs - 1)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        function: Differentiable,
        form: type,
        places: _Places,
        *tensors: torch.Tensor,
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
        def example(i: int) -> tuple[torch.Tensor, ...]:
            pairs = zip(tensors, in_dims[3:], strict=True)
            selected = [t if axis is None else t.select(axis, i) for t, axis in pairs]
            return _Differentiable.apply(function, form, places, *selected)

        examples = zip(*map(example, range(info.batch_size)), strict=True)
        outputs = tuple(torch.stack(parts) for parts in examples)
        return outputs, (0,) * len(outputs)


def _place_in(every: list[torch.Tensor], kept: torch.Tensor) -> int:
    """The place of a tensor in `every`, which takes the tensor if it is new."""
    for i, output in enumerate(every):
        if output is kept:
            return i
    every.append(kept)
    return len(every) - 1


def _refuse(function: Differentiable) -> None:
    if function.refusal is not None:
        raise ValueError(function.refusal)


def _copy(constant: torch.Tensor | None) -> torch.Tensor | None:
    return constant if constant is None or constant.ndim > 1 else constant.clone()


def _saved(ctx: Any) -> tuple[Arguments, Any, Any]:
    """The arguments, the constants, and what the forward pass kept."""
    tensors, end = ctx.saved_tensors, 3 + len(ctx.form._fields)
    kept = ctx.places.kept
    if kept is not None:
        kept = keras.tree.pack_sequence_as(kept, tensors[end:])
    return Arguments(*tensors[:3]), ctx.form(*tensors[3:end]), kept


def _vjp(
    function: Differentiable, arguments: Arguments, constants: Any
) -> tuple[torch.Tensor, Callable[..., tuple[torch.Tensor, ...]]]:
    """The output, and a function from its gradient to the gradients for the arguments."""

    def plain(*at: torch.Tensor) -> torch.Tensor:
        return function.plain(Arguments(*at), constants)

    return torch.func.vjp(plain, *arguments)
