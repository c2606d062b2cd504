"""Random changes of training images, each a pure function of a seed."""

from typing import Any

import tensorflow as tf


def pad_crop_flip(images: Any, seed: Any, padding: int = 4, flip: bool = True) -> Any:
    """Pads each image with zeros, cuts out a random piece of its size, and may flip it.

    Args:
        images: Tensor `[B, H, W, C]` of any type.
        seed: Integers `[2]`; equal seeds give equal results.
        padding: Zeros added on each side, in pixels; an image moves by at most as many.
        flip: Whether images are flipped.

    Returns:
        Tensor of the images' shape and type. Each image has a place of its own among the
        (2*padding+1)^2, and is flipped left to right with probability 1/2.

    Raises:
        ValueError: If `padding` is negative.

    Source: He et al. 2015, Deep Residual Learning for Image Recognition, section 4.2.
    """
    if padding < 0:
        raise ValueError(f"`padding` must be 0 or more, received {padding}.")
    places, flips = draw_pad_crop_flip(seed, tf.shape(images)[0], padding)
    return apply_pad_crop_flip(images, places, flips if flip else tf.zeros_like(flips), padding)


def draw_pad_crop_flip(seed: Any, count: Any, padding: int = 4) -> tuple[Any, Any]:
    """Draws first rows and columns, int32 `[2, B, 1]`, and flips, 0 or 1, int32 `[B, 1]`."""
    place_seed, flip_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))
    places = tf.random.stateless_uniform(
        [2, count, 1], place_seed, 0, 2 * padding + 1, tf.int32, alg="philox"
    )
    flips = tf.random.stateless_uniform([count, 1], flip_seed, 0, 2, tf.int32, alg="philox")
    return places, flips


def apply_pad_crop_flip(images: Any, places: Any, flips: Any, padding: int = 4) -> Any:
    """Applies what was drawn."""
    height, width = images.shape[1], images.shape[2]
    columns = tf.range(width)
    columns = tf.where(flips == 1, columns[::-1], columns)
    padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    rows = tf.gather(padded, places[0] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(rows, places[1] + columns, axis=2, batch_dims=1)


def draw_window(
    size: Any, seed: Any, area: tuple[float, float], aspect: tuple[float, float]
) -> Any:
    """Draws a window of an image, as in Inception's training (a distorted bounding box).

    Args:
        size: Height and width of the image, int32 `[2]`.
        seed: Integers `[2]`.
        area: Least and largest share of the image.
        aspect: Least and largest width over height.

    Returns:
        First row, first column, height and width, int32 `[4]`: the whole image where no such
        window was found in ten trials.

    Source: Szegedy et al. 2015, Going Deeper with Convolutions, section 6.
    """
    begin, shape, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([size, [3]], 0),
        tf.zeros([1, 0, 4]),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=aspect,
        area_range=area,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], shape[:2]], 0)


def draw_colours(seed: Any, strength: float) -> Any:
    """Draws how much the colours of an image change, float32 `[4]`.

    Args:
        seed: Integers `[2]`.
        strength: 1 for the ranges of Inception's training, less for less.

    Returns:
        What is added to pixels in [0, 255], up to 32 * strength; the factors of saturation and
        contrast, up to 0.5 * strength from 1; and the turn of the hue, up to 0.2 * strength of the
        circle of colours.
    """
    drawn = tf.random.stateless_uniform([4], seed, -1.0, 1.0, alg="philox")
    ranges = [32.0 * strength, 0.5 * strength, 0.5 * strength, 0.2 * strength]
    return drawn * ranges + [0.0, 1.0, 1.0, 0.0]


def apply_colours(image: Any, drawn: Any) -> Any:
    """Changes brightness, saturation, hue and contrast of an image, in this order.

    Grey images have no saturation and hue. Contrast is the distance from the mean of a channel.

    Args:
        image: Pixels in [0, 255], float32 `[H, W, C]`.
        drawn: What `draw_colours` returned.

    Returns:
        Pixels in [0, 255].

    Source: the training of Inception-v3 in TensorFlow's models (`distort_color`).
    """
    brightness, saturation, contrast, hue = tf.unstack(drawn)
    image = tf.clip_by_value(image + brightness, 0.0, 255.0) / 255.0
    if image.shape[-1] == 3:
        image = tf.image.adjust_saturation(image, saturation)
        image = tf.image.adjust_hue(image, hue)
    image = tf.image.adjust_contrast(image, contrast)
    return tf.clip_by_value(image, 0.0, 1.0) * 255.0


def draw_boxes(
    seed: Any, count: int, share: float, area: tuple[float, float], aspect: float
) -> Any:
    """Draws a box to erase from each image, in units of the image's height and width.

    Args:
        seed: Integers `[2]`.
        count: Number of images.
        share: Share of the images that lose a box.
        area: Least and largest share of the image.
        aspect: Largest height over width; the least is 1 / aspect. Its logarithm is drawn.

    Returns:
        Top, left, bottom and right, float32 `[B, 4]`, all 0 where nothing is erased.

    Source: Zhong et al. 2017, Random Erasing Data Augmentation, algorithm 1.
    """
    drawn = tf.unstack(tf.random.stateless_uniform([5, count], seed, alg="philox"))
    size = area[0] + drawn[0] * (area[1] - area[0])
    ratio = tf.exp((2.0 * drawn[1] - 1.0) * tf.math.log(aspect))
    height = tf.minimum(tf.sqrt(size * ratio), 1.0)
    width = tf.minimum(tf.sqrt(size / ratio), 1.0)
    top, left = drawn[2] * (1.0 - height), drawn[3] * (1.0 - width)
    boxes = tf.stack([top, left, top + height, left + width], axis=1)
    return tf.where(drawn[4][:, None] < share, boxes, 0.0)


def box_masks(boxes: Any, height: int, width: int) -> Any:
    """Returns which pixels lie in a box, by their centres: bool `[B, H, W, 1]`."""
    rows = (tf.range(height, dtype=tf.float32) + 0.5) / height
    columns = (tf.range(width, dtype=tf.float32) + 0.5) / width
    top, left, bottom, right = tf.unstack(boxes[:, :, None], axis=1)
    inside_rows = (rows >= top) & (rows < bottom)
    inside_columns = (columns >= left) & (columns < right)
    return (inside_rows[:, :, None] & inside_columns[:, None, :])[..., None]


def erase(images: Any, boxes: Any, value: float = 0.0) -> Any:
    """Sets the pixels in each image's box to a value."""
    masks = box_masks(boxes, images.shape[1], images.shape[2])
    return tf.where(masks, tf.cast(value, images.dtype), images)
