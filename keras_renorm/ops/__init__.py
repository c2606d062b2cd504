"""Pure functions: no variables, no layers. Statistics in float32 or wider."""

from keras_renorm.ops import backends
from keras_renorm.ops.backends.replicas import Replicas
from keras_renorm.ops.maths.correction import Correction, renorm_correction
from keras_renorm.ops.maths.moments import Moments, moments
from keras_renorm.ops.maths.moving import Moving, has_update, update_moving
from keras_renorm.ops.renorm import (
    batch_renormalization,
    inference_step,
    normalize,
    training_step,
)
from keras_renorm.ops.shuffling import shuffle, shuffle_order, unshuffle
from keras_renorm.ops.steps.lowerings import Lowering, lowering

__all__ = [
    "Correction",
    "Lowering",
    "Moments",
    "Moving",
    "Replicas",
    "batch_renormalization",
    "has_update",
    "inference_step",
    "lowering",
    "moments",
    "normalize",
    "renorm_correction",
    "shuffle",
    "shuffle_order",
    "training_step",
    "unshuffle",
    "update_moving",
]

backends.current()  # makes the backend now, and not while PyTorch compiles
