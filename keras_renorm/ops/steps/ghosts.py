"""Ghost batches where the library does not cut them: by reshaping, in plain operations."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.steps.step import Step, Trained, trained
from keras_renorm.typing import Tensor


def in_ghosts(train: Callable[[Step], Trained], step: Step) -> Trained:
    """Takes the step of all full ghost batches at once, then of the smaller one at the end.

    Args:
        train: Takes a step whose first axis counts ghost batches (`ghosts`), and a step of a whole
            minibatch.
        step: A step with a `ghost_size`.

    Returns:
        What the step gives. Its moments are `[G, C]`, where G is the number of rows over
        `ghost_size`, rounded up.
    """
    shape, size = keras.ops.shape(step.arguments.x), step.settings.ghost_size
    assert size is not None
    rows = shape[0]
    cut, known = rows // size * size, isinstance(rows, int)
    parts = []
    if not known or cut > 0:
        full = train(_folded(step, cut, size))
        parts.append((keras.ops.reshape(full.y, (cut, *shape[1:])), full.moments()))
    if not known or cut < rows or not parts:
        rest = train(_of_rows(step, lambda value: value[cut:]).with_settings(ghost_size=None))
        batch = Moments(*(keras.ops.expand_dims(value, 0) for value in rest.moments()))
        parts.append((rest.y, batch))
    return trained(step, *_joined(parts, -(-rows // size)))


def _folded(step: Step, cut: Any, size: int) -> Step:
    """The step of the first `cut` rows, as `[G, size, ...]`."""

    def fold(value: Tensor) -> Tensor:
        return keras.ops.reshape(value[:cut], (cut // size, size, *keras.ops.shape(value)[1:]))

    settings = step.settings
    part = _of_rows(step, fold)
    return part.with_settings(ghost_size=None, ghosts=True, axis=settings.axis + 1)


def _of_rows(step: Step, part: Callable[[Tensor], Tensor]) -> Step:
    """The step with `part` of the rows of `x` and of the mask, if any."""
    x, mask = step.arguments.x, step.constants.mask
    if mask is not None:
        mask = part(_with_all_rows(mask, keras.ops.shape(x)[0]))
    return dataclasses.replace(
        step,
        arguments=step.arguments._replace(x=part(x)),
        constants=step.constants._replace(mask=mask),
    )


def _with_all_rows(mask: Tensor, rows: Any) -> Tensor:
    """`mask` with a row for each row of the batch. It may have one row for all."""
    if isinstance(rows, int) and mask.shape[0] == rows:
        return mask
    return keras.ops.broadcast_to(mask, (rows, *keras.ops.shape(mask)[1:]))


def _joined(parts: list[tuple[Tensor, Moments]], ghosts: Any) -> tuple[Tensor, Moments]:
    """Joins the parts, without the empty ghost that a batch of unknown size may end with."""
    ys, batches = zip(*parts, strict=True)

    def join(values: tuple[Tensor, ...]) -> Tensor:
        return values[0] if len(values) == 1 else keras.ops.concatenate(values, axis=0)

    return join(ys), Moments(*(join(values)[:ghosts] for values in zip(*batches, strict=True)))
