"""Image classifiers whose normalization is an argument, and the programs that train them.

`create_model` and `list_models` are all that a notebook needs. `zoo.data` holds the images and the
minibatches made of them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.models.registry import create_model, list_models

__all__ = ["create_model", "list_models"]


def __getattr__(name: str) -> Any:
    """Imports the models, and TensorFlow, when they are first asked for.

    A program must be able to quieten TensorFlow before it is imported, and `python -m zoo.train`
    imports this module first.
    """
    if name in __all__:
        from zoo.models import registry

        return getattr(registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
