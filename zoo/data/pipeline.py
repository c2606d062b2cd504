"""From a set of images to the batches that a model sees."""

from typing import Any

import numpy as np
import tensorflow as tf

from zoo.data.augment import pad_crop_flip
from zoo.data.datasets import Dataset
from zoo.data.samplers import Sampler


def training_batches(
    dataset: Dataset,
    sampler: Sampler,
    *,
    start_step: int,
    num_steps: int,
    augment: bool,
    seed: int,
) -> tf.data.Dataset:
    """Makes the minibatches of steps `start_step` to `num_steps - 1`, in order.

    The minibatch of a step depends on the sampler, the seed and the number of the step alone, so
    that a run which resumes sees the bits that it would have seen without the break.

    Args:
        dataset: The images.
        sampler: Says which examples form a minibatch.
        start_step: Number of the first step.
        num_steps: Number of steps of the whole run; one past the last.
        augment: Whether to change the images by `pad_crop_flip`.
        seed: Seed of the changes.

    Returns:
        A `tf.data.Dataset` of pairs: images, float32 `[B, H, W, C]` in [0, 1], and labels, int64
        `[B]`.

    Raises:
        ValueError: If `start_step` is not in [0, num_steps].
    """
    if not 0 <= start_step <= num_steps:
        raise ValueError(
            f"`start_step` must be in [0, num_steps], received start_step={start_step} and "
            f"num_steps={num_steps}."
        )
    all_images, all_labels = _tensors(dataset)

    def minibatch(step: Any) -> tuple[Any, Any]:
        indices = sampler(step)
        images = tf.gather(all_images, indices)
        if augment:
            images = pad_crop_flip(images, tf.stack([tf.constant(seed, tf.int64), step]))
        return _scale(images), tf.gather(all_labels, indices)

    steps = tf.data.Dataset.range(start_step, num_steps)
    return steps.map(minibatch).prefetch(4)


def evaluation_batches(dataset: Dataset, batch_size: int) -> tf.data.Dataset:
    """Makes batches of every example once, in order; the last may be smaller.

    Args:
        dataset: The images.
        batch_size: Examples in a batch.

    Returns:
        A `tf.data.Dataset` of pairs: images, float32 `[B, H, W, C]` in [0, 1], and labels, int64
        `[B]`.

    Raises:
        ValueError: If `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be 1 or more, received {batch_size}.")
    batches = tf.data.Dataset.from_tensor_slices(_tensors(dataset)).batch(batch_size)
    return batches.map(lambda images, labels: (_scale(images), labels)).prefetch(4)


def _tensors(dataset: Dataset) -> tuple[Any, Any]:
    """The whole set as tensors on the CPU, where input pipelines run."""
    with tf.device("CPU:0"):
        return tf.constant(dataset.images), tf.constant(dataset.labels.astype(np.int64))


def _scale(images: Any) -> Any:
    """Maps pixels in {0, ..., 255} to [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0
