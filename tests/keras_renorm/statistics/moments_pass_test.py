"""One pass. Whole sweeps are in sweeps_test.py, replicas in replica_checks.py."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("other backends are in backend_checks.py", allow_module_level=True)

import tensorflow as tf

from keras_renorm import layers
from keras_renorm.models import batch_norms
from keras_renorm.ops import reference
from keras_renorm.statistics import moving_statistics
from keras_renorm.statistics.moments_pass import MomentsPass

KINDS = {
    "bn": layers.BatchNormalization,
    "brn": layers.BatchRenormalization,
    "keras": keras.layers.BatchNormalization,
    "keras_renorm": lambda **options: keras.layers.BatchNormalization(renorm=True, **options),
}
every_kind = pytest.mark.parametrize("norm", KINDS.values(), ids=KINDS)


def numpy(value):
    return np.array(keras.ops.convert_to_numpy(value))


def calls_in(forward, x, statistics=None, size=None):
    """The moments of a pass with given means and variances, by default the weights."""
    found = batch_norms(forward._model, forward._layers)
    given = statistics or [moving_statistics.read(layer) for layer in found]
    values = [moving_statistics.values(layer, one) for layer, one in zip(found, given, strict=True)]
    with forward.watching():
        return forward(x, len(x) if size is None else size, values)


def run(model, x, statistics=None, **options):
    forward = MomentsPass(model, batch_norms(model), **options)
    return calls_in(forward, x, statistics, size=None if hasattr(x, "shape") else 1)


def check(call, x, mask=None, rtol=1e-6):
    """The count, mean and variance of a call are those of `x` in float64."""
    mean, variance, count = reference.moments(x, mask)
    np.testing.assert_array_equal(call[0], count)
    allowed = rtol * (np.abs(mean) + np.sqrt(variance))
    assert (np.abs(call[1] - mean) <= allowed).all()
    np.testing.assert_allclose(call[2], variance, rtol=rtol, atol=1e-12)
    assert {value.dtype for value in call} == {np.dtype("float64")}


@pytest.fixture
def x(rng):
    return rng.normal(2.0, 3.0, (9, 4)).astype("f4")


@every_kind
def test_statistics_are_those_that_are_given_and_no_variable_changes(norm, x):
    first, second = norm(epsilon=0.1), norm()
    dropout = keras.layers.Dropout(0.5)
    model = keras.Sequential([keras.Input((4,)), first, dropout, second])
    before = [numpy(variable) for variable in model.variables]
    given = [(np.full(4, 2.0), np.full(4, 8.9)), (np.zeros(4), np.ones(4))]
    (one,), (two,) = run(model, x, given)
    check(one, x)
    check(two, (np.float64(x) - 2) / 3, rtol=2e-6)
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(numpy(new), old)


@every_kind
def test_at_once_each_norm_uses_the_batch_that_it_is_called_with(norm, x):
    model = keras.Sequential([keras.Input((4,)), norm(epsilon=0.1), norm()])
    before = [numpy(variable) for variable in model.variables]
    (one,), (two,) = run(model, x, at_once=True)
    check(one, x)
    exact = np.float64(x)
    check(two, (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 0.1), rtol=5e-6)
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(numpy(new), old)


def test_the_order_is_that_of_the_calls_with_each_of_a_shared_layer(x):
    first, shared, never = (layers.BatchNormalization() for _ in range(3))

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.never, self.shared, self.first = never, shared, first

        def call(self, x, training=None):
            y = self.shared(2 * self.first(self.shared(x)))
            return self.never(y) if training else y

    model = Model()
    model(x, training=True)
    given = [moving_statistics.read(layer) for layer in (first, shared)]
    forward = MomentsPass(model, [first, shared, never])
    values = [
        moving_statistics.values(layer, moving_statistics.read(layer))
        for layer in (first, shared, never)
    ]
    with forward.watching():
        one, both, none = forward(x, len(x), values)
    assert forward.order == [1, 0, 1]
    assert [len(calls) for calls in (one, both, none)] == [1, 2, 0]

    def normalized(x, statistics):
        return (x - statistics[0]) / np.sqrt(statistics[1] + 1e-3)

    check(both[0], x)
    middle = normalized(np.float64(x), given[1])
    check(one[0], middle, rtol=1e-5)
    check(both[1], 2 * normalized(middle, given[0]), rtol=1e-5)


def test_only_the_layers_that_are_asked_for_are_looked_at(x):
    first, second = layers.BatchNormalization(), layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), first, second])
    first.moving_mean.assign(np.full(4, 5.0))
    ((call,),) = calls_in(MomentsPass(model, [second]), x)
    check(call, (np.float64(x) - 5) / np.sqrt(1.001), rtol=2e-6)
    assert "call" not in vars(first) | vars(second)


def test_a_mean_comes_with_what_rounding_takes_from_it(rng):
    x = (rng.normal(size=(500, 4)) + 1e6).astype("f4")
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    ((call,),) = run(model, x)
    mean, variance, _ = reference.moments(x)
    np.testing.assert_allclose(call[1], mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(call[2], variance, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 4), (3, 1)])
def test_one_row_and_one_channel(rng, shape):
    x = rng.normal(size=shape).astype("f4")
    model = keras.Sequential([keras.Input(shape[1:]), layers.BatchRenormalization()])
    for at_once in (False, True):
        ((call,),) = run(model, x, at_once=at_once)
        check(call, x)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("norm", [KINDS["bn"], KINDS["keras"]], ids=["bn", "keras"])
def test_masked_positions_do_not_count_and_a_batch_of_them_moves_nothing(rng, norm, at_once):
    x = rng.normal(1.0, 2.0, (5, 6, 4)).astype("f4")
    x[:, 4:] = x[0] = -7.0
    model = keras.Sequential([keras.Input((6, 4)), keras.layers.Masking(-7.0), norm()])
    ((call,),) = run(model, x, at_once=at_once)
    check(call, x[1:, :4])
    ((call,),) = run(model, np.full_like(x, -7.0), at_once=at_once)
    for value in call:
        np.testing.assert_array_equal(value, np.zeros(4))


class Unmask(keras.layers.Layer):
    supports_masking = True

    def compute_mask(self, inputs, mask=None):
        return None

    def call(self, x):
        return x + 0.0


def test_at_once_a_norm_without_positions_uses_its_own_statistics():
    norms_ = layers.BatchNormalization(epsilon=0.1), layers.BatchNormalization()
    mask = keras.layers.Masking(-7.0)
    model = keras.Sequential([keras.Input((6, 4)), mask, norms_[0], Unmask(), norms_[1]])
    given = [(np.full(4, 1.0), np.full(4, 3.9)), (np.zeros(4), np.ones(4))]
    _, (call,) = run(model, np.full((5, 6, 4), -7.0, "f4"), given, at_once=True)
    check(call, np.full((30, 4), -0.5))  # Masking makes zeros of what it masks


def test_at_once_the_moments_are_those_that_were_used(rng):
    """The rounded mean, which the weight will be; the next norm receives what it leaves."""
    x = (rng.normal(size=(500, 4)) + 1e6).astype("f4")
    model = keras.Sequential([keras.Input((4,)), *(layers.BatchNormalization() for _ in range(2))])
    (one,), (two,) = run(model, x, at_once=True)
    np.testing.assert_array_equal(one[1], np.float64(x).mean(0).astype("f4"))
    left = (x - one[1]) / np.sqrt(np.float64(x).var(0) + 1e-3)
    np.testing.assert_allclose(two[1], left.mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("ids", [[0, 2, 0, 2, 2], [1] * 5])
def test_a_row_for_each_domain(rng, ids, at_once):
    x, ids = rng.normal(1.0, 2.0, (5, 3, 4)).astype("f4"), np.array(ids, "int32")
    x[1:3, 1:] = -7.0
    inputs = keras.Input((3, 4)), keras.Input((), dtype="int32")
    norm = layers.DomainBatchNormalization(3)
    model = keras.Model(inputs, norm(keras.layers.Masking(-7.0)(inputs[0]), domain=inputs[1]))
    ((call,),) = run(model, (x, ids), at_once=at_once)
    for k in range(3):
        own = (ids == k)[:, None, None] & (x != -7.0)
        check([value[k] for value in call], x, own, rtol=2e-6)


@pytest.mark.parametrize("norm", [KINDS["bn"], KINDS["keras"]], ids=["bn", "keras"])
def test_a_compiled_pass_is_that_of_a_model_that_runs_eagerly(norm, x):
    model = keras.Sequential([keras.Input((4,)), norm(), keras.layers.Dense(3), norm()])
    found = []
    for eagerly in (False, True):
        model.compile("sgd", "mse", run_eagerly=eagerly)
        found.append(run(model, x))
    for compiled, eager in zip(*found, strict=True):
        for one, other in zip(compiled[0], eager[0], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_pass_takes_batches_of_any_size_and_new_statistics(x):
    first, second = layers.BatchNormalization(epsilon=0.1), layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), first, second])
    forward = MomentsPass(model, batch_norms(model))
    for rows in (9, 4, 1):
        for mean in (0.0, 3.0):
            given = [(np.full(4, mean), np.full(4, 3.9)), (np.zeros(4), np.ones(4))]
            (one,), (two,) = calls_in(forward, x[:rows], given)
            check(one, x[:rows])
            check(two, (np.float64(x[:rows]) - mean) / 2, rtol=2e-6)


@pytest.mark.parametrize("wrap", ["while", "cond", "function"])
def test_out_of_a_loop_or_branch_nothing_can_be_brought(x, wrap):
    class Wrapped(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = layers.BatchNormalization(name="inner")

        def build(self, shape):
            self.norm.build(shape)

        def call(self, x):
            if wrap == "while":
                return tf.while_loop(lambda x: False, lambda x: [self.norm(x)], [x])[0]
            if wrap == "cond":
                return tf.cond(tf.shape(x)[0] > 3, lambda: self.norm(x), lambda: x)
            return tf.function(self.norm)(x)

    model = keras.Sequential([keras.Input((4,)), Wrapped()])
    message = (
        "A batch norm is called in a loop or a branch of the compiled graph, at '.*inner'.* "
        "leave the layer out of `layers`"
    )
    before = [sorted(vars(layer)) for layer in model._flatten_layers()]
    with pytest.raises(ValueError, match=message):
        run(model, x)
    assert [sorted(vars(layer)) for layer in model._flatten_layers()] == before


def test_statistics_have_to_be_as_many_as_the_weights(x):
    model = keras.Sequential([keras.Input((4,)), *(layers.BatchNormalization() for _ in range(2))])
    forward = MomentsPass(model, batch_norms(model))
    one = {"moving_mean": np.zeros(4), "moving_variance": np.ones(4)}
    with forward.watching(), pytest.raises(ValueError, match="shorter"):
        forward(x, 9, [one])


class Tagged(layers.BatchNormalization):
    """A subclass whose calls have an argument more."""

    def call(self, inputs, training=None, mask=None, tag=None):
        return super().call(inputs, training=training, mask=mask)


class Tagging(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = Tagged()

    def call(self, x):
        return self.norm(x, tag="a")


def test_a_subclass_may_have_other_call_arguments(x):
    model = Tagging()
    model(x)
    ((call,),) = run(model, x)
    check(call, x)
