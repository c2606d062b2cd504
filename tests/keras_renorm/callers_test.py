"""A warning names the line that a user wrote, through all that lies between."""

import functools
import gc
import inspect
import itertools
import threading
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import callers, convert, schedules, statistics
from keras_renorm.callbacks import RenormHistory
from keras_renorm.layers import BatchRenormalization, DomainBatchNormalization

X = np.ones((4, 3), "float32")


def trained():
    model = keras.Sequential([keras.Input((3,)), BatchRenormalization(num_steps=10_000)])
    model.compile("sgd", "mse")
    return model


def subclassed():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = Norm()

        def call(self, x):
            return self.norm(x)

    class Norm(keras.layers.BatchNormalization):
        def call(self, inputs):
            return 2 * super().call(inputs)

    model = Model()
    model(X)
    return model


@pytest.mark.parametrize(
    ("message", "action"),
    [
        ("is short for", lambda: schedules.paper(100)),
        ("breaks a rule", lambda: DomainBatchNormalization(2, batch_statistics="shared")),
        ("stays as it is", lambda: convert.to_batch_renormalization(subclassed(), in_place=True)),
        ("never opened", lambda: trained().fit(X, X, verbose=0, callbacks=[RenormHistory()])),
    ],
)
def test_the_line_is_the_users(message, action):
    with pytest.warns(UserWarning, match=message) as caught:
        action()
    line = inspect.getsourcelines(action)[1]
    assert [(one.filename, one.lineno) for one in caught] == [(__file__, line)]


def test_a_generator_without_an_end():
    batches = (X for _ in itertools.count())
    with pytest.warns(UserWarning, match="may have no end") as caught:
        statistics.precise(trained(), batches, tolerance=1e30)
    assert {one.filename for one in caught if one.category is UserWarning} == {__file__}


def test_functions_that_tensorflow_rewrites():
    @tf.function
    def compiled(x):
        if tf.reduce_sum(x) > 0:  # rewritten
            x = x + len(schedules.paper(100))
        return x

    with pytest.warns(UserWarning, match="short for the paper") as caught:
        compiled(tf.ones(()))
    assert {one.filename for one in caught} == {__file__}


def test_a_thread_without_a_line_of_the_users():
    def run():
        thread.start()
        thread.join()

    thread = threading.Thread(target=functools.partial(callers.warn, "of a thread", RuntimeWarning))
    with pytest.warns(RuntimeWarning, match="of a thread") as caught:
        run()
    assert [one.filename for one in caught] == [callers.__file__]


def test_what_callers_hold_is_let_go():
    class Held:
        pass

    def warns():
        held = Held()
        callers.warn("of something")
        return weakref.ref(held)

    gc.disable()
    try:
        with pytest.warns(UserWarning, match="of something"):
            held = warns()
        assert held() is None
    finally:
        gc.enable()
