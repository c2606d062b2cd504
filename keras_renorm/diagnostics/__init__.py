"""Gauges: what the normalization layers of a model do, as numbers, tables and pictures.

A gauge takes a model, changes nothing in it and returns a report. `print(report)` shows a table and
names the faults below it, and `report.plot()` draws a picture.
"""

from keras_renorm.diagnostics.activation_percentiles import (
    ActivationPercentiles,
    ActivationPercentilesReport,
)
from keras_renorm.diagnostics.lint import LintReport, lint
from keras_renorm.diagnostics.renorm_report import RenormReport, renorm_report
from keras_renorm.diagnostics.report import Finding, Report
from keras_renorm.diagnostics.residual_variance import ResidualVarianceReport, residual_variance
from keras_renorm.diagnostics.train_inference_gap import (
    TrainInferenceGapReport,
    train_inference_gap,
)

__all__ = [
    "ActivationPercentiles",
    "ActivationPercentilesReport",
    "Finding",
    "LintReport",
    "RenormReport",
    "Report",
    "ResidualVarianceReport",
    "TrainInferenceGapReport",
    "lint",
    "renorm_report",
    "residual_variance",
    "train_inference_gap",
]
