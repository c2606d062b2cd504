import concurrent.futures
import functools
import threading

import keras
import numpy as np
import pytest

from keras_renorm import layers
from keras_renorm.statistics import batch_statistics, freeze

NORMS = {
    "bn": layers.BatchNormalization,
    "brn": lambda **options: layers.BatchRenormalization(r_max=3.0, d_max=5.0, **options),
    "keras": keras.layers.BatchNormalization,
    "keras_renorm": lambda **options: keras.layers.BatchNormalization(renorm=True, **options),
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)


def numpy(value):
    return np.array(keras.ops.convert_to_numpy(value))


def normalized(x, epsilon=0.1):
    """float64, batch by batch of 8."""
    parts = [np.float64(x[i : i + 8]) for i in range(0, len(x), 8)]
    return np.concatenate([(p - p.mean(0)) / np.sqrt(p.var(0) + epsilon) for p in parts])


@pytest.fixture
def x(rng):
    return rng.normal(2.0, 3.0, (24, 4)).astype("f4")


def model_of(norm, **options):
    inner = keras.Sequential([keras.Input((4,)), norm(epsilon=0.1, **options)])
    return keras.Sequential([keras.Input((4,)), inner, keras.layers.Dropout(0.5)])


@every_norm
def test_calls_predict_and_evaluate_use_the_minibatch(norm, x):
    model = model_of(norm)
    model.compile("sgd", "mse")
    targets = np.zeros_like(x)
    before = model.predict(x, batch_size=8, verbose=0)
    loss = model.evaluate(x, targets, batch_size=8, verbose=0)
    weights = [numpy(w) for w in model.variables]
    with batch_statistics(model):
        once = numpy(model(x[:8]))
        predicted = model.predict(x, batch_size=8, verbose=0)
        inside = model.evaluate(x, targets, batch_size=8, verbose=0)
    np.testing.assert_allclose(once, normalized(x[:8]), atol=1e-5)
    np.testing.assert_allclose(predicted, normalized(x), atol=1e-5)
    np.testing.assert_allclose(inside, (normalized(x) ** 2).mean(), rtol=1e-5)
    for old, new in zip(weights, model.variables, strict=True):
        if "compile_metrics" not in new.path and "loss" not in new.path:
            np.testing.assert_array_equal(numpy(new), old)
    np.testing.assert_array_equal(model.predict(x, batch_size=8, verbose=0), before)
    np.testing.assert_allclose(model.evaluate(x, targets, batch_size=8, verbose=0), loss)


@every_norm
def test_frozen_layers_use_it_too(norm, x):
    model = model_of(norm, trainable=False)
    freeze(model)
    with batch_statistics(model):
        np.testing.assert_allclose(numpy(model(x[:8])), normalized(x[:8]), atol=1e-5)
        np.testing.assert_allclose(
            numpy(model.layers[0](x[:8], training=True)), normalized(x[:8]), atol=1e-5
        )
    outside = numpy(model(x[:8]))
    np.testing.assert_allclose(outside, np.float64(x[:8]) / np.sqrt(1.1), rtol=1e-5)


@every_norm
def test_training_inside_updates_nothing(norm, x):
    model = model_of(norm)
    before = [numpy(w) for w in model.layers[0].weights]
    with batch_statistics(model):
        model.layers[0](x, training=True)
    for old, new in zip(before, model.layers[0].weights, strict=True):
        np.testing.assert_array_equal(numpy(new), old)


@every_norm
def test_masks(norm, x):
    layer = norm(epsilon=0.1)
    layer.build((None, 6, 4))
    x, mask = x.reshape(4, 6, 4), np.arange(6) < np.array([[6], [1], [3], [2]])
    with batch_statistics(layer):
        y = numpy(layer(x, mask=mask))
    valid = np.float64(x[mask])
    expected = (valid - valid.mean(0)) / np.sqrt(valid.var(0) + 0.1)
    np.testing.assert_allclose(y[mask], expected, atol=1e-5)


@every_norm
def test_nested_contexts_and_errors_leave_no_trace(norm, x):
    model = model_of(norm)
    before = [sorted(vars(layer)) for layer in model._flatten_layers()]
    expected = numpy(model(x))
    with batch_statistics(model):
        with pytest.raises(RuntimeError, match="in the middle"), batch_statistics(model):
            raise RuntimeError("in the middle")
        np.testing.assert_allclose(numpy(model(x[:8])), normalized(x[:8]), atol=1e-5)
    assert [sorted(vars(layer)) for layer in model._flatten_layers()] == before
    np.testing.assert_array_equal(numpy(model(x)), expected)


def test_models_without_norms_are_refused():
    with (
        pytest.raises(ValueError, match="The model 'plain' holds no batch norm"),
        batch_statistics(keras.Sequential([keras.layers.Dense(2)], name="plain")),
    ):
        pass


def test_what_is_no_layer_is_refused():
    with (
        pytest.raises(TypeError, match="`model` must be a Keras model or layer, received 'x'"),
        batch_statistics("x"),
    ):
        pass


def in_another_thread(function):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@pytest.mark.parametrize("compiled_before", [False, True])
@every_norm
def test_other_threads_infer_as_ever(norm, x, compiled_before):
    model = model_of(norm)
    x = x[:8]
    call, infer = numpy(model(x)), functools.partial(model.predict, x, batch_size=8, verbose=0)
    if compiled_before:
        infer()
    with batch_statistics(model):
        np.testing.assert_allclose(in_another_thread(lambda: numpy(model(x))), call, rtol=1e-6)
        np.testing.assert_allclose(in_another_thread(infer), call, rtol=1e-6)
        np.testing.assert_allclose(infer(), normalized(x), atol=1e-5)
        np.testing.assert_allclose(in_another_thread(infer), call, rtol=1e-6)
    np.testing.assert_allclose(infer(), call, rtol=1e-6)


@every_norm
def test_contexts_of_two_threads_end_in_any_order(norm, x):
    model = model_of(norm)
    x = x[:8]
    norm = model.layers[0].layers[0]
    call, infer = numpy(model(x)), functools.partial(model.predict, x, batch_size=8, verbose=0)
    own = sorted(vars(norm))
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with batch_statistics(model):
            entered.set()
            leave.wait(60)
            return infer()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with batch_statistics(model):
            other = pool.submit(hold)
            entered.wait(60)
        np.testing.assert_allclose(infer(), call, rtol=1e-6)
        leave.set()
        np.testing.assert_allclose(other.result(), normalized(x), atol=1e-5)
    np.testing.assert_allclose(infer(), call, rtol=1e-6)
    assert sorted(vars(norm)) == own


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="strategies of TensorFlow")
@every_norm
def test_a_strategy_with_a_single_replica(norm, x):
    """Which runs in a thread of its own all the same."""
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = keras.Sequential([keras.Input((x.shape[-1],)), norm()])
    before = model.predict(x, verbose=0)
    with batch_statistics(model):
        inside = model.predict(x, batch_size=len(x), verbose=0)
    np.testing.assert_allclose(inside.mean(0), 0, atol=1e-5)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    assert np.abs(before.mean(0)).max() > 0.1
