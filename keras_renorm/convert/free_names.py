"""Names that are not taken."""

import itertools
from typing import Any

import keras

from keras_renorm import keras_internals
from keras_renorm.models import is_graph


class FreeNames:
    """The names of all layers and other operations in a model, and those given to new ones.

    Args:
        model: The model.
    """

    def __init__(self, model: keras.Model) -> None:
        parts = keras_internals.flattened(model)
        operations = [
            one for part in parts if is_graph(part) for one in getattr(part, "operations", ())
        ]
        self._owners: dict[str, set[int]] = {}
        for operation in (*parts, *operations):
            self._owners.setdefault(operation.name, set()).add(id(operation))

    def free(self, name: str, owner: Any = None) -> str:
        """A name that nothing has but `owner`: `name`, if need be with a number.

        Args:
            name: The name to begin with.
            owner: The layer of the model that is to have it. None for a new layer; others may get
                the same name then, in other graphs, for `name` is made from one of its graph.
        """
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        free = next(
            one
            for one in itertools.chain([name], numbered)
            if self._owners.get(one, set()) <= {id(owner)}
        )
        self._owners.setdefault(free, set()).add(id(owner))
        return free
