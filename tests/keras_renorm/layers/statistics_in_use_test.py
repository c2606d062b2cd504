import threading

import keras
import numpy as np

from keras_renorm import layers
from keras_renorm.layers.statistics_in_use import batch_at_inference, uses_batch_at_inference


def in_another_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_the_attribute_names_each_state():
    layer = layers.BatchNormalization()
    assert layer.statistics_in_use == "batch"
    layer.frozen_statistics = True
    assert layer.statistics_in_use == "frozen"
    layer.trainable = False
    assert layer.statistics_in_use == "moving"
    with batch_at_inference([layer]):
        assert layer.statistics_in_use == "batch_at_inference"
    assert layer.statistics_in_use == "moving"


def test_each_state_normalises_with_its_statistics(rng):
    x = rng.normal(5.0, 2.0, (8, 3)).astype("f4")
    layer = layers.BatchRenormalization(r_max=3.0, d_max=5.0)
    layer.build((None, 3))
    moving = np.float64(x) / np.sqrt(1 + 1e-3)
    minibatch = (x - x.mean(0, dtype="f8")) / np.sqrt(x.var(0, dtype="f8") + 1e-3)
    before = layer.get_weights()
    layer.frozen_statistics = True
    for training in (False, True):
        np.testing.assert_allclose(layer(x, training=training), moving, rtol=1e-5)
        with batch_at_inference([layer]):
            np.testing.assert_allclose(layer(x, training=training), minibatch, atol=1e-5)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_other_layers_and_other_threads_do_not_see_it():
    layer, other = layers.BatchNormalization(), layers.BatchNormalization()
    with batch_at_inference([layer]):
        assert not uses_batch_at_inference(other)
        assert in_another_thread(lambda: layer.statistics_in_use) == "batch"
        assert uses_batch_at_inference(layer)
    assert not uses_batch_at_inference(layer)


def test_contexts_of_two_threads_end_in_any_order():
    layer = layers.BatchNormalization()
    entered, leave, left = threading.Event(), threading.Event(), threading.Event()

    def hold():
        with batch_at_inference([layer]):
            entered.set()
            leave.wait(10)
        left.set()

    threading.Thread(target=hold).start()
    entered.wait(10)
    with batch_at_inference([layer]), batch_at_inference([layer, keras.layers.Dense(1)]):
        leave.set()
        left.wait(10)
        assert layer.statistics_in_use == "batch_at_inference"
    assert layer.statistics_in_use == "batch"
