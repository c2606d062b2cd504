"""Checkpoints by name: a registry, downloads that can be trusted, and loading into the models.

Most users need only `zoo.create_model(name, weights=...)`. `fetching.fetch` says what holds for
every download, and `loading.load` which files fit which models.
"""

from typing import TYPE_CHECKING, Any

from zoo.weights.errors import WeightsError
from zoo.weights.fetching import fetch
from zoo.weights.record import Record
from zoo.weights.records import RECORDS, get_record, list_weights

if TYPE_CHECKING:
    from zoo.weights.inputs import ImagePreprocessing, preprocessing
    from zoo.weights.loading import Loaded, load
    from zoo.weights.source import Source, find

__all__ = [
    "RECORDS",
    "ImagePreprocessing",
    "Loaded",
    "Record",
    "Source",
    "WeightsError",
    "fetch",
    "find",
    "get_record",
    "list_weights",
    "load",
    "preprocessing",
]

_LATE = {
    "ImagePreprocessing": "inputs",
    "Loaded": "loading",
    "Source": "source",
    "find": "source",
    "load": "loading",
    "preprocessing": "inputs",
}


def __getattr__(name: str) -> Any:
    """Imports the parts that need Keras on first use: a list of names takes 0.1 s without Keras."""
    if name in _LATE:
        import importlib

        return getattr(importlib.import_module(f"zoo.weights.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
