"""From a set of images to the batches that a model sees."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.data import augment, mixing
from zoo.data.dataset import Dataset
from zoo.data.decoding import Image
from zoo.data.preparation import Augmentation, ImageChanges, Preparation
from zoo.data.samplers import Sampler
from zoo.data.sources import Source

#: Which part of each minibatch a worker makes: its number, and how many workers there are.
Part = tuple[int, int]

_ALL: Part = (0, 1)
_AS_STORED = Preparation()


def training_batches(
    source: Source,
    sampler: Sampler,
    *,
    start_step: int,
    num_steps: int,
    augmentation: Augmentation,
    seed: int,
    preparation: Preparation = _AS_STORED,
    part: Part = _ALL,
) -> tf.data.Dataset:
    """Makes the minibatches of steps `start_step` to `num_steps - 1`, in order.

    The minibatch of a step depends on the sampler, the seed and the number of the step alone, so
    that a run which resumes sees the bits that it would have seen without the break.

    Args:
        source: The images.
        sampler: Says which examples form a minibatch.
        start_step: Number of the first step.
        num_steps: Number of steps of the whole run; one past the last.
        augmentation: How the images are changed.
        seed: Seed of the changes.
        preparation: What the model takes.
        part: Which rows are made: worker i of W makes rows floor(i*B/W) to floor((i+1)*B/W). The
            others are zeros.

    Returns:
        A `tf.data.Dataset` of pairs: images, float32 `[B, H, W, C]`, and labels, int64 `[B]`, or
        probabilities, float32 `[B, K]`, where images are mixed.

    Raises:
        ValueError: If `start_step` is not in [0, num_steps].
    """
    if not 0 <= start_step <= num_steps:
        raise ValueError(
            f"`start_step` must be in [0, num_steps], received start_step={start_step} and "
            f"num_steps={num_steps}."
        )
    total = int(sampler(tf.constant(start_step, tf.int64)).shape[0])
    rows = own_rows(total, part)
    # A mixture needs the image that follows, which may be another worker's, or the first.
    taken = np.append(rows, (rows[-1] + 1) % total) if augmentation.mixes else rows
    changes = _BatchChanges(augmentation, preparation, total, taken, source.num_classes)

    def seeds_of(step: Any) -> tuple[Any, Any]:
        seed_and_step = tf.stack([tf.constant(seed, tf.int64), step])
        return seed_and_step, tf.gather(sampler(step), taken)

    def finished(step: Any, images: Any, labels: Any) -> tuple[Any, Any]:
        changed = changes(images, labels, tf.stack([tf.constant(seed, tf.int64), step]))
        return tuple(_in_place(tensor, rows, total) for tensor in changed)

    steps = tf.data.Dataset.range(start_step, num_steps)
    if isinstance(source, Dataset) and not augmentation.one_by_one:

        def minibatch(step: Any) -> tuple[Any, Any]:
            images, labels = source.fetch(seeds_of(step)[1])
            return finished(step, images, labels)

        return _in_parallel(steps, minibatch).prefetch(4)
    one = ImageChanges(preparation, augmentation)

    def items(step: Any) -> Any:
        seed_and_step, indices = seeds_of(step)
        seeds = tf.random.split(_other(seed_and_step, 1), total, alg="philox")
        own = tf.gather(seeds, taken)
        return source.fetch(indices), own

    def image(item: Any, own: Any) -> tuple[Any, Any]:
        stored, label = source.read(item)
        return one(Image(stored, preparation.channels or source.image_shape[2]), own), label

    batches = _one_by_one(_mapped(steps, items), image, len(taken), preparation, source)
    zipped = tf.data.Dataset.zip(steps, batches)
    return _mapped(zipped, lambda step, b: finished(step, *b)).prefetch(4)


def evaluation_batches(
    source: Source,
    batch_size: int,
    preparation: Preparation = _AS_STORED,
    part: Part = _ALL,
) -> tf.data.Dataset:
    """Makes batches of every example once, in order; the last may be smaller.

    Args:
        source: The images.
        batch_size: Examples in a batch.
        preparation: What the model takes.
        part: Which rows are made; see `training_batches`. The others are zeros.

    Returns:
        A `tf.data.Dataset` of pairs: images, float32 `[B, H, W, C]`, and labels, int64 `[B]`.

    Raises:
        ValueError: If `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be 1 or more, received {batch_size}.")
    starts = range(0, len(source), batch_size)
    totals = [min(batch_size, len(source) - start) for start in starts]
    slices = [*zip(starts, totals, strict=True)]
    # A worker may have more rows of a smaller last batch than of a full one.
    cut = len(slices) - 1 if len(set(totals)) > 1 else len(slices)
    batches = _evaluated(source, slices[:cut], preparation, part)
    if slices[cut:]:
        batches = batches.concatenate(_evaluated(source, slices[cut:], preparation, part))
    return batches.prefetch(4)


def _evaluated(
    source: Source, slices: list[tuple[int, int]], preparation: Preparation, part: Part
) -> tf.data.Dataset:
    """Makes batches of slices of a set, each a first example and a number of them."""
    full = own_rows(slices[0][1], part) if slices else np.zeros([1], np.int64)

    def indices(start: Any, total: Any) -> Any:
        first, last = (tf.cast((part[0] + i) * total // part[1], tf.int64) for i in (0, 1))
        return start + tf.range(first, tf.maximum(last, first + 1))

    def finished(images: Any, labels: Any, total: Any) -> tuple[Any, Any]:
        first = tf.cast(part[0] * total // part[1], tf.int32)
        made = preparation.mapped(images), labels
        return tuple(_placed(tensor, first, tf.cast(total, tf.int32)) for tensor in made)

    table = np.array(slices, np.int64).reshape(-1, 2)
    parts = tf.data.Dataset.from_tensor_slices((table[:, 0], table[:, 1]))
    if isinstance(source, Dataset):

        def minibatch(start: Any, total: Any) -> tuple[Any, Any]:
            images, labels = source.fetch(indices(start, total))
            return finished(preparation.batch(images), labels, total)

        return _mapped(parts, minibatch)

    def image(item: Any) -> tuple[Any, Any]:
        stored, label = source.read(item)
        return preparation(Image(stored, preparation.channels or source.image_shape[2])), label

    fetched = _mapped(parts, lambda start, total: (source.fetch(indices(start, total)),))
    made = _one_by_one(fetched, image, len(full), preparation, source)
    zipped = tf.data.Dataset.zip(parts, made)
    return _mapped(zipped, lambda p, b: finished(b[0], b[1], p[1]))


def own_rows(total: int, part: Part) -> Any:
    """Returns the numbers of the rows of a minibatch that a worker makes: at least one."""
    worker, workers = part
    first, last = worker * total // workers, (worker + 1) * total // workers
    return np.arange(first, max(last, first + 1))


def _one_by_one(
    items: tf.data.Dataset,
    make: Callable[..., Any],
    count: int,
    preparation: Preparation,
    source: Source,
) -> tf.data.Dataset:
    """Makes images and labels of each element's rows, several at a time, in batches of `count`."""
    height, width, channels = preparation.shape(source.image_shape)

    def shaped(*item: Any) -> tuple[Any, Any]:
        image, label = make(*item)
        return tf.ensure_shape(image, [height, width, channels]), label

    return _in_parallel(items.unbatch(), shaped).batch(count)


def _mapped(dataset: tf.data.Dataset, function: Callable[..., Any], **options: Any) -> Any:
    """The results of a function that has no `if` or `for` on tensors.

    AutoGraph, which would look for them here and in the step, took 1.2 s of a tiny run's 7.
    """
    return dataset.map(tf.autograph.experimental.do_not_convert(function), **options)


def _in_parallel(dataset: tf.data.Dataset, function: Callable[..., Any]) -> Any:
    """Several results at a time, in the order of the elements, whichever is ready first."""
    options = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    return _mapped(dataset, function, **options)


class _BatchChanges:
    """Changes the images of a minibatch together, after each by itself."""

    def __init__(
        self,
        augmentation: Augmentation,
        preparation: Preparation,
        total: int,
        taken: Any,
        num_classes: int,
    ) -> None:
        self._augmentation = augmentation
        self._preparation = preparation
        self._total = total
        self._taken = taken
        self._num_classes = num_classes

    def __call__(self, images: Any, labels: Any, seed: Any) -> tuple[Any, Any]:
        """Returns images as the model takes them, and labels or probabilities."""
        chosen = self._augmentation
        if images.dtype == tf.uint8:
            images = self._preparation.batch(images)
        if chosen.crop == "pad":
            images = self._moved(images, seed)
        images = tf.ensure_shape(images, [len(self._taken), *images.shape[1:]])
        labels = tf.ensure_shape(labels, [len(self._taken)])
        seeds = tf.unstack(tf.random.split(_other(seed, 2), 5, alg="philox"))
        if chosen.flip and chosen.crop != "pad":
            flips = self._own(augment.draw_pad_crop_flip(seed, self._total)[1])
            images = tf.where(flips[:, :, None, None] == 1, tf.reverse(images, [2]), images)
        if chosen.erasing:
            boxes = augment.draw_boxes(seeds[0], self._total, chosen.erasing, (0.02, 1 / 3), 3.3)
            images = augment.erase(images, self._own(boxes))
        images = self._preparation.mapped(images)
        return self._mixed(images, labels, seeds[1:]) if chosen.mixes else (images, labels)

    def _own(self, drawn: Any) -> Any:
        """Returns the rows that are here of what was drawn for the whole minibatch."""
        return tf.gather(drawn, self._taken)

    def _moved(self, images: Any, seed: Any) -> Any:
        places, flips = augment.draw_pad_crop_flip(seed, self._total)
        places = tf.gather(places, self._taken, axis=1)
        flips = self._own(flips if self._augmentation.flip else tf.zeros_like(flips))
        return augment.apply_pad_crop_flip(images, places, flips)

    def _mixed(self, images: Any, labels: Any, seeds: Any) -> tuple[Any, Any]:
        """Mixes each image but the last with the next."""
        targets = tf.one_hot(labels, self._num_classes)
        own = self._taken[:-1]

        def mixup() -> Any:
            shares = mixing.draw_shares(seeds[0], self._total, self._augmentation.mixup)
            return mixing.mixup(images, targets, tf.gather(shares, own))

        def cutmix() -> Any:
            shares = mixing.draw_shares(seeds[1], self._total, self._augmentation.cutmix)
            boxes = mixing.draw_patches(seeds[2], shares)
            return mixing.cutmix(images, targets, tf.gather(boxes, own))

        if not (self._augmentation.mixup and self._augmentation.cutmix):
            return mixup() if self._augmentation.mixup else cutmix()
        heads = tf.random.stateless_uniform([], seeds[3], 0, 2, tf.int32, alg="philox")
        return tf.cond(heads == 1, mixup, cutmix)


def _other(seed: Any, number: int) -> Any:
    """Another seed for another use: all splits of one seed begin with the same seeds."""
    return tf.random.fold_in(seed, number, alg="philox")


def _in_place(tensor: Any, rows: Any, total: int) -> Any:
    """Puts a worker's rows among zeros in place of the others' rows."""
    return (
        tensor
        if len(rows) == total
        else tf.ensure_shape(_placed(tensor, int(rows[0]), total), [total, *tensor.shape[1:]])
    )


def _placed(tensor: Any, first: Any, total: Any) -> Any:
    after = total - first - tf.shape(tensor)[0]
    return tf.pad(tensor, [[first, after], *[[0, 0]] * (len(tensor.shape) - 1)])
