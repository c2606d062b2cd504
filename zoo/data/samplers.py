"""Which examples form a minibatch: pure functions of a seed and a step.

A sampler maps the number of a step to indices of examples. It keeps no state, so that a run which
resumes at a step sees the minibatches that it would have seen without the break.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

#: Maps a step, int64 `[]`, to the indices of that step's examples, int64 `[batch_size]`.
Sampler: TypeAlias = Callable[[Any], Any]


class ShuffledSampler:
    """Passes over all examples, in a fresh order each time.

    ```
    position = step * batch_size + i;   index = permutation[position // N](position mod N)
    ```

    The positions run on from one epoch into the next, so a minibatch may straddle two epochs, no
    example is dropped, and all minibatches have the same size.

    Args:
        num_examples: Number of examples N.
        batch_size: Examples in a minibatch, at most N.
        seed: Seed of the permutations.

    Raises:
        ValueError: If a number is not positive, or `batch_size` is larger than N.

    Example:
        >>> sampler = ShuffledSampler(num_examples=4, batch_size=2, seed=0)
        >>> print(sampler(tf.constant(0, tf.int64)).numpy())
        [2 0]
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int) -> None:
        _check_positive(num_examples=num_examples, batch_size=batch_size)
        if batch_size > num_examples:
            raise ValueError(
                f"`batch_size` must be at most the number of examples, received {batch_size} for "
                f"{num_examples} examples."
            )
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed

    def __call__(self, step: Any) -> Any:
        """Returns the indices of the examples of minibatch `step`, int64 `[batch_size]`."""
        count = tf.constant(self.num_examples, tf.int64)
        start = tf.cast(step, tf.int64) * self.batch_size
        positions = start + tf.range(self.batch_size, dtype=tf.int64)
        epoch = start // count
        # No minibatch is longer than an epoch, so it touches this one and perhaps the next.
        return tf.where(
            positions // count == epoch,
            _shuffle(positions % count, _keys(self.seed, epoch, 1)[0], count),
            _shuffle(positions % count, _keys(self.seed, epoch + 1, 1)[0], count),
        )


class FewLabelsSampler:
    """Minibatches that hold few labels and many images of each: the opposite of i.i.d.

    For each minibatch `labels_per_batch` labels are drawn anew, without replacement and equally
    likely, and then `batch_size / labels_per_batch` distinct images of each. Images of one label
    stand together.

    Args:
        labels: Label of every example, integers `[N]`.
        labels_per_batch: Number of labels in a minibatch.
        batch_size: Examples in a minibatch, a multiple of `labels_per_batch`.
        seed: Seed of the draws.

    Raises:
        ValueError: If a number is not positive or does not divide, or the labels are too few, or
            have too few images.

    Source: after Ioffe 2017, Batch Renormalization, section 4.3 (16 labels of two images, drawn
    with replacement there).
    """

    def __init__(
        self, labels: npt.ArrayLike, labels_per_batch: int, batch_size: int, seed: int
    ) -> None:
        _check_positive(labels_per_batch=labels_per_batch, batch_size=batch_size)
        labels = np.asarray(labels)
        _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if labels_per_batch > len(counts):
            raise ValueError(
                f"`labels_per_batch` must be at most the number of labels, received "
                f"{labels_per_batch} for {len(counts)} labels."
            )
        if batch_size % labels_per_batch:
            raise ValueError(
                "`batch_size` must be a multiple of `labels_per_batch`, received "
                f"batch_size={batch_size} and labels_per_batch={labels_per_batch}. The nearest "
                f"multiples are {_neighbours(batch_size, labels_per_batch)}."
            )
        self.labels_per_batch = labels_per_batch
        self.images_per_label = batch_size // labels_per_batch
        self.batch_size = batch_size
        self.seed = seed
        if self.images_per_label > counts.min():
            raise ValueError(
                f"A minibatch holds {self.images_per_label} distinct images of a label, but one "
                f"label has only {counts.min()}: use a smaller `batch_size` or a larger "
                "`labels_per_batch`."
            )
        # The examples ordered by label: those of label k stand at starts[k] and the counts[k] - 1
        # places after it.
        self._by_label = np.argsort(inverse, kind="stable").astype(np.int64)
        self._counts = counts.astype(np.int64)
        self._starts = np.cumsum(self._counts) - self._counts

    def __call__(self, step: Any) -> Any:
        """Returns the indices of the examples of minibatch `step`, int64 `[batch_size]`."""
        keys = _keys(self.seed, tf.cast(step, tf.int64), 1 + self.labels_per_batch)
        num_labels = tf.constant(len(self._counts), tf.int64)
        drawn = _shuffle(tf.range(self.labels_per_batch, dtype=tf.int64), keys[0], num_labels)
        counts = tf.gather(self._counts, drawn)
        starts = tf.gather(self._starts, drawn)
        ranks = tf.range(self.images_per_label, dtype=tf.int64)
        places = [
            starts[i] + _shuffle(ranks, keys[1 + i], counts[i])
            for i in range(self.labels_per_batch)
        ]
        return tf.gather(self._by_label, tf.concat(places, axis=0))


def _keys(seed: int, counter: Any, number: int) -> Any:
    """Draws `number` independent keys, int64 `[number, 2]`, for one value of a counter.

    `index_shuffle` with the counter itself as its key gives permutations of successive counters
    that resemble each other: over 3,000 permutations of 10 or 50 elements the chi-square of a
    place was 12 times its degrees of freedom, whatever the number of rounds. With keys from a
    random number generator it is 1.
    """
    return tf.random.stateless_uniform(
        [number, 2],
        tf.stack([tf.constant(seed, tf.int64), counter]),
        minval=None,
        maxval=None,
        dtype=tf.int64,
        alg="philox",
    )


def _shuffle(positions: Any, key: Any, count: Any) -> Any:
    """What stands at these positions in the permutation of `range(count)` that belongs to `key`."""
    return tf.random.experimental.index_shuffle(positions, key, count - 1)


def _neighbours(value: int, divisor: int) -> str:
    below = value // divisor * divisor
    return " and ".join(str(n) for n in (below, below + divisor) if n)


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"`{name}` must be 1 or more, received {number}.")
