"""Keras layers. They hold the variables, `keras_renorm.ops` the formulas."""

from keras_renorm.layers.batch_normalization import BatchNormalization
from keras_renorm.layers.batch_renormalization import BatchRenormalization
from keras_renorm.layers.cross_replica_shuffle import CrossReplicaShuffle
from keras_renorm.layers.cross_replica_unshuffle import CrossReplicaUnshuffle
from keras_renorm.layers.domain_batch_normalization import DomainBatchNormalization
from keras_renorm.layers.domain_batch_renormalization import DomainBatchRenormalization
from keras_renorm.layers.limits import RenormLimits
from keras_renorm.layers.skip_init import SkipInit

__all__ = [
    "BatchNormalization",
    "BatchRenormalization",
    "CrossReplicaShuffle",
    "CrossReplicaUnshuffle",
    "DomainBatchNormalization",
    "DomainBatchRenormalization",
    "RenormLimits",
    "SkipInit",
]
