"""Trainings of small nets with several rules and seeds at once, in plain JAX."""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from limit_nets import NETS, Dense, Parameters, ResNet, logits, new_parameters
from limit_rules import EPSILON, Array, Context, Rule, Statistics, new_statistics, normalize


@dataclasses.dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        net: "dense", "resnet8" or "resnet20".
        minibatches: "iid", "2 labels", "ghosts of 2" or "ghosts of 4".
        steps: Minibatches.
        rate: Learning rate at first.
        momentum: Momentum of the moving statistics.
        batch_size: Images in a minibatch.
        optimizer: "sgd", whose rate falls along a cosine, or "adam", whose rate stays.
    """

    net: str
    minibatches: str
    steps: int
    rate: float
    momentum: float
    batch_size: int = 32
    optimizer: str = "sgd"

    def __str__(self) -> str:
        """The case in a line of a table."""
        kind = (
            self.minibatches
            if self.batch_size >= 32
            else f"{self.minibatches} of {self.batch_size}"
        )
        rate = f"{self.optimizer} {self.rate:g}"
        return f"{self.net}, {kind}, {self.steps}, {rate}, {self.momentum:g}"


def loss(
    parameters: Parameters,
    kept: list[Statistics],
    images: Array,
    labels: Array,
    net: Dense | ResNet,
    context: Context,
) -> tuple[Array, list[Statistics]]:
    """Cross entropy of a minibatch, and the statistics after it."""
    moved = list(kept)

    def norm(x: Array, layer: int) -> Array:
        y, moved[layer] = normalize(x, kept[layer], context)
        return y

    log_probabilities = jax.nn.log_softmax(logits(net, parameters, images, norm))
    return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1).mean(), moved


def sgd(slots: Any, gradients: Any, rate: Array, step: Array) -> tuple[Any, Any]:
    """The change of the parameters by SGD with a momentum of 0.9, and the velocities."""
    velocities = jax.tree.map(lambda v, g: 0.9 * v - rate * g, slots[0], gradients)
    return velocities, (velocities, slots[1])


def adam(slots: Any, gradients: Any, rate: Array, step: Array) -> tuple[Any, Any]:
    """The change of the parameters by Adam, as Keras has it, and both averages."""
    first = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * g, slots[0], gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, slots[1], gradients)
    rate = rate * jnp.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
    change = jax.tree.map(lambda a, b: -rate * a / (jnp.sqrt(b) + 1e-7), first, second)
    return change, (first, second)


def train(
    case: Case, images: Array, labels: Array, drawn: Array, key: Array, rule: Rule
) -> tuple[Parameters, list[Statistics]]:
    """Trains a net on the minibatches with the indices `drawn`, `[steps, batch_size]`."""
    net, steps = NETS[case.net], len(drawn)
    ghosts = re.fullmatch(r"ghosts of (\d+)", case.minibatches)
    count = case.batch_size // int(ghosts[1]) if ghosts else 1
    update = {"sgd": sgd, "adam": adam}[case.optimizer]
    parameters = new_parameters(net, key)
    zeros = jax.tree.map(jnp.zeros_like, parameters)

    def step(state: Any, rows: Array) -> tuple[Any, None]:
        parameters, kept, slots, number = state
        context = Context(rule, jnp.asarray(case.momentum), (number + 1) / steps, count)
        gradients, kept = jax.grad(loss, has_aux=True)(
            parameters, kept, images[rows], labels[rows], net, context
        )
        cosine = (1 + jnp.cos(jnp.pi * number / steps)) / 2
        rate = case.rate * (cosine if case.optimizer == "sgd" else 1.0)
        change, slots = update(slots, gradients, rate, number)
        return (jax.tree.map(jnp.add, parameters, change), kept, slots, number + 1), None

    kept = [new_statistics(shape[-1]) for shape in net.shapes()]
    state = (parameters, kept, (zeros, zeros), jnp.zeros(()))
    (parameters, kept, _, _), _ = jax.lax.scan(step, state, drawn)
    return parameters, kept


def accuracy(
    net: Dense | ResNet, parameters: Parameters, kept: list[Statistics], images: Any, labels: Any
) -> Array:
    """The share of the images that are classified rightly with the moving statistics."""

    def norm(x: Array, layer: int) -> Array:
        return (x - kept[layer].mean) / jnp.sqrt(kept[layer].variance + EPSILON)

    def right(part: tuple[Array, Array]) -> Array:
        return jnp.mean(jnp.argmax(logits(net, parameters, part[0], norm), axis=-1) == part[1])

    parts = images.reshape(-1, 500, *images.shape[1:]), labels.reshape(-1, 500)
    return jnp.mean(jax.lax.map(right, parts))


@functools.cache
def load(dataset: str, split: str, pixels: int) -> tuple[Any, Any]:
    """Images in [0, 1], averaged down to `pixels`, and labels."""
    from zoo.data import datasets

    data = datasets.load(dataset, split)
    size = data.images.shape[1] // pixels
    images = data.images.reshape(-1, pixels, size, pixels, size, data.images.shape[-1])
    return images.mean((2, 4), dtype=np.float32) / 255, data.labels.astype(np.int32)


def draw(labels: Any, case: Case, steps: int, seed: int) -> Any:
    """Indices of the examples of each minibatch, `[steps, batch_size]`."""
    random = np.random.default_rng(seed)
    if case.minibatches != "2 labels":
        epochs = math.ceil(steps * case.batch_size / len(labels))
        order = np.concatenate([random.permutation(len(labels)) for _ in range(epochs)])
        return order[: steps * case.batch_size].reshape(steps, case.batch_size)
    by_label = [np.flatnonzero(labels == label) for label in range(10)]
    pairs = [random.choice(10, 2, replace=False) for _ in range(steps)]
    half = case.batch_size // 2
    return np.stack(
        [np.concatenate([random.choice(by_label[k], half) for k in pair]) for pair in pairs]
    )


def run(case: Case, rules: Sequence[Rule], seeds: Sequence[int], scale: float) -> Any:
    """Test accuracies `[rules, seeds]`: all of them are trained in one program."""
    net = NETS[case.net]
    images, labels = load(net.dataset, "train", net.pixels)
    tests = [x[: net.test_images] for x in load(net.dataset, "test", net.pixels)]
    steps = max(1, round(case.steps * scale))
    drawn = np.stack([draw(labels, case, steps, seed) for seed in seeds]).astype(np.int32)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    images, labels = jnp.asarray(images), jnp.asarray(labels)

    def one(rule: Rule, drawn: Array, key: Array) -> Array:
        return accuracy(net, *train(case, images, labels, drawn, key, rule), *tests)

    over_seeds = jax.vmap(one, in_axes=(None, 0, 0))
    over_rules = jax.jit(jax.vmap(over_seeds, in_axes=(0, None, None)))
    stacked = Rule(*(jnp.asarray(values, jnp.float32) for values in zip(*rules, strict=True)))
    return np.asarray(over_rules(stacked, drawn, keys))
