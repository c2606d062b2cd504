"""Compares rules for the limits of Batch Renorm on a fixed set of short runs.

python tools/choose_limits.py --json=FILE.json [--cases=dense] [--seeds=0,1,2] [--scale=0.1]

Each case trains a small net with every rule and every seed at once, in plain JAX, and tests it with
its moving statistics. A dense net sees Fashion-MNIST at 14x14. A ResNet-8 and a ResNet-20 see
CIFAR-10 at 8x8. --cases is a regular expression, and --scale shortens all runs, to try the script
out. docs/default_limits.md says what the cases are for, and what came out.
"""

import dataclasses
import functools
import math
import pathlib
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from benchmarking import machine, write_json

from zoo.errors import UserError
from zoo.training.cli import program

EPSILON = 1e-3
Array = Any


class Rule(NamedTuple):
    """How a layer finds its limits: by a ramp, or by what it sees if `width` or `tolerance` is set.

    Attributes:
        r_max: The greatest limit of r.
        d_max: The greatest limit of d.
        start: When a ramp begins, as a share of the run.
        r_end: When the ramp of r ends.
        d_end: When the ramp of d ends.
        width: Limits in standard deviations of the minibatches' noise.
        lag: Open fully where the squared lag is at most this share of the noise's variance.
        tolerance: Open fully where the lag is at most this many standard deviations of the inputs.
        unbiased: Whether the initial moving statistics weigh nothing: steps of alpha / seen.
        by_variance: Whether to average the variance, as Keras's batch norm, and not sigma.
        lasting: Where a minibatch has ghosts, noise is what they differ by, and this share of what
            their mean deviates by beyond that is the squared lag; 0 tells them apart by time alone.
    """

    r_max: float = 3.0
    d_max: float = 5.0
    start: float = -1.0
    r_end: float = 0.0
    d_end: float = 0.0
    width: float = 0.0
    lag: float = 0.0
    tolerance: float = 0.0
    unbiased: float = 0.0
    by_variance: float = 0.0
    lasting: float = 0.0


RULES = {
    "batch norm": Rule(r_max=1.0, d_max=0.0, by_variance=1.0),
    "1.5, 0.5": Rule(r_max=1.5, d_max=0.5),
    "3, 5": Rule(),
    "ramp 2-10 %": Rule(start=0.02, r_end=0.10, d_end=0.10),
    "paper 5-35 %": Rule(start=0.05, r_end=0.35, d_end=0.25),
    "drift 0.1": Rule(tolerance=0.1),
    "noise 3, 0.05": Rule(width=3.0, lag=0.05),
    "noise 3, 0.1, unbiased": Rule(width=3.0, lag=0.1, unbiased=1.0),
    "noise 3, 0.05, unbiased": Rule(width=3.0, lag=0.05, unbiased=1.0),
    "noise 3, 0.05, ghosts": Rule(width=3.0, lag=0.05, unbiased=1.0, lasting=0.25),
}
BATCH_NORM = "batch norm"
RAMPS = ("1.5, 0.5", "3, 5", "ramp 2-10 %", "paper 5-35 %")


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
        rate = f"{self.optimizer} {self.rate:g}"
        return f"{self.net}, {self.minibatches}, {self.steps}, {rate}, {self.momentum:g}"


def fixed_set() -> Iterator[Case]:
    """The cases, as they were written down before the rules were tried on them."""
    kinds = ("iid", "2 labels", "ghosts of 2", "ghosts of 4")
    for net, rate, all_of in (("dense", 0.02, (500, 2000)), ("resnet8", 0.1, (500,))):
        for steps in all_of:
            for times, momentum in ((1, 0.99), (3, 0.99), (1, 0.9)):
                yield from (Case(net, kind, steps, times * rate, momentum) for kind in kinds)
    yield from (Case("resnet8", kind, 2000, 0.1, 0.99) for kind in kinds)
    yield from (Case("dense", kind, 8000, 0.02, 0.99) for kind in kinds[:2])
    yield from (Case("dense", kind, 2000, 0.001, 0.99, optimizer="adam") for kind in kinds[:2])
    yield Case("resnet20", "iid", 300, 0.1, 0.99, batch_size=64)


class Statistics(NamedTuple):
    """What a layer keeps.

    Attributes:
        mean: `[C]`, the moving mean.
        variance: `[C]`, the moving variance.
        deviations: `[8, C]`, moving averages which begin with nothing: of the means of z and e over
            the ghosts, of the squares of these means, of the means of the squares, and of the
            variances among the ghosts of a minibatch.
        seen: 1 - momentum^t, the weight in an average of what it has seen.
        limits: r_max and d_max of the next minibatch.
    """

    mean: Array
    variance: Array
    deviations: Array
    seen: Array
    limits: Array


class Context(NamedTuple):
    """What all layers of a net know in a step."""

    rule: Rule
    momentum: Array
    progress: Array
    ghosts: int


def new_statistics(channels: int) -> Statistics:
    """The statistics of a layer that has seen nothing: those of batch norm."""
    mean, variance = jnp.zeros(channels), jnp.ones(channels)
    deviations = jnp.zeros((8, channels))
    return Statistics(mean, variance, deviations, jnp.zeros(()), jnp.array([1.0, 0.0]))


def seen_limits(rule: Rule, deviations: Array, ghosts: int) -> Array:
    """Limits from the averages of z = (mu_B - mu) / sigma and e = sigma_B / sigma - 1.

    `lag = mean_c E[z]^2 + E[e]^2` is what has the same sign again and again: the moving statistics
    do not keep up. `noise = E[z^2] - E[z]^2`, likewise, is what they are there to correct. With
    `lasting`, noise is the variance among ghosts, and lag a share of what their mean deviates by
    beyond a G-th of it.
    """
    averages, *others = deviations.reshape(4, 2, -1)
    lags = jnp.mean(averages**2, axis=1)
    squares, all_squares, among = (jnp.mean(rows, axis=1) for rows in others)
    noises = jnp.maximum(all_squares - lags, 0.0)
    if ghosts > 1:
        rest = jnp.maximum(squares - among / ghosts, 0.0)
        lags = jnp.where(rule.lasting > 0, rule.lasting * rest, lags)
        noises = jnp.where(rule.lasting > 0, among, noises)
    lag = jnp.maximum(jnp.sum(lags), 1e-12)
    by_noise = jnp.minimum(1.0, rule.lag * jnp.sum(noises) / lag)
    by_drift = jnp.minimum(1.0, rule.tolerance**2 / lag)
    z, e = rule.width * jnp.sqrt(noises) * by_noise
    noise = jnp.array([jnp.minimum(rule.r_max, 1.0 + e), jnp.minimum(rule.d_max, z)])
    drift = jnp.array([1.0 + (rule.r_max - 1.0) * by_drift, rule.d_max * by_drift])
    return jnp.where(rule.width > 0, noise, drift)


def ramp_limits(rule: Rule, progress: Array) -> Array:
    """Limits of a ramp after this share of the run."""

    def risen(end: float) -> Array:
        return jnp.clip((progress - rule.start) / (end - rule.start), 0.0, 1.0)

    return jnp.array([1.0 + (rule.r_max - 1.0) * risen(rule.r_end), rule.d_max * risen(rule.d_end)])


def normalize(x: Array, kept: Statistics, context: Context) -> tuple[Array, Statistics]:
    """Batch Renorm of `x`, `[..., C]`, ghost by ghost, and the statistics afterwards."""
    rows = x.reshape(context.ghosts, -1, x.shape[-1])
    mean = rows.mean(1)
    variance = ((rows - mean[:, None]) ** 2).mean(1)
    stddev = jnp.sqrt(variance + EPSILON)
    sigma = jnp.sqrt(kept.variance + EPSILON)
    z, ratio = jax.lax.stop_gradient(((mean - kept.mean) / sigma, stddev / sigma))
    r_max, d_max = kept.limits
    r, d = jnp.clip(ratio, 1.0 / r_max, r_max), jnp.clip(z, -d_max, d_max)
    y = (rows - mean[:, None]) / stddev[:, None] * r[:, None] + d[:, None]
    moments = jax.lax.stop_gradient((mean.mean(0), variance.mean(0), stddev.mean(0)))
    return y.reshape(x.shape), _moved(kept, moments, z, ratio - 1.0, context)


def _moved(
    kept: Statistics, moments: Sequence[Array], z: Array, e: Array, context: Context
) -> Statistics:
    rule, alpha = context.rule, 1.0 - context.momentum
    seen = kept.seen + alpha * (1.0 - kept.seen)
    step = jnp.where(rule.unbiased > 0, alpha / seen, alpha)
    mean, variance, stddev = moments
    sigma = jnp.sqrt(kept.variance + EPSILON)
    by_stddev = (sigma + step * (stddev - sigma)) ** 2 - EPSILON
    by_variance = kept.variance + step * (variance - kept.variance)
    both = jnp.stack([z, e])
    means, among = both.mean(1), both.var(1, ddof=min(1, context.ghosts - 1))
    now = jnp.concatenate([means, means**2, (both**2).mean(1), among])
    deviations = kept.deviations + alpha / seen * (now - kept.deviations)
    limits = jnp.where(
        (rule.width > 0) | (rule.tolerance > 0),
        seen_limits(rule, deviations, context.ghosts),
        ramp_limits(rule, context.progress),
    )
    return Statistics(
        kept.mean + step * (mean - kept.mean),
        jnp.maximum(jnp.where(rule.by_variance > 0, by_variance, by_stddev), 0.0),
        deviations,
        seen,
        limits,
    )


Norm = Callable[[Array, int], Array]


@dataclasses.dataclass(frozen=True)
class Dense:
    """Fully connected layers, with a norm and a ReLU behind each hidden one."""

    sizes: Sequence[int] = (196, 100, 100, 100)
    dataset = "fashion_mnist"
    pixels = 14
    test_images = 10_000

    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the kernels before a norm."""
        return list(zip(self.sizes[:-1], self.sizes[1:], strict=True))

    def features(self, kernels: Sequence[Array], x: Array, norm: Norm) -> Array:
        """What the last layer sees."""
        x = x.reshape(len(x), -1)
        for layer, kernel in enumerate(kernels):
            x = jax.nn.relu(norm(x @ kernel, layer))
        return x


@dataclasses.dataclass(frozen=True)
class ResNet:
    """A ResNet of 6n+2 layers for small images, half as wide as He et al.'s."""

    blocks: int
    width: int = 8
    dataset = "cifar10"
    pixels = 8
    test_images = 2_000

    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the kernels before a norm."""
        filters = [self.width * 2**stage for stage in range(3) for _ in range(2 * self.blocks)]
        inputs = [self.width, *filters[:-1]]
        return [
            (3, 3, 3, self.width),
            *((3, 3, *pair) for pair in zip(inputs, filters, strict=True)),
        ]

    def features(self, kernels: Sequence[Array], x: Array, norm: Norm) -> Array:
        """What the last layer sees."""
        x = jax.nn.relu(norm(_convolve(x, kernels[0], 1), 0))
        for layer in range(1, len(kernels), 2):
            missing = kernels[layer].shape[3] - x.shape[3]
            stride = 2 if missing else 1
            branch = jax.nn.relu(norm(_convolve(x, kernels[layer], stride), layer))
            branch = norm(_convolve(branch, kernels[layer + 1], 1), layer + 1)
            sides = (missing // 2, missing - missing // 2)
            shortcut = jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), sides))
            x = jax.nn.relu(shortcut + branch)
        return x.mean((1, 2))


NETS: dict[str, Dense | ResNet] = {"dense": Dense(), "resnet8": ResNet(1), "resnet20": ResNet(3)}


def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    """A 3x3 convolution as one product: XLA's own takes 6 times as long in a loop on a CPU."""
    height, width, channels = x.shape[1:]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate(
        [
            padded[:, i : i + height : stride, j : j + width : stride]
            for i in range(3)
            for j in range(3)
        ],
        axis=-1,
    )
    return patches @ kernel.reshape(9 * channels, -1)


class Parameters(NamedTuple):
    """What is trained."""

    kernels: list[Array]
    gammas: list[Array]
    betas: list[Array]
    head: Array
    bias: Array


def new_parameters(net: Dense | ResNet, key: Array) -> Parameters:
    """Parameters after Glorot (dense) or He (convolutions)."""
    shapes = [*net.shapes(), (net.shapes()[-1][-1], 10)]
    kernels = []
    for shape, one in zip(shapes, jax.random.split(key, len(shapes)), strict=True):
        convolution = len(shape) > 2
        scale, mode = (2.0, "fan_in") if convolution else (1.0, "fan_avg")
        distribution = "truncated_normal" if convolution else "uniform"
        kernels.append(jax.nn.initializers.variance_scaling(scale, mode, distribution)(one, shape))
    channels = [shape[-1] for shape in net.shapes()]
    gammas, betas = [jnp.ones(c) for c in channels], [jnp.zeros(c) for c in channels]
    return Parameters(kernels[:-1], gammas, betas, kernels[-1], jnp.zeros(10))


def logits(net: Dense | ResNet, parameters: Parameters, images: Array, norm: Norm) -> Array:
    """The net's output; `norm` normalises without gamma and beta."""

    def scaled(x: Array, layer: int) -> Array:
        return norm(x, layer) * parameters.gammas[layer] + parameters.betas[layer]

    features = net.features(parameters.kernels, images, scaled)
    return features @ parameters.head + parameters.bias


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


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean; 0 of one value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def row(case: str, rows: dict[str, list[float]]) -> str:
    """The mean accuracies in percent, with batch norm's standard error."""
    cells = {name: f"{100 * statistics.mean(values):.1f}" for name, values in rows.items()}
    cells[BATCH_NORM] += f" ± {100 * standard_error(rows[BATCH_NORM]):.1f}"
    return f"| {case} | " + " | ".join(cells.values()) + " |"


def shortfall(rows: dict[str, list[float]], name: str) -> float:
    """By how much a rule misses what is wanted in one case; 0 or less where it reaches it."""
    mean = {key: statistics.mean(values) for key, values in rows.items()}
    floor = mean[BATCH_NORM]
    gain = max(mean[ramp] for ramp in RAMPS) - floor
    error = standard_error(rows[BATCH_NORM])
    return floor + (0.9 * gain if gain > error else -error) - mean[name]


def verdicts(found: dict[str, dict[str, list[float]]]) -> str:
    """For each rule, in how many cases it reaches what is wanted, and its worst shortfall."""
    lines = [
        "| rule | cases reached | mean shortfall | worst shortfall | where |",
        "|---" * 5 + "|",
    ]
    for name in next(iter(found.values())):
        misses = {case: 100 * shortfall(rows, name) for case, rows in found.items()}
        reached = sum(miss <= 0 for miss in misses.values())
        worst = max(misses, key=lambda case: misses[case])
        mean = statistics.mean(max(0.0, miss) for miss in misses.values())
        lines.append(
            f"| {name} | {reached} of {len(found)} | {mean:.2f} | {misses[worst]:.1f} | {worst} |"
        )
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the flags say."""

    cases: str
    seeds: list[int]
    scale: float
    json: pathlib.Path | None


def parse(argv: list[str]) -> Settings:
    """Defines and reads the flags."""
    from absl import flags

    from zoo.training.cli import arguments

    flags.DEFINE_string("cases", "", "A regular expression for the cases to run.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Comma-separated integers.")
    flags.DEFINE_float("scale", 1.0, "Share of the steps to do.", 0.0, 1.0)
    flags.DEFINE_string("json", None, "A new file for the results.")
    arguments.no_arguments(arguments.parse_flags(argv))
    seeds, path = flags.FLAGS["seeds"].value, flags.FLAGS["json"].value
    if not all(word.strip().isdecimal() for word in seeds):
        raise UserError(f"--seeds must be integers, as in --seeds=0,1; received {seeds}.")
    if path is not None and pathlib.Path(path).exists():
        raise UserError(f"--json must name a new file, but {path} is there already.")
    return Settings(
        flags.FLAGS["cases"].value,
        [int(word) for word in seeds],
        flags.FLAGS["scale"].value,
        None if path is None else pathlib.Path(path),
    )


def main(settings: Settings) -> int:
    """Runs the cases, and prints the tables."""
    cases = [case for case in fixed_set() if re.search(settings.cases, str(case))]
    if not cases:
        raise UserError(f"--cases={settings.cases!r} matches none of the cases.")
    found: dict[str, dict[str, list[float]]] = {}
    print("| case | " + " | ".join(RULES) + " |", "|---" * (1 + len(RULES)) + "|", sep="\n")
    for case in cases:
        values = run(case, list(RULES.values()), settings.seeds, settings.scale)
        found[str(case)] = {name: one.tolist() for name, one in zip(RULES, values, strict=True)}
        print(row(str(case), found[str(case)]), flush=True)
    print("", verdicts(found), sep="\n")
    document = {"machine": machine(), "seeds": settings.seeds, "scale": settings.scale}
    write_json(settings.json, document | {"accuracy": found})
    return 0


if __name__ == "__main__":
    program.run(parse, main, __doc__)
