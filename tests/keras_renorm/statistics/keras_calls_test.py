import concurrent.futures

import keras
import numpy as np
import pytest

from keras_renorm.models import watched
from keras_renorm.statistics import keras_calls
from keras_renorm.statistics.minibatch import uses_minibatch


@pytest.fixture
def layer():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 3))
    return layer


def test_it_comes_once_and_goes_without_a_trace(layer):
    before = sorted(vars(layer))
    keras_calls.set_frozen(layer, False)
    assert sorted(vars(layer)) == before
    keras_calls.set_frozen(layer, True)
    call = vars(layer)["call"]
    keras_calls.set_frozen(layer, True)
    assert vars(layer)["call"] is call
    with uses_minibatch([layer]):
        assert keras_calls.is_frozen(layer)
    assert vars(layer)["call"] is call
    keras_calls.set_frozen(layer, False)
    assert sorted(vars(layer)) == before


class Fewer(keras.layers.BatchNormalization):
    def call(self, inputs, training=None):
        return super().call(inputs, training=training)


class More(keras.layers.BatchNormalization):
    def call(self, inputs, factor=1.0, training=None, mask=None):
        return factor * super().call(inputs, training=training, mask=mask)


class Any(keras.layers.BatchNormalization):
    def call(self, *args, **kwargs):
        return super().call(*args, **kwargs)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (keras.layers.BatchNormalization, (True,)),
        (Fewer, (True,)),
        (More, (2.0, True)),
        (More, (2.0,)),
        (Any, ()),
        (Any, (True,)),
    ],
)
def test_a_subclass_is_frozen_whatever_its_arguments(rng, kind, arguments):
    x = rng.normal(3.0, 2.0, (8, 3)).astype("f4")
    layer = kind()
    layer.build(x.shape)
    # `call`, because Keras's `__call__` takes only tensors by position.
    expected = layer.call(x, *[False if given is True else given for given in arguments])
    keras_calls.set_frozen(layer, True)
    options = {} if True in arguments else {"training": True}
    np.testing.assert_array_equal(layer.call(x, *arguments, **options), expected)
    layer(x, training=True)
    assert np.all(keras.ops.convert_to_numpy(layer.moving_mean) == 0)


@pytest.mark.parametrize("before", [False, True])
def test_freezing_while_another_thread_watches_holds_after_it(layer, before):
    """The watching thread takes away its own only, in whatever order both come and go."""
    keras_calls.set_frozen(layer, before)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        seen = []

        def around(call):
            seen.append(call.kwargs)
            return call.run()

        context = watched({layer: around})
        pool.submit(context.__enter__).result()
        keras_calls.set_frozen(layer, not before)
        layer(np.ones((2, 3)), training=True)
        assert not seen
        pool.submit(lambda: layer(np.ones((2, 3)), training=True)).result()
        pool.submit(context.__exit__, None, None, None).result()
    assert len(seen) == 1
    assert keras_calls.is_frozen(layer) == (not before)
    moving = keras.ops.convert_to_numpy(layer.moving_mean)
    layer(np.full((2, 3), 9.0), training=True)
    changed = np.any(keras.ops.convert_to_numpy(layer.moving_mean) != moving)
    assert changed == before
    keras_calls.set_frozen(layer, False)
    assert "call" not in vars(layer)


def test_the_output_of_each_state(layer, rng):
    x = rng.normal(5.0, 2.0, (8, 3)).astype("f4")
    inference = layer(x)
    keras_calls.set_frozen(layer, True)
    np.testing.assert_array_equal(layer(x), inference)
    np.testing.assert_array_equal(layer(x, training=True), inference)
    with uses_minibatch([layer]):
        np.testing.assert_allclose(np.mean(layer(x), 0), np.zeros(3), atol=1e-5)
        keras_calls.set_frozen(layer, False)
        np.testing.assert_allclose(np.mean(layer(x), 0), np.zeros(3), atol=1e-5)
    np.testing.assert_array_equal(layer(x), inference)
    np.testing.assert_allclose(np.mean(layer(x, training=True), 0), np.zeros(3), atol=1e-5)


def test_who_watches_sees_the_calls_by_minibatch_statistics(layer, rng):
    """As `precise(passes="single")` does."""
    x, seen = rng.normal(5.0, 2.0, (8, 3)).astype("f4"), []

    def around(call):
        seen.append(call.run())
        return seen[-1]

    with uses_minibatch([layer]), watched({layer: around}):
        layer(x, training=True)
    np.testing.assert_allclose(np.mean(seen, 1), np.zeros((1, 3)), atol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(3))


def test_what_stood_there_before_is_called_and_comes_back(layer):
    def twice(inputs, training, **_):
        return (2 + training) * inputs

    vars(layer)["call"] = twice
    keras_calls.set_frozen(layer, True)
    np.testing.assert_array_equal(layer(np.ones((1, 3)), training=True), 2 * np.ones((1, 3)))
    keras_calls.set_frozen(layer, False)
    assert vars(layer)["call"] is twice
