"""Keras callbacks: statistics, gauges and limits during `fit`."""

from keras_renorm.callbacks.count_steps import CountSteps
from keras_renorm.callbacks.freeze_statistics import FreezeStatistics
from keras_renorm.callbacks.log_diagnostics import LogDiagnostics
from keras_renorm.callbacks.precise_statistics import PreciseStatistics
from keras_renorm.callbacks.renorm_history import RenormHistory

__all__ = [
    "CountSteps",
    "FreezeStatistics",
    "LogDiagnostics",
    "PreciseStatistics",
    "RenormHistory",
]
