import concurrent.futures

import keras
import numpy as np
import pytest

from keras_renorm import layers
from keras_renorm.models import watched
from keras_renorm.statistics import hooks

FUNCTIONS = ("train_function", "test_function", "predict_function")


def numpy(value):
    return np.array(keras.ops.convert_to_numpy(value))


def nested_model():
    inner = keras.Sequential([keras.Input((3,)), layers.BatchNormalization()])
    return keras.Sequential([keras.Input((3,)), inner, keras.layers.Dense(3)])


@pytest.fixture
def x(rng):
    return rng.normal(size=(4, 3)).astype("f4")


def zeros(call):
    return 0 * call.args[0]


def test_functions_are_traced_anew_inside_and_the_old_ones_are_back(x):
    model = nested_model()
    inner = model.layers[0]
    for part in (model, inner):
        part.compile("sgd", "mse")
        part.predict(x, verbose=0)
    kept = [[getattr(part, name) for name in FUNCTIONS] for part in (model, inner)]
    expected = model.predict(x, verbose=0)
    with hooks.fresh_functions(model):
        inside = [[getattr(part, name) for name in FUNCTIONS] for part in (model, inner)]
        assert not any(one in kept[0] + kept[1] for one in inside[0] + inside[1])
        with watched({model.layers[1]: zeros}):
            np.testing.assert_array_equal(model.predict(x, verbose=0), np.zeros((4, 3)))
    for part, functions in zip((model, inner), kept, strict=True):
        for name, function in zip(FUNCTIONS, functions, strict=True):
            after = getattr(part, name)
            assert after is function if function else callable(after)
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)


def test_an_error_brings_the_old_functions_back(x):
    model = nested_model()
    model.compile("sgd", "mse")
    model.predict(x, verbose=0)
    before = model.predict_function
    with pytest.raises(OSError, match="inside"), hooks.fresh_functions(model):
        raise OSError("inside")
    assert model.predict_function is before


def test_layers_and_models_without_functions_have_none_to_lose():
    model, layer = nested_model(), layers.BatchNormalization()
    for part in (model, layer):
        with hooks.fresh_functions(part):
            pass
        hooks.retrace_training(part)
    model.compile("sgd", "mse")
    assert model.predict(np.ones((4, 3)), verbose=0).shape == (4, 3)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_thread_that_has_seen_a_function_finds_one(name):
    """Keras makes none where there is one, and calls it in the next line."""
    model = nested_model()
    model.compile("sgd", "mse")
    with hooks.fresh_functions(model):
        assert getattr(model, name) is not None
    assert callable(getattr(model, name))


def test_threads_that_come_and_go_meanwhile_compute_the_same(x):
    model = nested_model()
    model.compile("sgd", "mse")
    expected = numpy(model(x))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            with hooks.fresh_functions(model), watched({model.layers[1]: zeros}):
                others = [pool.submit(lambda: model(x)) for _ in range(4)]
                others += [pool.submit(lambda: model.predict_on_batch(x)) for _ in range(2)]
                np.testing.assert_array_equal(model.predict(x, verbose=0), np.zeros((4, 3)))
            for other in others:
                np.testing.assert_allclose(numpy(other.result()), expected, rtol=1e-6)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-6)


def test_fit_forgets_the_methods_that_it_was_traced_with(x):
    model = nested_model()
    model.compile("sgd", "mse")
    fit = {"batch_size": 4, "verbose": 0}
    model.fit(x, x, **fit)
    calls = []

    def around(call):
        calls.append(call.args)
        return call.run()

    with watched({model.layers[1]: around}):
        model.fit(x, x, **fit)
        assert not calls
        hooks.retrace_training(model)
        model.fit(x, x, **fit)
        assert calls


def test_every_function_that_was_traced_is_traced_anew(x):
    model = nested_model()
    model.compile("sgd", "mse")
    expected = model.predict(x, verbose=0)
    with watched({model.layers[1]: zeros}):
        np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
        hooks.retrace(model)
        np.testing.assert_array_equal(model.predict(x, verbose=0), np.zeros((4, 3)))
    assert model.train_function is None


def test_fit_that_is_running_traces_its_next_step_anew(x):
    model = nested_model()
    model.compile("sgd", "mse")
    steps, calls, own = [], [], model.layers[1].call

    def call(inputs, **options):
        calls.append(len(steps))
        return own(inputs, **options)

    class Hook(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append(batch)
            if batch == 1:
                vars(model.layers[1])["call"] = call
                hooks.retrace_training(model)

    model.fit(x, x, batch_size=1, verbose=0, callbacks=[Hook()])
    assert steps == [0, 1, 2, 3]
    assert set(calls) == {2}


def test_the_old_functions_are_back_if_one_cannot_be_made_anew(x):
    class Own(keras.Sequential):
        def make_predict_function(self):
            raise OSError("not again")

    model = Own([keras.Input((3,)), layers.BatchNormalization()])
    model.compile("sgd", "mse")
    model.evaluate(x, x, verbose=0)
    kept = model.test_function
    with pytest.raises(TypeError, match="force"), hooks.fresh_functions(model):
        pytest.fail("entered")
    assert model.test_function is kept
