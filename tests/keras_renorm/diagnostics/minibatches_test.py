"""Moments of a call against the float64 reference: masks, axes, domains, and none at all."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm.diagnostics.minibatches import moving_copies, observe
from keras_renorm.layers import (
    BatchNormalization,
    BatchRenormalization,
    DomainBatchNormalization,
    DomainBatchRenormalization,
)
from keras_renorm.ops import reference

L = keras.layers


def built(layer, rng, channels=4):
    """A layer whose moving statistics are not the initial ones, of each domain others."""
    shape = [None] * 3
    shape[layer.axis] = channels
    layer.build(tuple(shape))
    size = layer.moving_mean.shape
    layer.moving_mean.assign(rng.normal(size=size))
    layer.moving_variance.assign(rng.uniform(0.5, 2, size=size))
    return layer


def check(minibatch, layer, x, mask=None, domain=None, **limits):
    """Holds moments and corrections against the reference; `x` has its channels last."""
    limits = {"r_max": 1.3, "d_max": 0.2} | limits
    mean, variance, count = reference.moments(x, mask)
    np.testing.assert_allclose(minibatch.moments.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(minibatch.moments.variance, variance, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(minibatch.moments.count, count)
    row = ... if domain is None else domain
    mu = np.array(layer.moving_mean, np.float64)[row]
    sigma = np.sqrt(np.array(layer.moving_variance, np.float64)[row] + layer.epsilon)
    step = reference.forward(
        x, 1, 0, mu, sigma, alpha=0, epsilon=layer.epsilon, mask=mask, **limits
    )
    correction = minibatch.correction(layer, *limits.values())
    assert correction.r.dtype == correction.d.dtype == np.float64
    np.testing.assert_allclose(correction.r, step.r, rtol=1e-5)
    np.testing.assert_allclose(correction.d, step.d, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [BatchNormalization, BatchRenormalization, L.BatchNormalization])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("rows", [1, 7])
def test_a_call_is_one_minibatch(norm, axis, rows, rng):
    layer = built(norm(axis=axis, epsilon=0.01), rng)
    x = rng.normal(3.0, 2.0, size=(rows, 5, 4)).astype("float32")
    given = x if axis == -1 else np.swapaxes(x, 1, 2)
    for training in (True, False, None):
        (minibatch,) = observe(layer, 5, moving_copies(layer), given, training)
        assert (minibatch.call, minibatch.domain) == (5, None)
        check(minibatch, layer, x)
        check(minibatch, layer, x, r_max=np.inf, d_max=np.inf)


@pytest.mark.parametrize("how", ["argument", "attached"])
def test_a_mask_is_of_all_but_the_last_axis(how, rng):
    layer = built(BatchRenormalization(), rng)
    x = rng.normal(size=(6, 5, 4)).astype("float32")
    mask = rng.uniform(size=(6, 5)) < 0.5
    x[~mask] = np.nan
    given = keras.ops.convert_to_tensor(x)
    if how == "attached":
        given._keras_mask = keras.ops.convert_to_tensor(mask)
    (minibatch,) = observe(
        layer, 1, moving_copies(layer), given, mask=mask if how == "argument" else None
    )
    check(minibatch, layer, x, mask[..., None])


@pytest.mark.parametrize("masked", [False, True])
def test_a_ragged_minibatch_is_its_values(masked, rng):
    layer = built(DomainBatchNormalization(3), rng)
    x, counts = rng.normal(size=(7, 4)).astype("float32"), rng.uniform(size=7) < 0.6
    ragged, mask = (tf.RaggedTensor.from_row_lengths(one, [3, 0, 4]) for one in (x, counts))
    found = observe(
        layer, 1, moving_copies(layer), ragged, None, mask if masked else None, [2, 0, 0]
    )
    of_values = np.repeat([2, 0, 0], [3, 0, 4])
    for one, domain in zip(found, (0, 2), strict=True):
        own = of_values == domain
        check(one, layer, x, (own & counts if masked else own)[:, None], domain)


@pytest.mark.parametrize("x", [np.zeros((0, 5, 4)), np.full((2, 5, 4), np.nan)], ids=str)
def test_a_minibatch_of_nothing_has_count_mean_and_variance_0(x, rng):
    layer = built(BatchRenormalization(), rng)
    mask = np.zeros(x.shape[:2], bool)
    (minibatch,) = observe(layer, 1, moving_copies(layer), x.astype("float32"), mask=mask)
    for moment in minibatch.moments[:3]:
        np.testing.assert_array_equal(moment, np.zeros(4))


def test_statistics_stay_those_of_their_time(rng):
    layer = built(BatchNormalization(momentum=0.0), rng)
    moving = moving_copies(layer)
    before = [np.copy(one) for one in moving]
    x = rng.normal(size=(8, 5, 4)).astype("float32")
    layer(x, training=True)
    assert not np.array_equal(layer.moving_mean, before[0])
    for one, old in zip(moving, before, strict=True):
        np.testing.assert_array_equal(one, old)
    (minibatch,) = observe(layer, 2, moving, x)
    np.testing.assert_array_equal(minibatch.mean, before[0])
    np.testing.assert_array_equal(minibatch.variance, before[1])


@pytest.mark.filterwarnings("ignore:.* breaks a rule")  # the two kinds differ in half of the cases
@pytest.mark.parametrize("batch", ["shared", "domain"])
@pytest.mark.parametrize("population", ["shared", "domain"])
@pytest.mark.parametrize("norm", [DomainBatchNormalization, DomainBatchRenormalization])
@pytest.mark.parametrize("masked", [False, True])
def test_a_minibatch_for_each_domain_that_is_there(norm, population, batch, masked, rng):
    layer = built(norm(4, batch_statistics=batch, population_statistics=population), rng)
    x = rng.normal(size=(6, 5, 4)).astype("float32")
    ids = np.array([3, 0, 3, 3, 1, 0], "int32")  # one example of domain 1, none of domain 2
    mask = rng.uniform(size=(6, 5)) < 0.7 if masked else np.ones((6, 5), bool)
    found = list(
        observe(layer, 1, moving_copies(layer), x, domain=ids, mask=mask if masked else None)
    )
    assert [one.domain for one in found] == [0, 1, 3]
    for one in found:
        own = mask & (ids == one.domain)[:, None] if batch == "domain" else mask
        row = one.domain if population == "domain" else None
        check(one, layer, x, own[..., None], row)


@pytest.mark.parametrize("domain", [2, np.int64(2), np.array(2)], ids=type)
def test_one_domain_for_all(domain, rng):
    layer = built(DomainBatchNormalization(3), rng)
    x = rng.normal(size=(6, 5, 4)).astype("float32")
    (minibatch,) = observe(layer, 1, moving_copies(layer), x, domain=domain)
    assert minibatch.domain == 2
    check(minibatch, layer, x, domain=2)


def test_a_domain_whose_examples_are_all_masked(rng):
    layer = built(DomainBatchNormalization(2), rng)
    x = rng.normal(size=(4, 5, 4)).astype("float32")
    ids, mask = np.array([0, 1, 0, 1]), np.array([[True], [False]] * 2).repeat(5, axis=1)
    first, second = observe(layer, 1, moving_copies(layer), x, domain=ids, mask=mask)
    check(first, layer, x[::2], domain=0)
    np.testing.assert_array_equal(second.moments.count, np.zeros(4))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_observed_in_float32(dtype, rng):
    layer = built(BatchNormalization(dtype=f"mixed_{dtype}"), rng)
    x = keras.ops.cast(rng.normal(200.0, 2.0, size=(64, 5, 4)), dtype)
    (minibatch,) = observe(layer, 1, moving_copies(layer), x)
    check(minibatch, layer, np.array(keras.ops.cast(x, "float32")))
