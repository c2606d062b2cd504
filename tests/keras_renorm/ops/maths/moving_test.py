import numpy as np
import pytest

from keras_renorm import ops
from keras_renorm.ops import reference


def update_by(by_stddev):
    def update(*args, momentum=0.9):
        options = {"momentum": momentum, "epsilon": 1e-3, "by_stddev": by_stddev}
        return ops.update_moving(*args, **options)[:2]

    return update


UPDATES = {"variance": update_by(False), "stddev": update_by(True)}


def test_variance_is_averaged_for_batch_normalization(rng):
    x = rng.normal(2.0, 3.0, (20, 4)).astype("float32")
    mean, variance = UPDATES["variance"](np.ones(4, "f4"), np.full(4, 2, "f4"), ops.moments(x))
    batch_mean, batch_variance, _ = reference.moments(x)
    np.testing.assert_allclose(mean, 0.9 + 0.1 * batch_mean, rtol=1e-6)
    np.testing.assert_allclose(
        variance, reference.moving_variance(2.0, batch_variance, 0.9), rtol=1e-6
    )


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_sigma_is_averaged_for_batch_renormalization(rng, scale):
    x = rng.normal(2.0, scale, (20, 4)).astype("float32")
    old = np.full(4, 2 * scale**2, "f4")
    mean, variance = UPDATES["stddev"](np.ones(4, "f4"), old, ops.moments(x))
    step = reference.forward(
        x, 1, 0, 1, np.sqrt(old.astype("f8") + 1e-3), r_max=1, d_max=0, alpha=0.1, epsilon=1e-3
    )
    np.testing.assert_allclose(mean, step.mu, rtol=1e-6)
    # Also where epsilon is 1e5 times the variance: sigma^2 - epsilon alone would lose 5 digits.
    np.testing.assert_allclose(variance, step.sigma**2 - 1e-3, rtol=2e-5 if scale < 1 else 1e-6)


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_channels_without_finite_moments_keep_their_statistics(rng, update):
    x = rng.normal(size=(20, 5)).astype("float32")
    x[3, 0], x[4, 1], x[5, 2] = np.nan, np.inf, 3e38
    x[6, 2] = -3e38
    mask = np.ones((20, 5), bool)
    mask[:, 3] = False
    mean, variance = update(np.ones(5, "f4"), np.full(5, 2, "f4"), ops.moments(x, mask=mask))
    np.testing.assert_array_equal(mean[:4], 1)
    np.testing.assert_array_equal(variance[:4], 2)
    assert mean[4] != 1
    assert variance[4] != 2


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_statistics_given_as_lists_keep_the_moments_precision(rng, update):
    x, statistics = rng.normal(2.0, 3.0, (20, 2)), ([0.1, 0.2], [1.1, 0.9])
    found, arrays = update(*statistics, ops.moments(x)), [np.array(s) for s in statistics]
    for actual, desired in zip(found, update(*arrays, ops.moments(x)), strict=True):
        assert actual.dtype == "float64"
        np.testing.assert_array_equal(actual, desired)


@pytest.mark.parametrize("ghosts", [False, True])
@pytest.mark.parametrize("old", [1.0, 1e10])
def test_without_momentum_nothing_of_the_old_statistics_is_left(rng, ghosts, old):
    """An ulp of a variance of 1 is a tenth of one of 1e-6."""
    x = rng.normal(0.3, 1e-3, (5, 20, 4) if ghosts else (100, 4)).astype("f4")
    batch = ops.moments(x, ghosts=ghosts)
    each = x.astype("f8") if ghosts else x.astype("f8")[None]
    mean, variance = each.mean(1), each.var(1)
    sigma = np.sqrt(variance + 1e-3).mean(0)
    statistics = (np.full(4, old, "f4"),) * 2
    found = UPDATES["variance"](*statistics, batch, momentum=0.0)
    np.testing.assert_allclose(found[0], mean.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found[1], variance.mean(0), rtol=1e-5)
    found = UPDATES["stddev"](*statistics, batch, momentum=0.0)
    np.testing.assert_allclose(found[0], mean.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found[1], sigma**2 - 1e-3, rtol=1e-5)
    mask = np.zeros((100, 4), bool)
    empty = ops.moments(np.ones((100, 4)), mask=mask)
    kept = UPDATES["variance"](*statistics, empty, momentum=0)
    np.testing.assert_array_equal(kept, statistics)


def test_a_momentum_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"`momentum` must be in \[0, 1\], received momentum=99"):
        UPDATES["stddev"]([0.0], [1.0], ops.moments(np.ones((4, 1))), momentum=99)


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_the_moving_variance_never_turns_negative(update):
    mean, variance = np.zeros(2, "f4"), np.array([1e-3, 1.0], "f4")
    batch = ops.moments(np.full((4, 2), 5, "f4"))
    for _ in range(300):
        mean, variance = update(mean, variance, batch)
        assert np.all(np.asarray(variance) >= 0)
    np.testing.assert_allclose(variance, 0, atol=1e-6)


def test_a_batch_like_the_moving_statistics_changes_no_bit():
    batch = ops.moments(np.array([[-1.7], [2.3]], "f4"))
    mean, variance = UPDATES["stddev"](np.asarray(batch.mean), np.asarray(batch.variance), batch)
    np.testing.assert_array_equal(mean, batch.mean)
    np.testing.assert_array_equal(variance, batch.variance)


def ghost_moments(*batches):
    """The moments of several batches, as those of ghosts."""
    return ops.Moments(
        *(np.stack(values) for values in zip(*map(ops.moments, batches), strict=True))
    )


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_one_ghost_is_a_minibatch_to_the_bit(rng, update):
    x = rng.normal(2.0, 3.0, (21, 4)).astype("float32")
    old = np.ones(4, "f4"), np.full(4, 2, "f4")
    whole, ghost = update(*old, ops.moments(x)), update(*old, ghost_moments(x))
    with_an_empty_one = update(*old, ghost_moments(x, x[:0]))
    for actual in (ghost, with_an_empty_one):
        np.testing.assert_array_equal(actual, whole)


def test_ghosts_count_by_their_positions(rng):
    """m-weighted means of the ghosts' means and variances, or sigmas, from numpy in float64."""
    parts = [rng.normal(i, 1 + i, (n, 4)).astype("f4") for i, n in enumerate((7, 7, 3))]
    old = np.ones(4, "f4"), np.full(4, 2, "f4")
    wide = [part.astype("f8") for part in parts]
    weights = np.array([7, 7, 3]) / 17

    def average(values):
        return np.sum([w * v for w, v in zip(weights, values, strict=True)], 0)

    mean, variance = UPDATES["variance"](*old, ghost_moments(*parts))
    np.testing.assert_allclose(mean, 0.9 + 0.1 * average([p.mean(0) for p in wide]), rtol=1e-6)
    np.testing.assert_allclose(variance, 1.8 + 0.1 * average([p.var(0) for p in wide]), rtol=1e-6)
    mean, variance = UPDATES["stddev"](*old, ghost_moments(*parts))
    sigma = 0.9 * np.sqrt(2.001) + 0.1 * average([np.sqrt(p.var(0) + 1e-3) for p in wide])
    np.testing.assert_allclose(mean, 0.9 + 0.1 * average([p.mean(0) for p in wide]), rtol=1e-6)
    np.testing.assert_allclose(variance, sigma**2 - 1e-3, rtol=1e-6)


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_a_ghost_without_finite_moments_is_left_out(rng, update):
    good, bad = rng.normal(2.0, 3.0, (2, 8, 4)).astype("float32")
    bad[3, 0], bad[4, 1] = np.nan, np.inf
    old = np.ones(4, "f4"), np.full(4, 2, "f4")
    alone, both = update(*old, ops.moments(good)), update(*old, ghost_moments(good, bad))
    np.testing.assert_allclose(np.asarray(both)[:, :2], np.asarray(alone)[:, :2], rtol=1e-6)
    assert (np.asarray(both)[:, 2:] != np.asarray(alone)[:, 2:]).all()
    none = update(*old, ghost_moments(bad, bad))
    np.testing.assert_array_equal(np.asarray(none)[:, :2], np.asarray(old)[:, :2])


@pytest.mark.parametrize("by_stddev", [False, True])
def test_whether_there_was_an_update(rng, by_stddev):
    old = np.ones(4, "f4"), np.full(4, 2, "f4")
    options = {"momentum": 0.9, "epsilon": 1e-3, "by_stddev": by_stddev}
    for count, updated in ((20, 1), (0, 0)):
        batch = ops.moments(rng.normal(2.0, 3.0, (count, 4)).astype("float32"))
        assert ops.update_moving(*old, batch, **options).updated == updated


def test_has_update():
    x = np.array([[1, np.nan, np.inf, 1], [2, 0, 0, 2]], "f4")
    mask = np.array([[True, True, True, False]] * 2)
    np.testing.assert_array_equal(
        ops.has_update(ops.moments(x, mask=mask)), [True, False, False, False]
    )
