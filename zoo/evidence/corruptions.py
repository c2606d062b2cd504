"""Images made worse: less contrast, noise, and the blocks of a JPEG."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Images = npt.NDArray[np.float32]

#: A fifth of the contrast, about the image's mean.
CONTRAST = 0.2
#: Deviation of the noise; pixels are in [0, 1].
NOISE = 0.2
#: Out of 100.
JPEG_QUALITY = 5


def contrast(images: Images) -> Images:
    """Returns images `[N, H, W, C]` in [0, 1] with `CONTRAST` of their contrast."""
    means = images.mean(axis=(1, 2), keepdims=True)
    return means + CONTRAST * (images - means)


def noise(images: Images) -> Images:
    """Returns images with Gaussian noise added, cut off at 0 and 1. The same for each call."""
    drawn = np.random.default_rng(0).normal(0, NOISE, images.shape)
    return np.clip(images + drawn, 0, 1).astype(np.float32)


def jpeg(images: Images) -> Images:
    """Returns images after JPEG compression of quality `JPEG_QUALITY`."""
    pixels = np.round(255 * images).astype(np.uint8)
    coded = [tf.io.encode_jpeg(image, quality=JPEG_QUALITY) for image in pixels]
    channels = images.shape[-1]
    decoded = [tf.io.decode_jpeg(data, channels=channels).numpy() for data in coded]
    return np.stack(decoded).astype(np.float32) / np.float32(255)


#: Each by its name.
CORRUPTIONS: dict[str, Callable[[Images], Any]] = {
    "contrast": contrast,
    "noise": noise,
    "jpeg": jpeg,
}
