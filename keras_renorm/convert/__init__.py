"""Conversion of models: the same network and weights with other normalization layers.

Each converter returns a new model and leaves the old one as it is. With `in_place=True` it changes
the old model instead. `report=print` prints what was replaced.
"""

from keras_renorm.convert.changes import Change, Report
from keras_renorm.convert.converters import (
    from_keras,
    to_batch_normalization,
    to_batch_renormalization,
    to_keras,
    to_synchronized,
    to_unsynchronized,
)
from keras_renorm.convert.folding import fold

__all__ = [
    "Change",
    "Report",
    "fold",
    "from_keras",
    "to_batch_normalization",
    "to_batch_renormalization",
    "to_keras",
    "to_synchronized",
    "to_unsynchronized",
]
