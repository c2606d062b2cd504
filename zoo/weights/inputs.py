"""The preparation of images for a model. It belongs to the weights."""

from typing import Any, get_args

import keras
import numpy as np

from keras_renorm.typing import Tensor
from zoo.weights.record import Preprocessing
from zoo.weights.records import get_record

#: Means of ImageNet's blue, green and red, which the weights of the authors of ResNet expect.
_CAFFE_MEANS = (103.939, 116.779, 123.68)


@keras.saving.register_keras_serializable("zoo")
class ImagePreprocessing(keras.layers.Layer):
    """Turns pixels in [0, 255] into the input that a checkpoint was trained with.

    ```
    caffe:  y = (blue, green, red) - (103.939, 116.779, 123.68)
    tf:     y = x / 127.5 - 1
    unit:   y = x / 255
    raw:    y = x
    ```

    As `keras.applications.imagenet_utils.preprocess_input`, for images of any type and as a layer,
    which a saved model may hold.

    Args:
        mode: "caffe", "tf", "unit", or "raw" for models that map pixels themselves.
        data_format: "channels_last" or "channels_first"; by default that of Keras's settings.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        images: Red, green and blue in [0, 255], integers or floats, `[B, H, W, 3]` or `[H, W, 3]`,
            or with the channels before H. All modes but "caffe" take any number of channels.

    Returns:
        Tensor of the same shape, float32 unless `dtype` says otherwise.

    Raises:
        ValueError: If an argument or the number of channels is not allowed.

    Example:
        >>> preprocess = ImagePreprocessing("tf")
        >>> float(preprocess(np.full((1, 2, 2, 3), 255, np.uint8))[0, 0, 0, 0])
        1.0
    """

    def __init__(self, mode: Preprocessing, data_format: str | None = None, **kwargs: Any) -> None:
        # Under a mixed policy 255 levels do not fit bfloat16; the model casts what it is given.
        super().__init__(**({"dtype": "float32"} | kwargs))
        if mode not in get_args(Preprocessing):
            raise ValueError(
                f"`mode` must be one of {', '.join(map(repr, get_args(Preprocessing)))}, received "
                f"{mode!r}."
            )
        self.mode = mode
        self.data_format = data_format or keras.config.image_data_format()
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                "`data_format` must be 'channels_last' or 'channels_first', received "
                f"{data_format!r}."
            )

    def call(self, images: Tensor) -> Tensor:
        """Computes y; see the class."""
        x = keras.ops.cast(images, self.compute_dtype)
        if self.mode == "tf":
            return x / 127.5 - 1.0
        if self.mode == "unit":
            return x / 255.0
        if self.mode == "raw":
            return x
        axis = -1 if self.data_format == "channels_last" else -3
        if x.shape[axis] != 3:
            raise ValueError(
                "Preprocessing for these weights needs images with red, green and blue in axis "
                f"{axis} ({self.data_format}), received images of shape {tuple(x.shape)}."
            )
        means = np.reshape(np.asarray(_CAFFE_MEANS), (3,) if axis == -1 else (3, 1, 1))
        return keras.ops.flip(x, axis) - keras.ops.cast(means, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The inputs' shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return super().get_config() | {"mode": self.mode, "data_format": self.data_format}


def preprocessing(name: str, data_format: str | None = None) -> ImagePreprocessing:
    """Returns the layer that prepares images for a model with these weights.

    Args:
        name: Name of the checkpoint, one of `zoo.list_weights()`.
        data_format: "channels_last" or "channels_first"; by default as in Keras's settings.

    Returns:
        A layer. Call it on images, or put it before the model.

    Raises:
        WeightsError: If there is no such checkpoint.

    Example:
        >>> preprocess = zoo.preprocessing("resnet50.keras_imagenet")
        >>> probabilities = model.predict(preprocess(images))
    """
    return ImagePreprocessing(get_record(name).preprocessing, data_format)
