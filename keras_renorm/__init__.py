"""Batch Normalization and Batch Renormalization for Keras.

For minibatches that are small, correlated or spread over replicas. The package holds
`keras_renorm.layers` (the layers), `keras_renorm.schedules` (limits that change during training),
`keras_renorm.statistics` (population statistics: computed anew, frozen, switched),
`keras_renorm.diagnostics` (gauges that name what is wrong), `keras_renorm.callbacks` (both during
`fit`), `keras_renorm.convert` (conversion of models, and folding) and `keras_renorm.ops` (the pure
functions behind them all). Importing it registers its classes with Keras, so that
`keras.saving.load_model` finds them; what is no layer is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_renorm import layers, ops, schedules
from keras_renorm.version import __version__

if TYPE_CHECKING:
    from keras_renorm import callbacks, convert, diagnostics, statistics

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

_LATE = ("callbacks", "convert", "diagnostics", "statistics")


def __getattr__(name: str) -> Any:
    """Imports a package when it is first asked for: all of them take twice as long as the rest."""
    if name in _LATE:
        return importlib.import_module(f"keras_renorm.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return __all__
