"""Batch Normalization and Batch Renormalization for Keras.

For minibatches that are small, correlated or spread over replicas. The package holds
`keras_renorm.layers` (the layers), `keras_renorm.ops` (the pure functions behind them) and
`keras_renorm.schedules` (limits that change during training). Importing it registers its classes
with Keras, so that `keras.saving.load_model` finds them.
"""

from keras_renorm import layers, ops, schedules
from keras_renorm.version import __version__

__all__ = ["__version__", "layers", "ops", "schedules"]
