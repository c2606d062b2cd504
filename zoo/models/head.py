"""The end of every model: from features to classes, or to the features themselves."""

import dataclasses
from typing import Any

import keras

from keras_renorm.typing import Tensor


@dataclasses.dataclass(frozen=True)
class Head:
    """The end of a model: it classifies the features of the last block, or pools them.

    Attributes:
        include_top: Whether to classify; if not, the model ends with its features.
        pooling: Without a top: "avg" or "max" over the positions, or None for the feature maps.
        num_classes: Number of classes K.
        activation: Activation of the output, such as "softmax"; None for logits.
        dropout_rate: Fraction of the features dropped before the classification, in training.
        data_format: "channels_last" or "channels_first".

    Example:
        >>> model = keras.Model(images, head(features), name="resnet50")
    """

    include_top: bool = True
    pooling: str | None = None
    num_classes: int = 10
    activation: Any = "softmax"
    dropout_rate: float = 0.0
    data_format: str = "channels_last"

    def __call__(self, features: Tensor) -> Tensor:
        """The output of the model.

        Args:
            features: Feature maps `[B, H, W, F]` (or `[B, F, H, W]`), or vectors `[B, F]`.

        Returns:
            Tensor `[B, K]`; without a top the feature maps, or `[B, F]` if they are pooled.
        """
        if not self.include_top:
            return self._pool(features, self.pooling)
        return self.classify(self._pool(features, "avg"))

    def classify(self, vectors: Tensor, prefix: str = "") -> Tensor:
        """Maps vectors to one number per class.

        The layers compute in the type of their variables: under a mixed policy that is float32,
        because a softmax in float16 loses the small probabilities.

        Args:
            vectors: Tensor `[B, F]`.
            prefix: What the names of the layers begin with, for a second classifier.

        Returns:
            Tensor `[B, K]`.
        """
        if self.dropout_rate:
            vectors = keras.layers.Dropout(self.dropout_rate, name=f"{prefix}dropout")(vectors)
        dtype = keras.config.dtype_policy().variable_dtype
        logits = keras.layers.Dense(
            self.num_classes, kernel_initializer="he_normal", dtype=dtype, name=f"{prefix}logits"
        )(vectors)
        if self.activation is None:
            return logits
        name = f"{prefix}predictions"
        return keras.layers.Activation(self.activation, dtype=dtype, name=name)(logits)

    def _pool(self, features: Tensor, pooling: str | None) -> Tensor:
        if pooling is None or len(features.shape) == 2:
            return features
        layers = {
            "avg": keras.layers.GlobalAveragePooling2D,
            "max": keras.layers.GlobalMaxPooling2D,
        }
        return layers[pooling](data_format=self.data_format, name="pool")(features)
