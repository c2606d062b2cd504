"""Small nets in plain JAX, whose norm is an argument."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = Any
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
