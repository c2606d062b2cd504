"""Ghost batches where the library does not cut them: by reshaping, in any backend's operations."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.steps.step import Step
from keras_renorm.typing import Tensor


def in_ghosts(
    function: Callable[..., tuple[Tensor, Moments]],
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    step: Step,
) -> tuple[Tensor, Moments]:
    """The step of each ghost batch: of all full ones at once, then of the smaller one at the end.

    Args:
        function: `function(x, gamma, beta, step)` takes the step where the first axis counts
            ghost batches (`step.ghosts`), and where there are none.
        x: Tensor `[B, ..., C, ...]`.
        gamma: `[C]`.
        beta: `[C]`.
        step: The rest, with a `ghost_size`.

    Returns:
        `(y, batch)`, the moments `[G, C]`, where G is B / `ghost_size` rounded up.
    """
    assert step.ghost_size is not None
    rows, size = keras.ops.shape(x)[0], step.ghost_size
    cut, known = rows // size * size, isinstance(rows, int)
    parts = []
    if not known or cut > 0:
        part = _folded(x, step, cut)
        y, batch = function(part[0], gamma, beta, part[1])
        parts.append((keras.ops.reshape(y, (cut, *keras.ops.shape(x)[1:])), batch))
    if not known or cut < rows or not parts:
        mask = step.mask if step.mask is None else _rows(step.mask, rows)[cut:]
        rest = dataclasses.replace(step, ghost_size=None, mask=mask)
        y, batch = function(x[cut:], gamma, beta, rest)
        parts.append((y, Moments(*(keras.ops.expand_dims(value, 0) for value in batch))))
    return _joined(parts, -(-rows // size))


def _folded(x: Tensor, step: Step, cut: Any) -> tuple[Tensor, Step]:
    """The first `cut` rows as `[G, ghost_size, ...]`, and the step for them."""
    assert step.ghost_size is not None
    size = step.ghost_size
    mask = step.mask

    def fold(value: Tensor) -> Tensor:
        return keras.ops.reshape(value[:cut], (cut // size, size, *keras.ops.shape(value)[1:]))

    if mask is not None:
        mask = fold(_rows(mask, keras.ops.shape(x)[0]))
    axis = step.axis + 1
    return fold(x), dataclasses.replace(step, ghost_size=None, ghosts=True, mask=mask, axis=axis)


def _rows(mask: Tensor, rows: Any) -> Tensor:
    """`mask` with a row for each of the batch, where it may have one for all."""
    if isinstance(rows, int) and mask.shape[0] == rows:
        return mask
    return keras.ops.broadcast_to(mask, (rows, *keras.ops.shape(mask)[1:]))


def _joined(parts: list[tuple[Tensor, Moments]], ghosts: Any) -> tuple[Tensor, Moments]:
    """The parts as one, without the ghost of no rows that a batch of unknown size may end with."""
    ys, batches = zip(*parts, strict=True)

    def join(values: tuple[Tensor, ...]) -> Tensor:
        return values[0] if len(values) == 1 else keras.ops.concatenate(values, axis=0)

    return join(ys), Moments(*(join(values)[:ghosts] for values in zip(*batches, strict=True)))
