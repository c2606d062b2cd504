"""Image classifiers with the normalization as an argument, and the programs that train them.

A notebook needs `create_model`, `list_models`, `list_weights` and `preprocessing`. `zoo.data` holds
the images, and makes minibatches of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.models.registry import create_model, list_models
    from zoo.weights import list_weights, preprocessing

__all__ = ["create_model", "list_models", "list_weights", "preprocessing"]

_HOMES = {
    "create_model": "zoo.models.registry",
    "list_models": "zoo.models.registry",
    "list_weights": "zoo.weights",
    "preprocessing": "zoo.weights",
}


def __getattr__(name: str) -> Any:
    """Imports the models, and TensorFlow, when they are first asked for.

    `python -m zoo.train` imports this module first, and must be able to quieten TensorFlow before
    TensorFlow is imported.
    """
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
