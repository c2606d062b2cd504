"""Pure functions: no variables, no layers. Statistics in float32 or wider."""

from keras_renorm.ops.correction import Correction, renorm_correction
from keras_renorm.ops.moments import Moments, moments
from keras_renorm.ops.moving import (
    has_update,
    update_moving_moments,
    update_moving_moments_by_stddev,
)
from keras_renorm.ops.renorm import batch_renormalization, normalize
from keras_renorm.ops.replicas import Replicas

__all__ = [
    "Correction",
    "Moments",
    "Replicas",
    "batch_renormalization",
    "has_update",
    "moments",
    "normalize",
    "renorm_correction",
    "update_moving_moments",
    "update_moving_moments_by_stddev",
]
