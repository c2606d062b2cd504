"""Random changes of training images, each a pure function of a seed."""

from typing import Any

import tensorflow as tf


def pad_crop_flip(images: Any, seed: Any, padding: int = 4) -> Any:
    """Pads each image with zeros, cuts out a random piece of its size, and may flip it.

    Args:
        images: Tensor `[B, H, W, C]` of any type.
        seed: Integers `[2]`; equal seeds give equal results.
        padding: Zeros added on each side, in pixels; an image moves by at most as many.

    Returns:
        Tensor of the images' shape and type. Each image has a place of its own among the
        (2*padding+1)^2, and is flipped left to right with probability 1/2.

    Raises:
        ValueError: If `padding` is negative.

    Source: He et al. 2015, Deep Residual Learning for Image Recognition, section 4.2.
    """
    if padding < 0:
        raise ValueError(f"`padding` must be 0 or more, received {padding}.")
    count = tf.shape(images)[0]
    height, width = images.shape[1], images.shape[2]
    place_seed, flip_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))
    places = tf.random.stateless_uniform(
        [2, count, 1], place_seed, 0, 2 * padding + 1, tf.int32, alg="philox"
    )
    flips = tf.random.stateless_uniform([count, 1], flip_seed, 0, 2, tf.int32, alg="philox")

    columns = tf.range(width)
    columns = tf.where(flips == 1, columns[::-1], columns)
    padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    rows = tf.gather(padded, places[0] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(rows, places[1] + columns, axis=2, batch_dims=1)
