"""Image classifiers whose normalization is an argument, and the programs that train them.

`create_model` and `list_models` are all that a notebook needs. `zoo.data` holds the images and the
minibatches made of them.
"""

from zoo.models.registry import create_model, list_models

__all__ = ["create_model", "list_models"]
