"""Sums per channel under the backend of the environment, run by backends_test.py."""

import keras
import numpy as np
import pytest

from keras_renorm import keras_internals
from keras_renorm.ops.maths.sums import channel_sum

SHAPES = [
    ((400_000, 4), 1),
    ((4, 200_000, 2), 2),
    ((16, 100, 100, 3), 3),
    ((16, 3, 100, 100), 1),
    ((70_001, 1), 1),
]


def compiled(function):
    """`function` as the backend compiles it."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() == "torch":
        import torch

        return torch.compile(function, backend="aot_eager")
    import tensorflow as tf

    return tf.function(function)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("wrap", [lambda function: function, compiled])
def test_many_positions_lose_no_accuracy(shape, axis, wrap):
    rng = np.random.default_rng(0)
    # Squares of numbers with few bits: one long float32 chain is off by 1e-3 on these.
    x = np.square(np.round(rng.normal(size=shape) * 16) / 16).astype("float32")
    summed = wrap(lambda x: channel_sum(x, axis))(keras.ops.convert_to_tensor(x))
    expected = x.astype("float64").sum(tuple(i for i in range(x.ndim) if i != axis))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(summed), expected, rtol=3e-6)


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 700, 2, 4)])
def test_ghosts_keep_their_own_sums(shape):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    summed = channel_sum(keras.ops.convert_to_tensor(x), x.ndim - 1, ghosts=True)
    expected = x.astype("float64").sum(tuple(range(1, x.ndim - 1)))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(summed), expected, rtol=1e-5, atol=1e-4)


def test_the_backends_own_sum_is_taken_where_it_is_as_accurate(monkeypatch):
    """The newest versions are installed here. TensorFlow's sums are not accurate enough."""
    assert keras_internals.adds_in_chains() == (keras.backend.backend() == "tensorflow")
    if keras.backend.backend() == "jax":
        import jax

        monkeypatch.setattr(jax, "__version_info__", (0, 9, 2))
    elif keras.backend.backend() == "torch":
        import torch

        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert keras_internals.adds_in_chains()
