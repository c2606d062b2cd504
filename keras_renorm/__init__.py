"""Batch Normalization and Batch Renormalization for Keras.

For minibatches that are small, correlated or spread over replicas. The package holds
`keras_renorm.layers` (the layers), `keras_renorm.convert` (conversion of models between them),
`keras_renorm.schedules` (limits that change during training) and `keras_renorm.ops` (the pure
functions behind them all). Importing it registers its classes with Keras, so that
`keras.saving.load_model` finds them.
"""

from keras_renorm import convert, layers, ops, schedules
from keras_renorm.version import __version__

__all__ = ["__version__", "convert", "layers", "ops", "schedules"]
