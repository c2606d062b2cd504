"""A set of images that is whole and in memory."""

import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from zoo.errors import UserError

#: The set inside this package: 10,000 training and 2,000 test images of Fashion-MNIST.
PACKAGED = "fashion_mnist_subset"

#: The sets that the recipes and their numbers are about.
SUGGESTED = (PACKAGED, "fashion_mnist", "mnist", "cifar10")


class DatasetError(UserError, ValueError):
    """A set cannot be opened; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The images of one split and their labels.

    Attributes:
        name: Name of the set.
        split: "train" or "test".
        images: Pixels, uint8 `[N, H, W, C]`.
        labels: Numbers of the classes, int64 `[N]`.
        class_names: Names of the classes, in the order of their numbers.
    """

    name: str
    split: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        names: Any = self.class_names
        if not isinstance(names, tuple | list) or len(names) < 2:
            raise ValueError(
                f"`class_names` must be a tuple of two names or more, received {names!r}."
            )
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(
                "`images` must be uint8 [N, H, W, C], received "
                f"{self.images.dtype} {list(self.images.shape)}."
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int64:
            raise ValueError(
                f"`labels` must be int64 [{len(self.images)}], one per image, received "
                f"{self.labels.dtype} {list(self.labels.shape)}."
            )
        if np.any((self.labels < 0) | (self.labels >= self.num_classes)):
            raise ValueError(
                f"`labels` must lie in [0, {self.num_classes}), one number per class name, "
                f"received {self.labels.min()} to {self.labels.max()}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of an image, `(H, W, C)`."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    def fetch(self, indices: Any) -> tuple[Any, Any]:
        """Returns, in a pipeline, images `[B, H, W, C]` and their labels `[B]`."""
        images, labels = self._tensors
        return tf.gather(images, indices), tf.gather(labels, indices)

    def read(self, item: tuple[Any, Any]) -> tuple[Any, Any]:
        """Returns an image and its label as they are."""
        return item

    @functools.cached_property
    def _tensors(self) -> tuple[Any, Any]:
        """The whole set as tensors on the CPU, where input pipelines run."""
        with tf.init_scope(), tf.device("CPU:0"):
            return tf.constant(self.images), tf.constant(self.labels)
