import keras
import numpy as np
import pytest

from keras_renorm import layers
from keras_renorm.models import batch_norms
from keras_renorm.statistics.costs import Cost, measured

X = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("f4")
compiled = pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch compiles nothing")


def net(dtype="float32"):
    norm = layers.BatchNormalization
    convolution = keras.layers.Conv2D(8, 3, dtype=dtype)
    parts = [
        convolution,
        norm(dtype=dtype),
        keras.layers.Flatten(dtype=dtype),
        keras.layers.Dense(3),
        norm(),
    ]
    return keras.Sequential([keras.Input((6, 6, 2)), *parts])


def cost(model, x=X):
    return measured(model, batch_norms(model), (x, len(keras.tree.flatten(x)[0])))


@compiled
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2), ("float64", 8)])
def test_a_compiled_model_takes_six_of_its_largest_activations(dtype, size):
    assert cost(net(dtype)) == Cost(2, 6 * 4 * 4 * 8 * size, True)


def test_a_model_that_runs_eagerly_holds_all_of_them():
    model = net()
    model.compile("sgd", "mse", run_eagerly=True)
    # Twice the convolution's and the head's, once flattened, once as the model's output.
    assert cost(model) == Cost(2, 4 * (3 * 128 + 3 * 3), True)


def test_the_estimate_is_of_an_example():
    model = net()
    assert cost(model, X) == cost(model, X[:1])


def test_several_inputs_and_outputs():
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((), name="b", dtype="int32")}
    norm = layers.DomainBatchNormalization(3)
    model = keras.Model(inputs, {"y": norm(inputs["a"], domain=inputs["b"]), "b": inputs["b"]})
    x = {"a": X[:, 0, 0].repeat(2, axis=-1), "b": np.zeros(4, "i4")}
    assert cost(model, x).norms == 1


def test_norms_that_are_not_called_do_not_count():
    model = net()
    model.head = layers.BatchNormalization()
    assert cost(model).norms == 2


def test_what_one_batch_cannot_settle_is_told():
    shared = layers.BatchNormalization()
    inputs = keras.Input((6, 6, 2))
    assert not cost(keras.Model(inputs, shared(shared(inputs)))).joins
    recurrent = keras.layers.SimpleRNN(3, stateful=True)
    inputs = keras.Input(batch_shape=(4, 5, 2))
    model = keras.Model(inputs, layers.BatchNormalization()(recurrent(inputs)))
    assert not cost(model, X[:, 0, :5]).joins


def test_nothing_changes():
    model = net()
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    attributes = [sorted(vars(layer)) for layer in model.layers]
    cost(model)
    assert [sorted(vars(layer)) for layer in model.layers] == attributes
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(new), old)


def test_outputs_that_are_no_tensors_take_no_memory():
    class Pair(keras.layers.Layer):
        def call(self, x):
            return x, None, 3

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.pair, self.norm = Pair(), layers.BatchNormalization()

        def call(self, x, training=None):
            return self.norm(self.pair(x)[0], training=training)

    model = Net()
    model(X)
    assert cost(model).norms == 1
