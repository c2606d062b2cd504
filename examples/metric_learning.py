"""Learns an embedding from minibatches of P classes with K examples each.

    python examples/metric_learning.py

A loss of pairs or triplets needs several examples of a class in a minibatch, so its minibatches are
not i.i.d. With batch norm the net learns to tell the few classes of a minibatch from each other by
the minibatch's own moments. In inference these are missing. Batch Renorm trains with the moving
statistics, which inference has.
"""

import argparse
from collections.abc import Callable

import keras
import numpy as np

import keras_renorm

CLASSES, P, K = 16, 2, 8


class Items:
    """Vectors of features that scatter around the centre of their class."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._centres = rng.normal(size=(CLASSES, 32))
        self._mixing = rng.normal(size=(32, 64)) / 6

    def draw(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Items of these classes."""
        hidden = self._centres[labels] + rng.normal(size=(len(labels), 32))
        return np.tanh(hidden @ self._mixing).astype("float32")


class PK(keras.utils.PyDataset):
    """Minibatches of P random classes with K items each."""

    def __init__(self, source: Items, steps: int) -> None:
        super().__init__()
        self._source, self._steps = source, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(number)
        labels = np.repeat(rng.choice(CLASSES, P, replace=False), K)
        return self._source.draw(labels, rng), labels


def make_model(norm: Callable[[], keras.layers.Layer]) -> keras.Model:
    """A perceptron that gives embeddings of length 1; `norm()` makes each of its norms."""
    layers: list[keras.layers.Layer] = [keras.Input((64,))]
    for _ in range(2):
        layers += [keras.layers.Dense(64, use_bias=False), norm(), keras.layers.ReLU()]
    return keras.Sequential([*layers, keras.layers.Dense(16), keras.layers.UnitNormalization()])


def triplet_loss(labels: keras.KerasTensor, embeddings: keras.KerasTensor) -> keras.KerasTensor:
    """For each item, the farthest of its class against the nearest of another."""
    ops = keras.ops
    labels = ops.reshape(labels, (-1,))
    distances = 1 - embeddings @ ops.transpose(embeddings)
    alike = labels[:, None] == labels[None]
    farthest = ops.max(ops.where(alike, distances, -1.0), axis=1)
    nearest = ops.min(ops.where(alike, 3.0, distances), axis=1)
    return ops.softplus(5 * (farthest - nearest))


def recall(model: keras.Model, source: Items) -> float:
    """The share of new items whose nearest neighbour is of their class."""
    rng = np.random.default_rng(10**6)
    labels = np.repeat(np.arange(CLASSES), 20)
    found = model.predict(source.draw(labels, rng), verbose=0)
    likeness = found @ found.T - 10 * np.eye(len(labels))
    return float(np.mean(labels[likeness.argmax(axis=1)] == labels))


def main() -> None:
    """Trains with both norms and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=600)
    steps = parser.parse_args().steps
    source = Items()
    for norm in (keras.layers.BatchNormalization, keras_renorm.layers.BatchRenormalization):
        keras.utils.set_random_seed(0)
        model = make_model(norm)
        model.compile(keras.optimizers.Adam(0.002), triplet_loss)
        model.fit(PK(source, steps), verbose=0)
        print(f"{norm.__name__}: recall at 1 is {100 * recall(model, source):.1f} %")


if __name__ == "__main__":
    main()
