import keras
import numpy as np
import pytest

from keras_renorm import layers
from keras_renorm.callbacks import FreezeStatistics
from keras_renorm.statistics import unfreeze

NORMS = {
    "ours": lambda: layers.BatchRenormalization(momentum=0.5),
    "keras": lambda: keras.layers.BatchNormalization(momentum=0.5),
}


class Means(keras.callbacks.Callback):
    """The moving mean after each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.layers[0].moving_mean.numpy().tolist())


def make_model(norm, optimizer="sgd", **options):
    model = keras.Sequential([keras.Input((4,)), NORMS[norm](), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", **options)
    return model


def fit(model, rng, callback, epochs=2):
    x = rng.normal(2.0, 3.0, (16, 4)).astype("f4")
    means = Means()
    model.fit(x, x[:, :1], batch_size=4, epochs=epochs, verbose=0, callbacks=[callback, means])
    return [i + 1 for i, mean in enumerate(means.seen) if i and mean != means.seen[i - 1]]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("at_step", [1, 3, 4, 5])
def test_freezes_before_the_step(rng, norm, at_step):
    assert fit(make_model(norm), rng, FreezeStatistics(at_step)) == list(range(2, at_step + 1))


@pytest.mark.parametrize("at_step", [0, 6])
def test_counts_the_steps_of_a_training_that_goes_on(rng, at_step):
    model = make_model("ours")
    other = keras.callbacks.Callback()
    assert fit(model, rng, other, epochs=1) == [2, 3, 4]
    assert fit(model, rng, FreezeStatistics(at_step)) == ([] if at_step == 0 else [2])
    assert model.layers[0].frozen_statistics


@pytest.mark.parametrize("scaled", [False, True])
def test_batches_whose_gradients_are_gathered_make_one_step(rng, scaled):
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=3)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
    model = make_model("ours", optimizer)
    assert fit(model, rng, FreezeStatistics(2)) == [2, 3, 4, 5, 6]
    assert int(model.optimizer.iterations) == 2
    unfreeze(model)
    # 8 batches were: the first one now is the last one of the third step.
    assert fit(model, rng, FreezeStatistics(4), epochs=1) == [2, 3, 4]
    unfreeze(model)
    assert fit(model, rng, FreezeStatistics(5), epochs=1) == [2, 3]


def test_several_steps_per_execution(rng):
    model = make_model("ours", steps_per_execution=2)
    fit(model, rng, FreezeStatistics(3))
    assert int(model.layers[0].update_count) == 4


def test_gamma_and_beta(rng):
    model = make_model("ours")
    fit(model, rng, FreezeStatistics(2, affine_trainable=False))
    gamma = model.layers[0].gamma.numpy()
    fit(model, rng, keras.callbacks.Callback())
    np.testing.assert_array_equal(model.layers[0].gamma.numpy(), gamma)
    assert len(model.trainable_weights) == 2


def test_bad_arguments():
    with pytest.raises(ValueError, match="`at_step` must be at least 0, received at_step=-1"):
        FreezeStatistics(-1)
    with pytest.raises(TypeError, match=r"`at_step` must be an integer, received 1\.5"):
        FreezeStatistics(1.5)
    with pytest.raises(TypeError, match="`affine_trainable` must be True or False"):
        FreezeStatistics(1, affine_trainable=None)
