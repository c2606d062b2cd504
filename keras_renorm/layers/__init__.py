"""Keras layers. They hold the variables; the formulas stand in `keras_renorm.ops`."""

from keras_renorm.layers.batch_normalization import BatchNormalization
from keras_renorm.layers.batch_renormalization import BatchRenormalization, RenormLimits

__all__ = ["BatchNormalization", "BatchRenormalization", "RenormLimits"]
