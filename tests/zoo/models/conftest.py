"""What the tests of the models have in common."""

import keras
import numpy as np
import pytest


def _multiply_adds(model):
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            positions = np.prod(layer.output.shape[1:3])
            total += int(positions * np.prod(layer.kernel.shape))
        elif isinstance(layer, keras.layers.Dense):
            total += int(np.prod(layer.kernel.shape))
    return total


@pytest.fixture
def multiply_adds():
    """Counts the multiply-adds of the convolutions and dense layers, for one image, NHWC."""
    return _multiply_adds


@pytest.fixture
def trainable_parameters():
    """Counts the numbers that are trained."""
    return lambda model: sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def _weighted_layers(model):
    return [layer.name for layer in model.layers if layer.weights]


@pytest.fixture
def weighted_layers():
    """Names the layers that have weights, in their order."""
    return _weighted_layers


def _randomize_like_trained(model, rng):
    for layer in model.layers:
        for weight in layer.weights:
            if weight.name == "moving_variance":
                weight.assign(rng.uniform(0.5, 2.0, weight.shape))
            elif weight.name == "gamma":
                weight.assign(rng.uniform(0.3, 1.0, weight.shape))
            elif weight.name in ("moving_mean", "beta", "bias"):
                weight.assign(rng.normal(0.0, 0.2, weight.shape))


@pytest.fixture
def randomize_like_trained(rng):
    """Gives biases, gamma, beta and statistics random values, such as those of a trained net."""
    return lambda model: _randomize_like_trained(model, rng)


def _copy_from_keras_application(source, target):
    copied = []
    for layer in source.layers:
        if not layer.weights or layer.name.endswith("_bn"):
            continue
        bn_name = layer.name.replace("_conv", "_bn")
        name = "logits" if layer.name == "predictions" else layer.name
        destination = target.get_layer(name)
        weights = layer.get_weights()
        destination.set_weights(weights[: len(destination.weights)])
        copied.append(name)
        if len(destination.weights) == len(weights):
            continue
        # Ours has no bias: it comes off the mean that is subtracted next.
        gamma, beta, mean, variance = source.get_layer(bn_name).get_weights()
        norm = target.get_layer(bn_name.replace("_bn", "_norm"))
        for weight, value in zip(
            norm.weights[:4], (gamma, beta, mean - weights[1], variance), strict=True
        ):
            weight.assign(value)
        copied.append(norm.name)
    for layer in source.layers:
        name = layer.name.replace("_bn", "_norm")
        if layer.name.endswith("_bn") and name not in copied:
            for weight, value in zip(
                target.get_layer(name).weights[:4], layer.get_weights(), strict=True
            ):
                weight.assign(value)
            copied.append(name)
    return copied


@pytest.fixture
def copy_from_keras_application():
    """Copies the weights of one of `keras.applications`; returns the names of our layers."""
    return _copy_from_keras_application


def _last_alphas(model):
    return [float(layer.alpha) for layer in model.layers if type(layer).__name__ == "SkipInit"]


@pytest.fixture
def alphas():
    """The scales of the residual branches."""
    return _last_alphas
