"""Batch Normalization and Batch Renormalization for Keras.

For minibatches that are small, correlated or spread over replicas. The package holds
`keras_renorm.layers` (the layers), `keras_renorm.schedules` (limits that change during training),
`keras_renorm.statistics` (population statistics: computed anew, frozen, switched),
`keras_renorm.diagnostics` (gauges that name what is wrong), `keras_renorm.callbacks` (both during
`fit`), `keras_renorm.convert` (conversion of models, and folding) and `keras_renorm.ops` (the pure
functions behind them all). Importing it registers its classes with Keras, so that
`keras.saving.load_model` finds them.
"""

from keras_renorm import callbacks, convert, diagnostics, layers, ops, schedules, statistics
from keras_renorm.version import __version__

__all__ = [
    "__version__",
    "callbacks",
    "convert",
    "diagnostics",
    "layers",
    "ops",
    "schedules",
    "statistics",
]
