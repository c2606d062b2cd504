"""The parts of an image that an evaluation with several crops looks at."""

import dataclasses
import itertools
from typing import Any

import tensorflow as tf

from zoo.data.preparation import Preparation
from zoo.errors import UserError

#: How many views there may be, and where they come from: see `views`.
CROPS = (1, 2, 10, 144)

#: Side of a crop over that of its square, where the preparation takes all of it.
_SHARE = 224 / 256

#: GoogLeNet's: crops of 224 pixels of images whose shorter side is 256, 288, 320 and 352.
_SHARES = (224 / 256, 224 / 288, 224 / 320, 224 / 352)

_MIDDLE = (1, 1)
_CORNERS = ((0, 0), (0, 2), (2, 0), (2, 2))


@dataclasses.dataclass(frozen=True)
class View(Preparation):
    """One part of an image: a crop of one of the largest squares in it.

    Attributes:
        square: Which of the squares: 0 is the first along the longer side, 1 the middle one, 2 the
            last.
        place: Row and column of the crop in the square, likewise.
        mirrored: Whether it is flipped left to right.
    """

    square: int = 1
    place: tuple[int, int] = _MIDDLE
    mirrored: bool = False

    def window(self, size: Any) -> Any:
        """Returns first row, first column, height and width of the crop, int32 `[4]`."""
        side, cut = tf.reduce_min(size), super().window(size)[2:]
        doubled = (size - side) * self.square + (side - cut) * tf.constant(self.place)
        return tf.concat([doubled // 2, cut], 0)

    def mapped(self, images: Any) -> Any:
        """Returns what the model takes of pixels in [0, 255]."""
        return super().mapped(tf.reverse(images, [-2]) if self.mirrored else images)


def views(preparation: Preparation, crops: int, input_shape: tuple[int, ...]) -> list[Preparation]:
    """Returns the ways in which an image is prepared, whose probabilities are averaged.

    - 1: the preparation as it is.
    - 2: it, and its mirror image.
    - 10: the four corners and the middle of the middle square, and their mirror images
      (Krizhevsky et al. 2012).
    - 144: the four corners, the middle and the whole of three squares along the longer side, for
    four sizes of crops, and all mirror images (Szegedy et al. 2014, GoogLeNet).

    Args:
        preparation: What the model takes.
        crops: One of `CROPS`.
        input_shape: The model's, `(H, W, C)`.

    Raises:
        ValueError: If `crops` is not one of them.
        UserError: If `crops` is above 2, and the model's images are no squares.

    Source: Ioffe & Szegedy 2015, section 4.2.3, evaluate with 144.
    """
    if crops not in CROPS:
        raise ValueError(
            f"`crops` must be one of {', '.join(map(str, CROPS))}, received {crops!r}."
        )
    if crops == 1:
        return [preparation]
    height, width, _ = input_shape
    if crops > 2 and (height is None or height != width):
        raise UserError(
            f"--crops={crops} is for models of square images of one size, received a model of "
            f"{input_shape}."
        )
    options = dataclasses.asdict(preparation)
    if crops > 2:
        options["size"] = height
    return [View(**options | one) for one in _differing(preparation.crop_share, crops)]


def _differing(crop_share: float, crops: int) -> list[dict[str, Any]]:
    """Returns how the views differ."""
    mirrored: list[dict[str, Any]] = [{"mirrored": False}, {"mirrored": True}]
    if crops == 2:
        return mirrored
    if crops == 10:
        parts = _five(crop_share if crop_share < 1 else _SHARE)
    else:
        parts = [
            {"square": square, **part}
            for share, square in itertools.product(_SHARES, range(3))
            for part in [*_five(share), {"crop_share": 1.0}]
        ]
    return [part | flip for part in parts for flip in mirrored]


def _five(share: float) -> list[dict[str, Any]]:
    """Returns the four corners and the middle of a square."""
    return [{"crop_share": share, "place": place} for place in (*_CORNERS, _MIDDLE)]
