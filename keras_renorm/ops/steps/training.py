"""The choice among the ways to compute a step of training, made once per call."""

import dataclasses
import functools
from collections.abc import Callable

import keras

from keras_renorm import keras_internals
from keras_renorm.ops.maths.moments import Moments
from keras_renorm.ops.steps import lowerings
from keras_renorm.ops.steps.fused import Fused
from keras_renorm.ops.steps.one_call import OneCall
from keras_renorm.ops.steps.pass_by_pass import NativePasses, PlainPasses
from keras_renorm.ops.steps.plain import Plain
from keras_renorm.ops.steps.step import Step, Trained, WayToTrain

IMPLEMENTATIONS: tuple[WayToTrain, ...] = (
    OneCall(),
    NativePasses(),
    Fused(),
    PlainPasses(),
    Plain(),
)
"""The ways, the preferred ones first. The last one takes every step."""


def choose(step: Step) -> WayToTrain:
    """The first way that takes a step and that `lowering` allows."""
    allowed = lowerings.allowed(lowerings.lowering().name)
    return next(i for i in IMPLEMENTATIONS if i.lowering in allowed and i.fits(step))


def train(step: Step) -> Trained:
    """Takes a step in the best way.

    A batch that is known to be a single ghost goes as a whole, with the same bits.

    Raises:
        ValueError: An export to LiteRT holds the step of a minibatch of unknown size.
    """
    _check_exporter(step.arguments.x.shape)
    if not _is_one_ghost(step):
        return choose(step).train(step)
    whole = step.with_settings(ghost_size=None)
    trained = choose(whole).train(whole)
    return dataclasses.replace(trained, moments=functools.partial(_as_ghosts, trained.moments))


def _check_exporter(shape: tuple[int | None, ...]) -> None:
    """Raises where the export's interpreter would end the process."""
    unknown = any(size is None for size in shape)
    if unknown and keras_internals.is_exporting(keras_internals.TO_LITE_RT):
        raise ValueError(
            "LiteRT's interpreter crashes on the moments of a minibatch of unknown size, received "
            f"inputs of shape {tuple(shape)} in a layer that is called with `training=True`. Call "
            "it without, or export a known size: `model.export(path, format='litert', "
            "input_signature=[keras.InputSpec(shape=(32, 8), dtype='float32')])`."
        )


def _is_one_ghost(step: Step) -> bool:
    rows, size = step.arguments.x.shape[0], step.settings.ghost_size
    return size is not None and isinstance(rows, int) and 0 < rows <= size


def _as_ghosts(moments: Callable[[], Moments]) -> Moments:
    """The moments `[C]` of the only ghost, as `[1, C]`."""
    return Moments(*(keras.ops.expand_dims(value, 0) for value in moments()))
