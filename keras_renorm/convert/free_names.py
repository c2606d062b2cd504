"""Names that are not taken."""

import collections
from typing import Any

import keras

from keras_renorm import keras_internals
from keras_renorm.models import is_graph


class FreeNames:
    """The names of all layers and other operations in a model, and the names of new ones.

    Args:
        model: The model.
    """

    def __init__(self, model: keras.Model) -> None:
        parts = keras_internals.flattened(model)
        operations = [
            one for part in parts if is_graph(part) for one in getattr(part, "operations", ())
        ]
        self._owners = collections.defaultdict[str, set[int]](set)
        for operation in (*parts, *operations):
            self._owners[operation.name].add(id(operation))

    def free(self, name: str, owner: Any = None) -> str:
        """A name that only `owner` has: `name`, with a number where needed.

        Args:
            name: The name to begin with.
            owner: The layer of the model that gets the name. None for a new layer. Several new
                layers may get one name, in different graphs.
        """
        free, number = name, 0
        while self._owners[free] - {id(owner)}:
            number += 1
            free = f"{name}_{number}"
        self._owners[free].add(id(owner))
        return free
