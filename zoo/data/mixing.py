"""Mixup and cutmix: an image and its label, mixed with those of the next in the minibatch."""

from typing import Any

import tensorflow as tf

from zoo.data.augment import box_masks


def draw_shares(seed: Any, count: int, alpha: float) -> Any:
    """Draws the share of each image in its mixture: Beta(alpha, alpha), float32 `[B]`."""
    seeds = tf.unstack(tf.random.split(seed, 2, alg="philox"))
    # With small alphas both would be 0 in float32.
    kind = tf.float64
    first, second = (tf.random.stateless_gamma([count], s, alpha, dtype=kind) for s in seeds)
    shares = tf.where(first + second > 0, first / (first + second), 0.5)
    return tf.cast(shares, tf.float32)


def mixup(images: Any, targets: Any, shares: Any) -> tuple[Any, Any]:
    """Mixes each image with the next.

    ```
    share * image[i] + (1 - share) * image[i + 1], and the same for the targets
    ```

    Args:
        images: Tensor `[B + 1, H, W, C]`: those of a minibatch, and the first again.
        targets: Probabilities of the classes, float32 `[B + 1, K]`.
        shares: Share of each image, float32 `[B]`.

    Returns:
        Images `[B, H, W, C]` and targets `[B, K]`.

    Source: Zhang et al. 2017, mixup: Beyond Empirical Risk Minimization, equation 2.
    """
    weights = shares[:, None, None, None]
    mixed = weights * images[:-1] + (1.0 - weights) * images[1:]
    return mixed, _mixed_targets(targets, shares)


def draw_patches(seed: Any, shares: Any) -> Any:
    """Draws a box of 1 - share of each image, in units of its height and width, `[B, 4]`."""
    centres = tf.random.stateless_uniform([tf.shape(shares)[0], 2], seed, alg="philox")
    half = 0.5 * tf.sqrt(1.0 - shares)[:, None]
    return tf.clip_by_value(tf.concat([centres - half, centres + half], axis=1), 0.0, 1.0)


def cutmix(images: Any, targets: Any, boxes: Any) -> tuple[Any, Any]:
    """Puts a box of the next image into each image, at the same place.

    The targets are mixed by the pixels of the box, which the image's edges may have cut.

    Args:
        images: Tensor `[B + 1, H, W, C]`: those of a minibatch, and the first again.
        targets: Probabilities of the classes, float32 `[B + 1, K]`.
        boxes: What `draw_patches` returned.

    Returns:
        Images `[B, H, W, C]` and targets `[B, K]`.

    Source: Yun et al. 2019, CutMix, section 3.1.
    """
    masks = box_masks(boxes, images.shape[1], images.shape[2])
    shares = 1.0 - tf.reduce_mean(tf.cast(masks, tf.float32), axis=[1, 2, 3])
    return tf.where(masks, images[1:], images[:-1]), _mixed_targets(targets, shares)


def _mixed_targets(targets: Any, shares: Any) -> Any:
    return shares[:, None] * targets[:-1] + (1.0 - shares[:, None]) * targets[1:]
