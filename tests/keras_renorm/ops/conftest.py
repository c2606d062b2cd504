"""Batch Renormalization in float64 NumPy with all that the kernels know; the choice of lowerings.

It knows more than `keras_renorm.ops.reference`: any axis, weights, ghost batches, ReLU.
"""

import keras
import numpy as np
import pytest

from keras_renorm.ops import backends
from keras_renorm.ops.maths.operands import Arguments, Constants, Settings
from keras_renorm.ops.steps import inference, lowerings, training
from keras_renorm.ops.steps.inference import InferenceStep
from keras_renorm.ops.steps.step import Step


def _one(x, dy, weights, vectors, limits, axis, epsilon, relu):
    """One ghost batch; `vectors` are gamma, beta, moving mean and variance."""
    axes = tuple(i for i in range(x.ndim) if i != axis)
    gamma, beta, mu, var = (np.asarray(v, np.float64) for v in vectors)

    def wide(vector):
        return vector.reshape([-1 if i == axis else 1 for i in range(x.ndim)])

    valid = weights > 0
    count = weights.sum(axes)
    empty, m = count == 0, np.where(count == 0, 1, count)
    mean = np.where(empty, 0, (weights * np.where(valid, x, 0)).sum(axes) / m)
    centred = x - wide(mean)
    kept = np.where(valid, centred, 0)
    variance = np.where(empty, 0, (weights * kept**2).sum(axes) / m)
    sigma_b, sigma = np.sqrt(variance + epsilon), np.sqrt(var + epsilon)
    r = np.clip(sigma_b / sigma, 1 / limits[0], limits[0])
    d = np.clip((mean - mu) / sigma, -limits[1], limits[1])
    scale = gamma * r / sigma_b
    affine = centred * wide(scale) + wide(gamma * d + beta)
    g = np.where(valid & ((affine > 0) | (not relu)), dy, 0)
    s1, s2 = g.sum(axes), (g * kept).sum(axes)
    dx = wide(scale) * (g - weights * (wide(s1 / m) + kept * wide(s2 / (m * sigma_b**2))))
    return {
        "y": np.where(affine < 0, 0, affine) if relu else affine,
        "affine": affine,
        "dx": np.where(valid, dx, 0),
        "dgamma": s2 * r / sigma_b + d * s1,
        "dbeta": s1,
        "mean": mean,
        "variance": variance,
        "count": count,
        "r": r,
        "d": d,
        "magnitude": (np.abs(g) * (1 + np.abs(kept * wide(r / sigma_b)) + wide(np.abs(d)))).sum(
            axes
        ),
    }


def _renorm(
    x, dy, vectors, limits, *, axis, epsilon=1e-3, relu=False, weights=None, ghost_size=None
):
    """Everything that forward and backward compute; vectors are [ghosts, C], gradients [C]."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    weights = np.ones(()) if weights is None else np.asarray(weights, np.float64)
    weights = np.broadcast_to(weights, x.shape)
    cuts = [] if ghost_size is None else range(ghost_size, len(x), ghost_size)
    with np.errstate(invalid="ignore", over="ignore"):
        ghosts = [
            _one(*parts, vectors, limits, axis, epsilon, relu)
            for parts in zip(*(np.split(a, cuts) for a in (x, dy, weights)), strict=True)
        ]
    joins = dict.fromkeys(ghosts[0], np.stack)
    joins |= dict.fromkeys(("y", "dx", "affine"), np.concatenate)
    joins |= {key: lambda values: np.sum(values, 0) for key in ("dgamma", "dbeta", "magnitude")}
    return {key: join([ghost[key] for ghost in ghosts]) for key, join in joins.items()}


@pytest.fixture(scope="session")
def float64():
    return _renorm


@pytest.fixture
def no_library(monkeypatch):
    """A process in which the library has not been found, and that has not said so yet."""
    backend = backends.current()
    monkeypatch.setattr(backend, "native_problem", lambda: "the library is not there")
    lowerings._warn_once.cache_clear()
    yield
    lowerings._warn_once.cache_clear()


def _vectors(x, axis):
    ones = keras.ops.ones(x.shape[axis])
    return ones, keras.ops.zeros_like(ones)


@pytest.fixture
def chosen():
    """The lowering that a step of training takes, by its input."""

    def choose(x, *, axis, epsilon, weighted=False, ghosts=False):
        one, zero = _vectors(x, axis)
        mask = keras.ops.ones(x.shape, "bool") if weighted else None
        arguments, constants = Arguments(x, one, zero), Constants(zero, one, 1.0, 0.0, mask)
        settings = Settings(axis, epsilon, ghost_size=2 if ghosts else None)
        return training.choose(Step(arguments, constants, settings)).lowering

    return choose


@pytest.fixture
def chosen_for_inference():
    """The lowering that a normalization with population statistics takes, by its input."""
    names = {
        inference.Native: "native",
        inference.Fused: "fused",
        inference.Plain: "composite",
    }

    def choose(x, *, axis, epsilon, portable):
        one, zero = _vectors(x, axis)
        arguments, settings = Arguments(x, one, zero), Settings(axis, epsilon)
        way = inference.choose(InferenceStep(arguments, zero, one, settings, portable))
        return names[type(way)]

    return choose
