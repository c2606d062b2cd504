"""How images of any size are prepared for a model, and changed in training."""

import dataclasses
from typing import Any

import tensorflow as tf

from zoo.data import augment
from zoo.data.decoding import Image, with_channels
from zoo.data.rand_augment import RandAugment
from zoo.data.sources import ImageShape
from zoo.weights.inputs import ImagePreprocessing
from zoo.weights.record import Preprocessing


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How an image becomes a model's input, in evaluation.

    A share of the largest square in the middle is cut out and resized. Without a size an image
    keeps its stored size.

    Attributes:
        size: Height and width in pixels; 0 for the stored ones.
        channels: 3, 1, or 0 for the stored ones.
        crop_share: Side of the cut, over the side of the square.
        interpolation: How pixels are interpolated.
        pixels: What they are mapped to: see `zoo.weights.inputs.ImagePreprocessing`.
    """

    size: int = 0
    channels: int = 0
    crop_share: float = 1.0
    interpolation: str = "bilinear"
    pixels: Preprocessing = "unit"

    def shape(self, stored: ImageShape) -> tuple[int, int, int]:
        """Returns the shape of prepared images.

        Args:
            stored: The shape of the set's images.

        Raises:
            ValueError: If the images have several sizes, and none was asked for, or have no
                colours where `pixels` needs them.
        """
        height, width, channels = stored
        channels = self.channels or channels
        if self.pixels == "caffe" and channels != 3:
            raise ValueError(
                f"--config.pixels=caffe needs images with 3 channels, received {channels}: give "
                "--config.image_channels=3, or leave pixels out."
            )
        if self.size:
            height = width = self.size
        if height is None or width is None:
            raise ValueError(
                "The images have several sizes: give the one to resize them to, as in "
                "--config.image_size=224."
            )
        return height, width, channels

    def __call__(self, image: Image) -> Any:
        """Returns pixels in [0, 255], float32, not yet mapped.

        Args:
            image: The image to take a part of.
        """
        if not self.size:
            return tf.cast(image.window(tf.concat([[0, 0], image.size], 0)), tf.float32)
        return self.resized(image.window(self.window(image.size)))

    def window(self, size: Any) -> Any:
        """Returns the window to take of an image of this height and width: see `central_window`."""
        return central_window(size, self.crop_share)

    def resized(self, pixels: Any) -> Any:
        """Returns pixels `[..., H, W, C]` in the size, float32 in [0, 255]."""
        size = (self.size, self.size)
        if self.interpolation in ("area", "nearest"):
            resized = tf.image.resize(pixels, size, self.interpolation)
        else:
            # Smoothed where an image shrinks: else most pixels of a large one have no say.
            resized = tf.image.resize(pixels, size, self.interpolation, antialias=True)
        return tf.clip_by_value(tf.cast(resized, tf.float32), 0.0, 255.0)

    def batch(self, images: Any) -> Any:
        """Prepares stored images of one size, uint8 `[B, H, W, C]`, as `__call__` does one."""
        images = with_channels(images, self.channels or None)
        if not self.size:
            return tf.cast(images, tf.float32)
        height, width = images.shape[1:3]
        if (height, width) == (self.size, self.size) and self.crop_share == 1:
            return tf.cast(images, tf.float32)
        row, column, height, width = tf.unstack(self.window(tf.constant([height, width])))
        return self.resized(images[:, row : row + height, column : column + width])

    def mapped(self, images: Any) -> Any:
        """Maps pixels in [0, 255] to what the model takes."""
        if self.pixels == "unit":
            return tf.cast(images, tf.float32) / 255.0
        return ImagePreprocessing(self.pixels, "channels_last")(images)


def central_window(size: Any, share: float) -> Any:
    """Returns the middle of an image: a square whose side is a share of the shorter side.

    Args:
        size: Height and width, int32 `[2]`.
        share: Above 0, up to 1.

    Returns:
        First row, first column, height and width, int32 `[4]`.
    """
    side = tf.cast(tf.reduce_min(size), tf.float32) * share
    side = tf.maximum(tf.cast(tf.round(side), tf.int32), 1)
    return tf.concat([(size - side) // 2, [side, side]], 0)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How images are changed in training.

    Attributes:
        crop: "none"; "pad": `augment.pad_crop_flip` of prepared images; "inception": a part of
            random size, place and aspect is resized.
        flip: Whether half of the images are flipped left to right.
        area: Least share of the image in an Inception crop; the largest is 1.
        aspect: Largest width over height there; the least is 1 / aspect.
        colour: Strength of the change of colours; see `augment.draw_colours`. 0: none.
        rand_augment: Strength of RandAugment; 0: none.
        erasing: Share of the images in which a box is erased.
        mixup: Alpha of mixup; 0: none.
        cutmix: Alpha of cutmix; 0: none. With both, each minibatch uses one of the two.
    """

    crop: str = "none"
    flip: bool = False
    area: float = 0.08
    aspect: float = 4 / 3
    colour: float = 0.0
    rand_augment: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def one_by_one(self) -> bool:
        """Whether images are changed one by one, and not as a minibatch."""
        return self.crop == "inception" or bool(self.colour or self.rand_augment)

    @property
    def mixes(self) -> bool:
        """Whether an image may be mixed with another one."""
        return bool(self.mixup or self.cutmix)


class ImageChanges:
    """Changes each image by itself, before a minibatch is made of them.

    Args:
        preparation: How the images are prepared.
        augmentation: What to change.
    """

    def __init__(self, preparation: Preparation, augmentation: Augmentation) -> None:
        self._preparation = preparation
        self._augmentation = augmentation
        strength = augmentation.rand_augment
        self._rand_augment = RandAugment(strength) if strength else None

    def __call__(self, image: Image, seed: Any) -> Any:
        """Returns pixels in [0, 255], float32 `[H, W, C]`."""
        window_seed, colour_seed, own_seed = tf.unstack(tf.random.split(seed, 3, alg="philox"))
        chosen = self._augmentation
        if chosen.crop == "inception":
            aspects = 1 / chosen.aspect, chosen.aspect
            window = augment.draw_window(image.size, window_seed, (chosen.area, 1.0), aspects)
            pixels = self._preparation.resized(image.window(window))
        else:
            pixels = self._preparation(image)
        if chosen.colour:
            drawn = augment.draw_colours(colour_seed, chosen.colour)
            pixels = augment.apply_colours(pixels, drawn)
        return pixels if self._rand_augment is None else self._rand_augment(pixels, own_seed)
