"""Where images come from: what every data set offers to an input pipeline."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

#: The split that a training is evaluated on, whatever a set calls it: its validation images, or
#: else its test images, or else a held-out part of its training images.
EVALUATION = "evaluation"

#: Shape of a set's images, `(H, W, C)`; H and W are None where they differ.
ImageShape = tuple[int | None, int | None, int]


class Source(Protocol):
    """The images of one split and their labels, by number, wherever they are kept."""

    @property
    def name(self) -> str:
        """Name of the set."""

    @property
    def split(self) -> str:
        """Name of the split."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    def image_shape(self) -> ImageShape:
        """Shape of an image."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Numbers of the classes, int64 `[N]`. Some sets read all files for it."""

    def __len__(self) -> int:
        """Number of images N."""

    def fetch(self, indices: Any) -> Any:
        """Returns, in a pipeline, tensors `[B, ...]` of which `read` makes the images `[B]`."""

    def read(self, item: Any) -> tuple[Any, Any]:
        """Returns, in a pipeline, an image for `decoding.Image`, and its label, int64 `[]`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed:
    """A set that stays where it is stored, and is read and decoded image by image.

    Attributes:
        name: Name of the set.
        split: Name of the split.
        class_names: Names of the classes.
        image_shape: Shape of an image.
        length: Number of images.
        fetch: See `Source`.
        read: See `Source`.
        find_labels: Returns all labels.
        fingerprint: Changes when images come, go or change, where that is known.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    image_shape: ImageShape
    length: int
    fetch: Callable[[Any], Any]
    read: Callable[[Any], tuple[Any, Any]]
    find_labels: Callable[[], npt.NDArray[np.int64]]
    fingerprint: str = ""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Numbers of the classes, int64 `[N]`."""
        return self.find_labels()

    def __len__(self) -> int:
        return self.length
