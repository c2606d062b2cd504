"""Batches of a model's inputs from all that holds data, cut to a number of examples."""

import itertools
import operator
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_renorm import callers
from keras_renorm.ops import arguments, backends

#: A model's inputs, and the number of examples in them.
Batch: TypeAlias = tuple[Any, int]

# The most examples that are taken unasked of a dataset that does not tell its end. Wu & Johnson
# 2021 find 1,000 to 10,000 examples enough.
_ENOUGH = 10_000

# Examples in a batch where nothing sets their number.
_FEW = 32


class Batches:
    """A model's inputs, batch by batch, as NumPy arrays.

    Args:
        dataset: See `precise`.
        num_samples: How many examples to take; the last batch is cut. None takes all. A dataset
            that does not tell its length gives at most 10,000 then, with a warning.
        batch_size: The number of examples in each batch. None leaves the dataset's batches as they
            are, and cuts arrays into batches of 32.
        keep: Whether to read the whole dataset now and to keep it. Several iterations then give the
            same examples, even if the dataset shuffles or gives each example only once.
        show: Whether to show a progress bar during the reading.

    Attributes:
        examples: The number of examples; None before it is known.

    Raises:
        TypeError: If `dataset` is none of the kinds.
        ValueError: If `num_samples` or `batch_size` is less than 1, or `dataset` has no end.
    """

    def __init__(
        self,
        dataset: Any,
        num_samples: int | None,
        batch_size: int | None,
        *,
        keep: bool,
        show: bool = False,
    ) -> None:
        self._num_samples = arguments.optional_integer("num_samples", num_samples, low=1)
        self._most = _ENOUGH if num_samples is None and _is_open_ended(dataset) else None
        size = arguments.optional_integer("batch_size", batch_size, low=1)
        source = _source(dataset, self._num_samples, size or _FEW)
        self.examples = self._num_samples
        taken = self._taken(source)
        in_memory = isinstance(dataset, list | dict) or _is_array(dataset)
        if keep and show and not in_memory:
            taken = _shown(taken, self._num_samples or self._most)
        stream = taken if size is None else _regrouped(taken, size)
        self._batches = list(stream) if keep else stream
        self._apart: list[Batch] = []

    @property
    def is_one(self) -> bool:
        """Whether all examples are in one batch. Needs `keep`."""
        return isinstance(self._batches, list) and len(self._batches) == 1

    def few(self) -> Batch:
        """The first 32 examples of the first batch, or all of it. Needs `keep`."""
        x, size = next(iter(self._batches))
        return (_rows(x, slice(_FEW)), _FEW) if size > _FEW else (x, size)

    def join(self) -> bool:
        """Puts all examples in one batch, unless their shapes differ. Needs `keep`."""
        batches = list(self._batches)
        if len({_example_shapes(x) for x, _ in batches}) > 1:
            return False
        x = _joined(batches)
        ends = list(itertools.accumulate((size for _, size in batches), initial=0))
        # Views of the joined arrays, so that the batches of before free their memory.
        self._apart = [(_rows(x, slice(a, b)), b - a) for a, b in itertools.pairwise(ends)]
        self._batches = [(x, ends[-1])]
        return True

    def part(self) -> bool:
        """Undoes `join`. Returns False if there is nothing to undo."""
        joined = bool(self._apart)
        if joined:
            self._batches, self._apart = self._apart, []
        return joined

    def __iter__(self) -> Iterator[Batch]:
        """Yields inputs and the number of examples in them.

        Raises:
            ValueError: At the end, if there were no examples, or fewer than `num_samples`.
        """
        return iter(self._batches)

    def _taken(self, source: Iterable[Any]) -> Iterator[Batch]:
        """The batches of `source` up to the number of examples."""
        taken, cut, most = 0, False, self._num_samples or self._most
        for number, data in enumerate(source):
            x, size = _inputs(data, number)
            left = size if most is None else most - taken
            cut = left < size
            if cut:
                x, size = _rows(x, slice(left)), left
            taken += size
            if size:
                yield x, size
            if cut or taken == self._num_samples:
                break
        if cut and self._most is not None:
            self._warn_of_more()
        self._check_number(taken)
        self.examples = taken

    def _warn_of_more(self) -> None:
        callers.warn(
            "`dataset` does not tell how many examples it holds, and may have no end. The "
            f"statistics use its first {self._most:,} examples. Write num_samples={self._most} to "
            "take as many without this warning, or write another number."
        )

    def _check_number(self, taken: int) -> None:
        if self._num_samples is not None and taken < self._num_samples:
            raise ValueError(
                f"The dataset ended after {taken} examples, but num_samples={self._num_samples}. "
                "Give more data, or a smaller `num_samples`. The model is unchanged."
            )
        if not taken:
            raise ValueError("The dataset holds no examples. The model is unchanged.")


def split(x: Any, size: int, parts: int) -> list[tuple[Any, np.float32]]:
    """Cuts inputs of `size` examples into `parts` of nearly equal sizes, each with its weight.

    Where there are fewer examples than parts, a part repeats an example with weight 0. It is not
    empty, because TensorFlow's convolution of an empty batch on a CPU keeps its input's channels.
    """
    if parts == 1:
        return [(x, np.float32(1))]
    ends = [size * part // parts for part in range(parts + 1)]
    return [
        (_rows(x, slice(low, max(high, low + 1))), np.float32(low < high))
        for low, high in itertools.pairwise(ends)
    ]


def is_one_shot(dataset: Any) -> bool:
    """Whether `dataset` is an iterator, which gives its batches only once."""
    return isinstance(dataset, Iterator)


def _is_open_ended(dataset: Any) -> bool:
    """Whether nothing tells where a dataset ends, as with a generator."""
    known = _is_array(dataset) or isinstance(dataset, keras.utils.PyDataset)
    return not known and operator.length_hint(dataset, -1) < 0


def _is_array(dataset: Any) -> bool:
    """Whether a dataset is all examples in one array or ragged tensor."""
    return hasattr(dataset, "__array__") or backends.current().ragged(dataset) is not None


def _shown(batches: Iterable[Batch], most: int | None) -> Iterator[Batch]:
    """Yields the same batches, and shows how many examples were read."""
    print("Reading examples:")
    bar, seen = keras.utils.Progbar(most, unit_name="example"), 0
    for x, size in batches:
        yield x, size
        seen += size
        bar.update(seen, finalize=False)
    bar.target = seen
    bar.update(seen, finalize=True)


def _regrouped(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same examples in batches of `size`; the last one may be smaller."""
    waiting: list[Batch] = []
    for batch in batches:
        waiting.append(batch)
        while (total := sum(number for _, number in waiting)) >= size:
            x = _joined(waiting)
            yield _rows(x, slice(size)), size
            waiting = [(_rows(x, slice(size, None)), total - size)] if total > size else []
    if waiting:
        yield _joined(waiting), sum(number for _, number in waiting)


def _joined(batches: list[Batch]) -> Any:
    if len(batches) == 1:
        return batches[0][0]
    try:
        return keras.tree.map_structure(_concatenated, *(x for x, _ in batches))
    except ValueError as error:
        raise ValueError(
            "Batches can be regrouped by `batch_size` only if their examples have the same shape: "
            f"{error}. Leave `batch_size` out."
        ) from error


def _concatenated(first: Any, *others: Any) -> Any:
    ragged = [backends.current().ragged(leaf) for leaf in (first, *others)]
    if any(ragged) and not all(ragged):
        raise ValueError("some batches are ragged, and others are dense")
    return np.concatenate([first, *others]) if ragged[0] is None else ragged[0].joined(others)


def _example_shapes(x: Any) -> tuple[Any, ...]:
    return tuple((leaf.shape[1:], leaf.dtype) for leaf in keras.tree.flatten(x))


def _rows(x: Any, rows: slice) -> Any:
    return keras.tree.map_structure(lambda leaf: leaf[rows], x)


def _source(dataset: Any, num_samples: int | None, batch_size: int) -> Iterable[Any]:
    """The dataset as an iterable of batches `x`, `(x,)`, `(x, y)` or `(x, y, w)`."""
    if isinstance(dataset, keras.utils.PyDataset):
        _refuse_endless(dataset.num_batches is None, num_samples)
        numbers = itertools.count() if dataset.num_batches is None else range(dataset.num_batches)
        return (dataset[number] for number in numbers)
    if hasattr(dataset, "cardinality"):
        _refuse_endless(int(dataset.cardinality()) == -1, num_samples)
        return dataset
    if isinstance(dataset, dict) or _is_array(dataset):
        return _slices(dataset, batch_size)
    if isinstance(dataset, tuple | str | bytes) or not isinstance(dataset, Iterable):
        raise TypeError(
            "`dataset` must be a tf.data.Dataset of batches, an array of examples, a dictionary of "
            "such arrays, a list or an iterator of batches, or a keras.utils.PyDataset; received "
            f"{type(dataset).__name__}. If you have a pair (x, y) of arrays, give x alone: labels "
            "are not used."
        )
    return dataset


def _refuse_endless(endless: bool, num_samples: int | None) -> None:
    if endless and num_samples is None:
        raise ValueError(
            "The dataset has no end, so `num_samples` must set how many examples to take, e.g. "
            "num_samples=10_000; received num_samples=None."
        )


def _slices(arrays: Any, batch_size: int) -> Iterator[Any]:
    """Cuts arrays of all examples into batches, in order."""
    # A tuple keeps arrays of a dictionary together as the inputs.
    arrays, total = _inputs((keras.tree.map_structure(_array, arrays),), 0)
    for start in range(0, total, batch_size):
        yield (_rows(arrays, slice(start, start + batch_size)),)


def _inputs(data: Any, number: int) -> tuple[Any, int]:
    """The inputs of a batch, and how many examples they hold."""
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    x = keras.tree.map_structure(_array, x)
    shapes = [leaf.shape for leaf in keras.tree.flatten(x)]
    sizes = {shape[0] for shape in shapes if shape}
    if len(sizes) != 1 or () in shapes:
        raise ValueError(
            "All inputs of a batch must have the same first dimension, the examples; batch "
            f"{number} has inputs of shapes {shapes}. If the dataset is not batched, write "
            "`dataset.batch(64)`."
        )
    return x, sizes.pop()


def _array(leaf: Any) -> Any:
    """An array of a tensor; a ragged one as it is."""
    backend = backends.current()
    if backend.ragged(leaf) is not None:
        return leaf
    # These attributes tell TensorFlow's ragged and sparse tensors, which any backend may be given.
    if hasattr(leaf, "flat_values") or hasattr(leaf, "dense_shape"):
        raise TypeError(
            "The inputs must be arrays or dense tensors, under TensorFlow also ragged ones, "
            f"received a {type(leaf).__name__} under {backend.title}. Write "
            "`dataset.map(tf.sparse.to_dense)`, or pad the rows and give a mask."
        )
    array = leaf if isinstance(leaf, np.ndarray) else keras.ops.convert_to_numpy(leaf)
    if array.dtype.kind in "OSU" and not backend.takes_strings:
        raise TypeError(
            f"The inputs must be numbers under {backend.title}, which has no tensors of strings; "
            f"received an array of dtype {array.dtype}. Give what the layer that looks them up "
            "makes of them, and a model that begins after it."
        )
    return array
