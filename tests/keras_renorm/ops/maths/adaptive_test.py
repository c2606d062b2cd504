import keras
import numpy as np
import pytest

from keras_renorm.ops import Moments, Moving
from keras_renorm.ops.maths import adaptive
from keras_renorm.ops.maths.scatter import among_ghosts

EPSILON = 1e-3


def zeros(*channels):
    *rows, size = channels
    return adaptive.State(
        keras.ops.zeros((*rows, adaptive.ROWS, size)), keras.ops.zeros((*rows, 2))
    ), Moving(keras.ops.zeros(channels), keras.ops.ones(channels), keras.ops.ones(rows))


def moments(mu, sigma, updated=1.0):
    tensor = keras.ops.convert_to_tensor
    return Moving(
        tensor(mu, "float32"), tensor(sigma**2 - EPSILON, "float32"), tensor(updated, "float32")
    )


def test_a_layer_without_channels_keeps_the_limits_shut():
    """Warnings are errors here."""
    for ops, make in ((np, np.zeros), (keras.ops, keras.ops.zeros)):
        state = adaptive.State(make((adaptive.ROWS, 0), "float32"), make((2,), "float32"))
        assert [float(limit) for limit in adaptive.limits(state, ops=ops)] == [1.0, 0.0]


def step(state, moving, batch, momentum=0.99, **options):
    return adaptive.advance(
        state, moving.mean, moving.variance, batch, momentum=momentum, epsilon=EPSILON, **options
    )


def ghost_step(state, moving, mu, sigma, given=np.asarray, *, ops=np, **options):
    """A step by the moments `[G, C]` of ghosts of equal size."""
    arrays = mu, sigma**2 - EPSILON, np.full(mu.shape, 8.0), np.zeros(mu.shape)
    batch = Moments(*(given(a.astype("float32")) for a in arrays))
    own = keras.tree.map_structure(given, moments(mu.mean(0), sigma.mean(0)))
    found = among_ghosts(batch, moving.mean, EPSILON, ops=ops)
    return step(state, moving, own, scatter=found, ops=ops, **options)


def drawn(rng, drift=0.0, size=6):
    for i in range(300):
        yield 2 + drift * i + rng.normal(0, 0.5, size), np.exp(rng.normal(1, 0.2, size))


@pytest.mark.parametrize(
    ("momentum", "ops"), [(0.0, np), (0.9, keras.ops), (0.99, np)], ids=["0", "0.9", "0.99"]
)
def test_the_rule_is_the_specification(specification, rng, momentum, ops):
    desired = specification(6, momentum)
    given = np.asarray if ops is np else keras.ops.convert_to_tensor
    state, moving = keras.tree.map_structure(given, zeros(6))
    for mu, sigma in drawn(rng):
        batch = keras.tree.map_structure(given, moments(mu, sigma))
        state, moving = step(state, moving, batch, momentum, ops=ops)
        desired.advance(mu, sigma)
        found = adaptive.limits(state, ops=ops)
        np.testing.assert_allclose(found, desired.limits(), rtol=2e-3, atol=2e-3)
    assert keras.backend.standardize_dtype(moving.variance.dtype) == "float32"
    np.testing.assert_allclose(moving.mean, desired.mu, rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(moving.variance + EPSILON), desired.sigma, rtol=1e-5)
    rows = np.concatenate([desired.averages, *desired.lags_and_noises()])
    np.testing.assert_allclose(state.deviations, rows, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ops", [keras.ops, np], ids=["keras", "numpy"])
def test_the_rule_is_the_specification_with_ghosts(specification, rng, ops):
    desired = specification(6, 0.95)
    given = np.asarray if ops is np else keras.ops.convert_to_tensor
    state, moving = keras.tree.map_structure(given, zeros(6))
    for i in range(100):
        mu = 2 + 0.01 * i + rng.normal(0, 0.1, 6) + rng.normal(0, 0.5, (4, 6))
        sigma = np.exp(rng.normal(1, 0.2, (4, 6)))
        state, moving = ghost_step(state, moving, mu, sigma, given, ops=ops, momentum=0.95)
        desired.advance(mu, sigma)
        found = adaptive.limits(state, ops=ops)
        np.testing.assert_allclose(found, desired.limits(), rtol=2e-3, atol=2e-3)
    rows = np.concatenate([desired.averages, *desired.lags_and_noises()])
    np.testing.assert_allclose(state.deviations, rows, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(moving.mean, desired.mu, rtol=1e-5)


def test_limits_open_by_noise_and_are_batch_normalization_at_first(rng):
    state, moving = zeros(6)
    np.testing.assert_array_equal(adaptive.limits(state), [1.0, 0.0])
    found = []
    for mu, sigma in drawn(rng):
        state, moving = step(state, moving, moments(mu, sigma))
        found.append([float(limit) for limit in adaptive.limits(state)])
    np.testing.assert_allclose(found[0], [1.0, 0.0], atol=1e-6)
    # Three deviations: of exp(N(1, 0.2)) about their mean, and of 0.5 in units of 2.8.
    np.testing.assert_allclose(found[-1], [1.6, 0.54], rtol=0.15)


def test_large_drift_keeps_the_limits_closed(rng):
    """Large independent minibatches, whose moments hardly differ, while weights move fast."""
    state, moving = zeros(6)
    for i in range(300):
        mu, sigma = 0.2 * i + rng.normal(0, 0.05, 6), np.ones(6) + rng.normal(0, 0.05, 6)
        before = np.asarray(moving.mean)
        state, moving = step(state, moving, moments(mu, sigma))
        if i >= 20:
            r_max, d_max = adaptive.limits(state)
            assert float(r_max) < 1.01
            assert float(d_max) < 0.05 * np.mean(mu - before)


def test_drift_closes_open_limits_and_its_end_opens_them(rng):
    state, moving = zeros(64)
    found = []
    for i in range(1000):
        mean = 0.01 * np.clip(i - 200, 0, 400)
        batch = moments(mean + rng.normal(0, 0.5, 64), np.full(64, 1.0))
        state, moving = step(state, moving, batch)
        found.append(float(adaptive.limits(state)[1]))
    assert found[199] == pytest.approx(1.5, rel=0.1)
    assert max(found[400:600]) < 0.5
    assert found[-1] == pytest.approx(1.5, rel=0.2)


def test_the_first_moments_leave_nothing_of_the_initial_values():
    state, moving = zeros(2)
    mu, sigma = np.array([1e-4, 3.0]), np.sqrt(np.array([1e-6, 4.0]) + EPSILON)
    _, moving = step(state, moving, moments(mu, sigma))
    np.testing.assert_array_equal(moving.mean, mu.astype("float32"))
    np.testing.assert_allclose(moving.variance, [1e-6, 4.0], rtol=1e-5)


def test_statistics_that_count_in_full_move_by_the_momentum():
    state, moving = zeros(1)
    state = state._replace(seen=keras.ops.convert_to_tensor([1.0, 0.0]))
    state, moving = step(state, moving, moments(np.ones(1), np.sqrt(np.ones(1) + EPSILON)), 0.9)
    np.testing.assert_allclose(moving.mean, [0.1], rtol=1e-6)
    np.testing.assert_allclose(state.seen, [1.0, 0.1], rtol=1e-6)


@pytest.mark.parametrize("ghosts", [2, 4, 32])
def test_the_noise_is_that_of_a_single_ghost(rng, ghosts):
    state, moving = keras.tree.map_structure(np.asarray, zeros(64))
    for _ in range(300):
        mu, sigma = rng.normal(0, 0.5, (ghosts, 64)), np.exp(rng.normal(0, 0.2, (ghosts, 64)))
        state, moving = ghost_step(state, moving, mu, sigma)
    np.testing.assert_allclose(np.mean(state.deviations[4]), 0.25, rtol=0.1)
    np.testing.assert_allclose(adaptive.limits(state, ops=np), [1.6, 1.5], rtol=0.1)


def test_weights_that_move_to_and_fro_are_no_noise_of_ghosts(rng):
    """Their mean changes its sign within a time constant, beyond its own noise."""
    state, moving = keras.tree.map_structure(np.asarray, zeros(6))
    for i in range(300):
        mu = 0.3 * np.sin(i / 5) + rng.normal(0, 0.3, (32, 6))
        state, moving = ghost_step(state, moving, mu, np.ones((32, 6)))
    np.testing.assert_allclose(state.deviations[4], 0.09 * np.ones(6), rtol=0.15)
    r_max, d_max = adaptive.limits(state, ops=np)
    assert float(r_max) < 1.05
    assert 0.2 < float(d_max) < 0.6  # 0.9 where nothing moves


def test_a_single_ghost_now_and_then_leaves_the_lag(rng):
    """The last minibatch of an epoch, of which all ghosts but one are missing."""
    found = []
    for single in (False, True):
        state, moving = keras.tree.map_structure(np.asarray, zeros(6))
        draws = np.random.default_rng(0)
        for i in range(300):
            mu = 0.3 * np.sin(i / 5) + draws.normal(0, 0.3, (32, 6))
            rows = slice(0, 1 if single and i == 250 else 32)
            state, moving = ghost_step(state, moving, mu[rows], np.ones((32, 6))[rows])
        found.append(adaptive.limits(state, ops=np)[1])
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_single_ghosts_open_the_limits_as_minibatches_alone(rng):
    """Only later: what the first minibatches lag by weighs longer."""
    alone, own = keras.tree.map_structure(np.asarray, zeros(6))
    state, moving = alone, own
    for mu, sigma in drawn(rng):
        batch = keras.tree.map_structure(np.asarray, moments(mu, sigma))
        alone, own = step(alone, own, batch, 0.95, ops=np)
        state, moving = ghost_step(state, moving, mu[None], sigma[None], momentum=0.95)
    for actual, desired in zip(moving, own, strict=True):
        np.testing.assert_array_equal(actual, desired)
    for rows in (slice(0, 2), slice(4, 6)):
        np.testing.assert_array_equal(state.deviations[rows], alone.deviations[rows])
    np.testing.assert_allclose(*(adaptive.limits(s, ops=np) for s in (state, alone)), rtol=0.1)


@pytest.mark.parametrize("ghosts", [False, True])
def test_a_channel_without_moments_has_no_deviation(rng, ghosts):
    """The mean and the variance that such a channel gets are those that it has."""
    state, moving = keras.tree.map_structure(np.asarray, zeros(6))
    for i in range(60):
        mu, sigma = rng.normal(2, 0.5, (4, 6)), np.exp(rng.normal(0, 0.2, (4, 6)))
        if i % 2:
            state, moving = ghost_step(state, moving, mu, sigma)
            continue
        batch = Moving(
            *(
                np.where(np.arange(6) == 3, a, b)
                for a, b in (
                    (moving.mean, mu.mean(0).astype("f4")),
                    (moving.variance, sigma.mean(0).astype("f4")),
                )
            ),
            np.ones((), "f4"),
        )
        among = None
        if ghosts:
            counts = np.where(np.arange(6) == 3, 0, 8) * np.ones((4, 1))
            arrays = mu, sigma**2 - EPSILON, counts, np.zeros((4, 6))
            given = Moments(*(a.astype("f4") for a in arrays))
            among = among_ghosts(given, moving.mean, EPSILON, ops=np)
        before = state.deviations[:, 3], moving.mean[3]
        state, moving = step(state, moving, batch, scatter=among, ops=np)
        assert moving.mean[3] == before[1]
        assert np.all(np.abs(state.deviations[:2, 3]) <= np.abs(before[0][:2]))
        assert state.deviations[4, 3] <= before[0][4] + before[0][0] ** 2
    assert np.isfinite(state.deviations).all()


def test_nothing_moves_without_an_update_or_at_a_momentum_of_one(rng):
    state, moving = zeros(6)
    for mu, sigma in drawn(rng):
        state, moving = step(state, moving, moments(mu, sigma))
    for batch, momentum in [(moments(mu, sigma, 0.0), 0.99), (moments(mu, sigma), 1.0)]:
        after = step(state, moving, batch, momentum)
        for actual, desired in zip(after[0] + after[1][:2], state + moving[:2], strict=True):
            np.testing.assert_array_equal(actual, desired)


def test_each_domain_has_a_state_of_its_own(rng):
    alone, own = zeros(6)
    state, moving = zeros(2, 6)
    for mu, sigma in drawn(rng):
        alone, own = step(alone, own, moments(mu, sigma))
        batch = moments(np.stack([mu, mu]), np.stack([sigma, sigma]), np.array([0.0, 1.0]))
        state, moving = step(state, moving, batch)
    np.testing.assert_allclose(adaptive.limits(state)[0], [1.0, adaptive.limits(alone)[0]], 1e-5)
    np.testing.assert_allclose(adaptive.limits(state)[1], [0.0, adaptive.limits(alone)[1]], 1e-5)
    np.testing.assert_allclose(moving.mean, [np.zeros(6), own.mean], rtol=1e-6)


def test_huge_deviations_stay_finite():
    state, moving = zeros(6)
    for scale in (1e15, 1.0, 1e12):
        state, moving = step(state, moving, moments(np.full(6, scale), np.ones(6)))
        assert np.isfinite(state.deviations).all()
        assert np.isfinite(adaptive.limits(state)).all()
