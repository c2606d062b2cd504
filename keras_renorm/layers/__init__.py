"""Keras layers. They hold the variables; the formulas stand in `keras_renorm.ops`."""

from keras_renorm.layers.batch_normalization import BatchNormalization
from keras_renorm.layers.batch_renormalization import BatchRenormalization, RenormLimits
from keras_renorm.layers.cross_replica_shuffle import CrossReplicaShuffle
from keras_renorm.layers.cross_replica_unshuffle import CrossReplicaUnshuffle

__all__ = [
    "BatchNormalization",
    "BatchRenormalization",
    "CrossReplicaShuffle",
    "CrossReplicaUnshuffle",
    "RenormLimits",
]
