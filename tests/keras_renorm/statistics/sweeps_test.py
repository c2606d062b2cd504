"""What `precise` does between its arguments and its report; most is in population_test.py."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("other backends are in backend_checks.py", allow_module_level=True)

from keras_renorm import layers
from keras_renorm.models import batch_norms
from keras_renorm.statistics import moving_statistics
from keras_renorm.statistics.batches import Batches
from keras_renorm.statistics.sweeps import Sweeper

EPSILON = 0.1


def numpy(value):
    return np.array(keras.ops.convert_to_numpy(value))


def sweeper_of(model, dataset, *, batch_size=None, estimator="total", chosen=None):
    examples = Batches(dataset, None, batch_size, keep=True)
    return Sweeper(model, batch_norms(model, chosen), examples, estimator, 0)


def normalized(x, mean, variance):
    return (x - mean) / np.sqrt(variance + EPSILON)


def check(layer, x, rtol=1e-5):
    exact = np.float64(x)
    mean, deviation = exact.mean(0), exact.std(0)
    allowed = rtol * (np.abs(mean) + deviation)
    assert (np.abs(numpy(layer.moving_mean) - mean) <= allowed).all()
    np.testing.assert_allclose(numpy(layer.moving_variance), deviation**2, rtol=2 * rtol)


class Swapped(keras.Model):
    """Calls its second batch norm first and its third never."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (layers.BatchNormalization(epsilon=EPSILON) for _ in range(2))
        self.c = keras.layers.BatchNormalization(renorm=True)
        for layer in (self.a, self.b, self.c):
            layer.build((None, 4))

    def call(self, x):
        return self.a(3 * self.b(x) + 1)


@pytest.fixture
def x(rng):
    return rng.normal(2.0, 3.0, (23, 4)).astype("f4")


@pytest.mark.parametrize("batch_size", [23, 8, 1])
def test_the_statistics_follow_the_calls_and_are_given_in_the_end(x, batch_size):
    model = Swapped()
    model.c.renorm_mean.assign(np.full(4, 5.0))  # no other statistic makes it 5
    sweeper = sweeper_of(model, x, batch_size=batch_size)
    assert (sweeper.called, sweeper.sweeps) == ([], 0)
    before = [numpy(variable) for variable in model.variables]
    assert sweeper.sweep_until(1e-6) == 0
    assert sweeper.sweeps == (1 if batch_size == 23 else 2)
    assert sweeper.called == [1, 0]
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(numpy(new), old)
    assert sweeper.assign() == [model.b, model.a]
    check(model.b, x)
    exact = np.float64(x)
    check(model.a, 3 * normalized(exact, exact.mean(0), exact.var(0)) + 1)
    changed = {
        id(v) for layer in (model.a, model.b) for v in moving_statistics.variables(layer).values()
    }
    for old, new in zip(before, model.variables, strict=True):
        assert np.array_equal(numpy(new), old) == (id(new) not in changed)


def test_one_sweep_is_with_the_statistics_that_there_are(x):
    model = Swapped()
    mean, variance = np.full(4, 1.0), np.full(4, 3.9)
    model.b.moving_mean.assign(mean)
    model.b.moving_variance.assign(variance)
    sweeper = sweeper_of(model, x, batch_size=8)
    assert sweeper.sweep_once() == 0
    sweeper.assign()
    check(model.b, x)
    check(model.a, 3 * normalized(np.float64(x), mean, variance) + 1)


def test_the_statistics_of_layers_that_are_not_chosen_stay(x):
    model = Swapped()
    model.b.moving_mean.assign(np.full(4, 7.0))
    sweeper = sweeper_of(model, x, batch_size=8, chosen=[model.a])
    sweeper.sweep_until(0.0)
    assert sweeper.assign() == [model.a]
    check(model.a, 3 * normalized(np.float64(x), 7.0, 1.0) + 1)
    np.testing.assert_array_equal(numpy(model.b.moving_mean), np.full(4, 7.0))


def test_the_estimator_is_that_of_the_moments(x):
    model = Swapped()
    sweeper = sweeper_of(model, [x[:3], x[3:]], estimator="mean_of_batch_variances")
    sweeper.sweep_until(0.0)
    sweeper.assign()
    exact = np.float64(x)
    within = (3 * exact[:3].var(0) + 20 * exact[3:].var(0)) / 23
    np.testing.assert_allclose(numpy(model.b.moving_variance), within, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [23, 8])
def test_a_model_that_calls_none_of_them_gets_nothing(x, batch_size):
    class Idle(Swapped):
        def call(self, x):
            return x

    model = Idle()
    before = [numpy(variable) for variable in model.variables]
    sweeper = sweeper_of(model, x, batch_size=batch_size)
    assert sweeper.sweep_until(0.0) == 0
    assert sweeper.assign() == sweeper.called == []
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(numpy(new), old)


class Twice(keras.Model):
    """One batch norm, which receives `x` and a part of what it gives of it."""

    def __init__(self, shift=1.0):
        super().__init__()
        self.norm, self.shift = layers.BatchNormalization(epsilon=EPSILON), shift
        self.norm.build((None, 4))

    def call(self, x):
        return self.norm(0.5 * self.norm(x) + self.shift)


@pytest.mark.parametrize("tolerance", [0.5, 1e-2, 1e-4])
@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("batch_size", [8, 23])
def test_the_change_of_what_depends_on_itself(x, batch_size, shift, tolerance):
    """In deviations and in shares of the variance, of the larger one and epsilon."""
    x = x if shift else x - x.mean(0)  # then only variances change
    model = Twice(shift)
    sweeper = sweeper_of(model, x, batch_size=batch_size)
    change = sweeper.sweep_until(tolerance)
    exact, mean, variance, desired = np.float64(x), np.zeros(4), np.ones(4), np.inf

    def received(mean, variance):
        return np.concatenate([exact, 0.5 * normalized(exact, mean, variance) + shift])

    sweeps = 0
    if batch_size == len(x):  # the first sweep gives each call the moments of what it receives
        at_once = received(exact.mean(0), exact.var(0))
        mean, variance, sweeps = at_once.mean(0), at_once.var(0), 1
    while desired > tolerance:
        new = received(mean, variance)
        scale = np.maximum(variance, new.var(0)) + EPSILON
        changes = np.abs(new.mean(0) - mean) / np.sqrt(scale), np.abs(new.var(0) - variance) / scale
        mean, variance, desired, sweeps = new.mean(0), new.var(0), np.max(changes), sweeps + 1
    assert sweeper.sweeps == sweeps > 1
    np.testing.assert_allclose(change, desired, rtol=1e-2)
    sweeper.assign()
    np.testing.assert_allclose(numpy(model.norm.moving_mean), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(numpy(model.norm.moving_variance), variance, rtol=1e-5)


def test_what_never_settles_ends_with_a_warning(x):
    model = Twice()
    sweeper = sweeper_of(model, x, batch_size=12)
    message = (
        r"The statistics still change by \S+ deviations after 50 sweeps, with tolerance=-1: "
        "a batch norm that is called several times depends on itself"
    )
    with pytest.warns(UserWarning, match=message):
        change = sweeper.sweep_until(-1.0)
    assert change < 1e-5
    assert sweeper.sweeps == 50


def domains_of(rng, ids):
    inputs = keras.Input((5, 4)), keras.Input((), dtype="int32")
    norm = layers.DomainBatchNormalization(3)
    masked = keras.layers.Masking(-7.0)(inputs[0])
    model = keras.Model(inputs, norm(masked, domain=inputs[1]))
    norm.moving_mean.assign(np.full((3, 4), 9.0))
    x = rng.normal(2.0, 3.0, (len(ids), 5, 4)).astype("f4")
    return model, norm, x, np.array(ids, "int32")


def test_a_domain_without_examples_keeps_its_statistics(rng):
    model, norm, x, ids = domains_of(rng, [0, 2, 2, 0])
    x[0] = -7.0
    sweeper = sweeper_of(model, [((x[:1], ids[:1]),), ((x[1:], ids[1:]),)])
    sweeper.sweep_until(0.0)
    sweeper.assign()
    np.testing.assert_array_equal(numpy(norm.moving_mean)[1], np.full(4, 9.0))
    np.testing.assert_array_equal(numpy(norm.moving_variance)[1], np.ones(4))
    for k, rows in ((0, x[3]), (2, x[1:3].reshape(-1, 4))):
        np.testing.assert_allclose(numpy(norm.moving_mean)[k], np.float64(rows).mean(0), rtol=1e-5)
        np.testing.assert_allclose(
            numpy(norm.moving_variance)[k], np.float64(rows).var(0), rtol=1e-5
        )


@pytest.mark.parametrize("batches", [1, 2])
def test_no_domain_with_a_position_is_refused(rng, batches):
    model, norm, x, ids = domains_of(rng, [0, 2, 2, 0])
    parts = np.split(np.full_like(x, -7.0), batches), np.split(ids, batches)
    sweeper = sweeper_of(model, [(pair,) for pair in zip(*parts, strict=True)])
    message = (
        r"All inputs of the batch norm '\S+' are masked, so they have no statistics\. .*`layers`"
    )
    with pytest.raises(ValueError, match=message):
        sweeper.sweep_until(0.0)
    np.testing.assert_array_equal(numpy(norm.moving_mean), np.full((3, 4), 9.0))


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_examples_that_are_not_finite_are_named(x, value):
    model = Swapped()
    x[10] = [value, -value, 1, 1]
    sweeper = sweeper_of(model, x, batch_size=4)
    message = r"'\S+' are not finite in the examples 8 to 11: they hold NaN or infinity, or values"
    with pytest.raises(ValueError, match=message):
        sweeper.sweep_until(0.0)
    assert all("call" not in vars(layer) for layer in (model.a, model.b, model.c))


def test_statistics_that_a_dtype_cannot_hold_change_nothing(rng):
    norms = [keras.layers.BatchNormalization(dtype=kind) for kind in ("float32", "float16")]
    model = keras.Sequential([keras.Input((4,)), *norms])
    norms[0].gamma.assign(np.full(4, 1000.0))
    sweeper = sweeper_of(model, rng.normal(2.0, 3.0, (16, 4)).astype("f4"))
    sweeper.sweep_until(1e-6)
    with pytest.raises(
        ValueError, match=r"`moving_variance` of .* float16, holds less\. The model"
    ):
        sweeper.assign()
    for norm in norms:
        assert moving_statistics.is_initial(norm)
