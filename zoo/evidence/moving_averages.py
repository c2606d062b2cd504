"""A layer that normalises by its moving averages in training, too, to show why none should."""

from typing import Any

import keras

import zoo
from keras_renorm import layers, ops


@keras.saving.register_keras_serializable("keras_renorm.evidence")
class MovingAverageNormalization(layers.BatchNormalization):
    """Normalises by the moving averages, which follow the minibatches.

    ```
    y = gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta
    ```

    in training and in inference. No gradient passes through the statistics.

    Source: Ioffe 2017, section 3, which says why not to.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalises `inputs`, and moves the averages."""
        del mask
        y = super().call(inputs, training=False)
        if training:
            mean, variance, *_ = ops.moments(keras.ops.stop_gradient(inputs))
            for average, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
                average.assign(self.momentum * average + (1 - self.momentum) * new)
        return y


def mlp(**options: Any) -> keras.Model:
    """Returns the model `mlp` with such layers; a `--config.model` of zoo.train."""
    del options["norm"], options["norm_options"]
    return zoo.create_model(
        "mlp", norm=lambda **keys: MovingAverageNormalization(momentum=0.9, **keys), **options
    )
