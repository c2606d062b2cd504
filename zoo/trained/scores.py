"""Top-1, top-5, loss and confusion of a classifier, from its probabilities."""

from typing import Any

import numpy as np
import numpy.typing as npt


class Scores:
    """Sums over examples.

    Args:
        num_classes: Number of classes K.

    Attributes:
        confusion: How many examples of a class (row) were taken for a class (column), `[K, K]`.
    """

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros([num_classes, num_classes], np.int64)
        self._loss = 0.0
        self._in_first_five = 0

    def add(self, probabilities: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> None:
        """Adds examples.

        Args:
            probabilities: `[N, K]`.
            labels: The right classes, `[N]`.
        """
        chosen = np.take_along_axis(probabilities, labels[:, None], axis=1)
        # A probability rounded to 0 costs at most 87.3 nats: the least normal float32 bounds it.
        least = np.finfo(np.float32).tiny
        self._loss -= float(np.sum(np.log(np.maximum(chosen, least), dtype=np.float64)))
        self._in_first_five += int(np.sum(np.sum(probabilities > chosen, axis=1) < 5))
        np.add.at(self.confusion, (labels, np.argmax(probabilities, axis=1)), 1)

    @property
    def num_examples(self) -> int:
        """How many examples there were."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of the examples whose most probable class is the right one."""
        return float(np.trace(self.confusion)) / self.num_examples

    @property
    def top5_accuracy(self) -> float:
        """Share of the examples with fewer than five classes more probable than the right one."""
        return self._in_first_five / self.num_examples

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return self._loss / self.num_examples

    def per_class(self) -> list[dict[str, Any]]:
        """Returns the number of examples, the recall and the precision of each class.

        Recall is the share of a class's examples that were taken for it, precision the share of
        those taken for it that belong to it. A share of nothing is None.
        """
        right, there, taken = (
            self.confusion.diagonal(),
            self.confusion.sum(axis=1),
            self.confusion.sum(axis=0),
        )
        return [
            {"examples": int(n), "recall": _share(r, n), "precision": _share(r, t)}
            for r, n, t in zip(right, there, taken, strict=True)
        ]

    def most_confused(self, count: int = 5) -> list[tuple[int, int, int]]:
        """Returns the most frequent mistakes: right class, taken for, how often."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        places = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [(int(i), int(j), int(wrong[i, j])) for i, j in places if wrong[i, j]]


def _share(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None
