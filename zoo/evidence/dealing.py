"""A perceptron whose ghost batches get their images as players get cards."""

import functools
from typing import Any

import keras

import zoo
from zoo.models.head import Head


@keras.saving.register_keras_serializable("keras_renorm.evidence")
class Dealt(keras.layers.Layer):
    """Deals rows to hands, one after the other, and puts those of a hand together.

    ```
    y = x[0], x[k], x[2k], ..., x[1], x[k + 1], ...        k hands
    ```

    Neighbours of a minibatch are then in different ghost batches, as with a shuffle, and those of
    one label are spread evenly. It is what `layers.CrossReplicaShuffle` does among replicas.

    Args:
        hands: Number of hands k.
        back: Whether to put rows that were dealt back in their places instead.

    Call arguments:
        rows: `[B, ...]`.

    Returns:
        `[B, ...]`.
    """

    def __init__(self, hands: int, *, back: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hands, self.back = hands, back

    def call(self, rows: Any) -> Any:
        """Returns the rows in their new order."""
        count = keras.ops.shape(rows)[0]
        places = keras.ops.arange(count)
        order = keras.ops.argsort(places % self.hands * count + places)
        return keras.ops.take(rows, keras.ops.argsort(order) if self.back else order, axis=0)

    def get_config(self) -> dict[str, Any]:
        """Returns what makes an equal layer."""
        return {**super().get_config(), "hands": self.hands, "back": self.back}


def _mlp(hands: int, *, num_classes: int, **options: Any) -> keras.Model:
    """Returns the model `mlp`, whose hidden layers see the rows as they are dealt."""
    hidden = zoo.create_model("mlp", include_top=False, **options)
    images = keras.Input(options["input_shape"])
    features = Dealt(hands, back=True)(hidden(Dealt(hands)(images)))
    return keras.Model(images, Head(num_classes=num_classes)(features))


#: Models for `--config.model` of zoo.train, by the number of hands.
halves = functools.partial(_mlp, 2)
fifths = functools.partial(_mlp, 5)
