import keras
import numpy as np
import pytest

from keras_renorm import layers, schedules
from keras_renorm.callbacks import FreezeStatistics
from keras_renorm.statistics import unfreeze

NORMS = {
    "ours": lambda: layers.BatchRenormalization(momentum=0.5, r_max=schedules.PAPER_R_MAX),
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
    # There were 8 batches: the first one now is the last one of the third step.
    assert fit(model, rng, FreezeStatistics(4), epochs=1) == [2, 3, 4]
    unfreeze(model)
    assert fit(model, rng, FreezeStatistics(5), epochs=1) == [2, 3]


class Twice(keras.Sequential):
    """A model that makes two of the optimizer's steps with each batch."""

    def train_step(self, data):
        super().train_step(data)
        return super().train_step(data)


def test_a_batch_that_makes_two_steps(rng):
    model = Twice([keras.Input((4,)), NORMS["ours"](), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert fit(model, rng, FreezeStatistics(4)) == [2]


def test_several_steps_per_execution(rng):
    model = make_model("ours", steps_per_execution=2)
    fit(model, rng, FreezeStatistics(3))
    assert int(model.layers[0].update_count) == 4


class Frozen(keras.callbacks.Callback):
    """Before each execution: the steps that there were, and whether the statistics are frozen."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def on_train_batch_begin(self, batch, logs=None):
        steps = int(self.model.optimizer.iterations)
        self.seen[steps] = self.model.layers[0].frozen_statistics


def test_batches_that_overflow_make_no_step(rng):
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), initial_scale=2.0**127)
    model, frozen = make_model("ours", optimizer), Frozen()
    x = rng.normal(2.0, 3.0, (32, 4)).astype("f4")
    callbacks = [FreezeStatistics(1), frozen]
    model.fit(x, x[:, :1], batch_size=4, verbose=0, callbacks=callbacks)
    assert int(optimizer.iterations) < 6  # of 8 batches
    assert frozen.seen == {steps: steps >= 1 for steps in range(len(frozen.seen))}


def test_an_epoch_that_is_no_multiple_of_an_execution(rng):
    """Keras gives its last, shorter execution the number of a whole one's last step."""
    model, frozen = make_model("ours", steps_per_execution=3), Frozen()
    x = rng.normal(size=(20, 4)).astype("f4")
    callbacks = [FreezeStatistics(12), frozen]
    model.fit(x, x[:, :1], batch_size=4, epochs=3, verbose=0, callbacks=callbacks)
    assert frozen.seen == {0: False, 3: False, 5: False, 8: False, 10: False, 13: True}


@pytest.mark.parametrize("freezing_first", [False, True])
def test_a_training_that_another_callback_restores(rng, tmp_path, freezing_first):
    class Interrupted(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    x = rng.normal(size=(16, 4)).astype("f4")
    for more in ([Interrupted()], [Frozen()]):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        callbacks = [FreezeStatistics(10), backup][:: 1 if freezing_first else -1] + more
        model = make_model("ours")
        try:
            model.fit(x, x[:, :1], batch_size=4, epochs=4, verbose=0, callbacks=callbacks)
        except KeyboardInterrupt:
            assert not model.layers[0].frozen_statistics
    assert more[0].seen == {steps: steps >= 10 for steps in range(8, 16)}


def test_what_is_not_trained_stays_so(rng):
    model = make_model("ours", "adam")
    model.layers[0].gamma.trainable = False
    model.compile("adam", "mse")
    gamma = model.layers[0].gamma.numpy()
    fit(model, rng, FreezeStatistics(2))
    np.testing.assert_array_equal(model.layers[0].gamma.numpy(), gamma)
    assert not model.layers[0].gamma.trainable
    assert model.layers[0].beta.trainable


def test_averaged_weights_cannot_become_fewer(rng):
    model = make_model("ours", keras.optimizers.SGD(use_ema=True))
    with pytest.raises(ValueError, match=r"not possible with an optimizer that averages the"):
        fit(model, rng, FreezeStatistics(2, affine_trainable=False))
    fit(model, rng, FreezeStatistics(2))
    assert model.layers[0].frozen_statistics


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


@pytest.mark.parametrize("first", [True, False])
def test_what_is_saved_is_frozen_wherever_the_callback_stands(tmp_path, first):
    norm = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), norm])
    model.compile("sgd", "mse")
    callbacks = [FreezeStatistics(2), keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")]
    x = np.ones((16, 4), "f4")
    model.fit(x, x, batch_size=8, epochs=2, verbose=0, callbacks=callbacks[:: 1 if first else -1])
    saved = [keras.saving.load_model(tmp_path / f"{epoch}.keras") for epoch in (1, 2)]
    assert [one.layers[0].frozen_statistics for one in saved] == [False, True]
