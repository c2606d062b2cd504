"""What stands in for methods, and that all is as before afterwards."""

import concurrent.futures

import keras
import numpy as np
import pytest

from keras_renorm import models
from keras_renorm.models import watching


def numpy(value):
    return np.array(keras.ops.convert_to_numpy(value))


def one(*_, **__):
    return 1


def two(*_, **__):
    return 2


@pytest.fixture
def x(rng):
    return rng.normal(size=(4, 3)).astype("f4")


def test_a_method_is_replaced_on_one_layer_and_comes_back(x):
    layer, other = keras.layers.ReLU(), keras.layers.ReLU()
    layer(x)
    before, config = dict(vars(layer)), layer.get_config()
    with models.watched({layer: lambda call: call.args[0] + 10}):
        np.testing.assert_array_equal(numpy(layer(x)), x + 10)
        np.testing.assert_array_equal(numpy(other(x)), np.maximum(x, 0))
        assert layer.get_config() == config
    assert vars(layer) == before
    np.testing.assert_array_equal(numpy(layer(x)), np.maximum(x, 0))


def test_what_stood_on_the_layer_itself_is_there_again():
    layer = keras.layers.ReLU()
    vars(layer)["call"] = one
    with models.watched({layer: two}):
        assert layer.call() == 2
    assert vars(layer)["call"] is one


def test_other_methods_are_watched_by_their_names():
    layer = keras.layers.Dense(2, activation=lambda x: 3 * x)
    with models.watched({layer: lambda call: call.run() + call.args[0]}, "activation"):
        assert layer.activation(5) == 20
    assert layer.activation(5) == 15


def test_contexts_and_hooks_for_one_method_come_off_in_turn():
    layer = keras.layers.ReLU()
    with models.watched({layer: one}), models.watched({layer: two}):
        assert layer.call() == 2
        with models.watched({layer: one}):
            assert layer.call() == 1
        with models.watched({layer: two}):
            assert layer.call() == 2
        assert layer.call() == 2
    assert "call" not in vars(layer)


def test_an_error_inside_or_among_the_hooks_takes_all_off():
    first, second = keras.layers.ReLU(), keras.layers.ReLU()
    no_object = "has no attributes"
    with (
        pytest.raises(TypeError, match="must have __dict__"),
        models.watched({first: one, second: one, no_object: one}),
    ):
        pytest.fail("entered")
    with pytest.raises(OSError, match="inside"), models.watched({first: one}):
        raise OSError("inside")
    assert "call" not in vars(first) | vars(second)


def test_a_watched_call_is_seen_with_its_arguments_and_may_be_made_otherwise(x):
    first, second = keras.layers.ReLU(), keras.layers.Dropout(0.5)
    seen = []

    def around(call):
        seen.append((call.layer, call.args, call.kwargs))
        return 2 * call.run()

    with models.watched({first: around, second: around}):
        np.testing.assert_array_equal(numpy(first(x)), 2 * np.maximum(x, 0))
        np.testing.assert_array_equal(numpy(second(x, training=False)), 2 * x)
    assert [layer for layer, _, _ in seen] == [first, second]
    np.testing.assert_array_equal(numpy(seen[0][1][0]), x)
    assert seen[1][2] == {"training": False}
    np.testing.assert_array_equal(numpy(first(x)), np.maximum(x, 0))
    assert len(seen) == 2


def in_a_thread(function):
    """The result of a function in another thread."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_a_hook_is_of_its_thread(x):
    layer = keras.layers.ReLU()
    with models.watched({layer: one}):
        np.testing.assert_array_equal(in_a_thread(lambda: numpy(layer(x))), np.maximum(x, 0))
        assert layer.call() == 1


@pytest.mark.parametrize("first_out", [0, 1])
def test_contexts_of_two_threads_end_in_any_order(first_out):
    layer = keras.layers.ReLU()
    vars(layer)["call"] = lambda: "before"
    contexts = [models.watched({layer: function}) for function in (one, two)]
    pools = [concurrent.futures.ThreadPoolExecutor(1) for _ in contexts]

    def results():
        return [pool.submit(lambda: layer.call()).result() for pool in pools]

    for context, pool in zip(contexts, pools, strict=True):
        pool.submit(context.__enter__).result()
    assert results() == [1, 2]
    for number in (first_out, 1 - first_out):
        pools[number].submit(contexts[number].__exit__, None, None, None).result()
        assert results()[number] == "before"
        assert (results()[1 - number] == "before") == (number == 1 - first_out)
    for pool in pools:
        pool.shutdown()
    assert layer.call() == "before"


def test_what_is_put_underneath_meanwhile_stays():
    layer = keras.layers.ReLU()
    with models.watched({layer: one}):
        assert watching.underneath(layer, "call") is None
        watching.put_underneath(layer, "call", two)
        assert (layer.call(), watching.underneath(layer, "call")) == (1, two)
    assert layer.call() == 2
    watching.put_underneath(layer, "call", None)
    assert "call" not in vars(layer)


def test_calls_leave_a_model_unchanged(x):
    layer = keras.layers.BatchNormalization(name="norm", activity_regularizer="l2")
    draws = keras.layers.Dropout(0.5, seed=1)
    model = keras.Sequential([keras.Input((3,)), layer, draws])
    model(x, training=True)
    losses, before = [numpy(loss) for loss in model.losses], [numpy(v) for v in model.variables]
    with models.unchanged(model):
        model(2 * x, training=True)
    np.testing.assert_array_equal([numpy(loss) for loss in model.losses], losses)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(numpy(variable), old)


class Draws(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal((2,), seed=self.seed)


def draw_and_fail(model, x):
    model(x)
    return 1 / 0


def test_draws_go_on_from_where_they_are_said_to_and_are_as_before_afterwards():
    draws = [Draws(), Draws()]
    model = keras.Sequential([keras.Input((2,)), keras.Sequential(draws)])
    zeros = np.zeros((1, 2), "f4")
    before = [numpy(one.seed.state) for one in draws]
    with models.draws_kept(model) as skip_draws:
        first, second, third = (numpy(model(zeros)) for _ in range(3))
        skip_draws(0)
        np.testing.assert_array_equal(numpy(model(zeros)), first)
        skip_draws(2)
        np.testing.assert_array_equal(numpy(model(zeros)), third)
        assert not np.array_equal(first, second)
    for one, state in zip(draws, before, strict=True):
        np.testing.assert_array_equal(numpy(one.seed.state), state)
    with pytest.raises(ZeroDivisionError), models.draws_kept(model):
        draw_and_fail(model, zeros)
    for one, state in zip(draws, before, strict=True):
        np.testing.assert_array_equal(numpy(one.seed.state), state)


def test_what_others_put_there_meanwhile_stays():
    layer = keras.layers.ReLU()
    with models.watched({layer: one}):
        vars(layer)["call"] = two
    assert vars(layer)["call"] is two
    with models.watched({layer: one}):
        del vars(layer)["call"]
    assert "call" not in vars(layer)
