"""`counting_checks.py` has what holds on every backend."""

import keras
import numpy as np
import pytest

from keras_renorm import layers, schedules
from keras_renorm.callbacks import CountSteps, RenormHistory

RAMP = schedules.LinearRamp(1.0, 3.0, start_step=0, end_step=100)


def test_several_steps_per_execution(rng):
    norm = layers.BatchRenormalization(r_max=RAMP, d_max=1.0)
    model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=2)
    x = rng.normal(size=(20, 4)).astype("f4")
    model.fit(x, x[:, :1], batch_size=4, verbose=0, callbacks=[CountSteps()])
    assert int(norm.update_count) == 5


def test_a_scaled_loss_counts_the_steps_that_are_made(rng):
    norm = layers.BatchRenormalization(r_max=RAMP, d_max=1.0)
    model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(1)])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), "mse")
    x = rng.normal(size=(12, 4)).astype("f4")
    x[:4, 0] = np.inf
    model.fit(x, x[:, 1:2], batch_size=4, verbose=0, shuffle=False, callbacks=[CountSteps()])
    assert int(norm.update_count) == int(model.optimizer.inner_optimizer.iterations) == 2


@pytest.mark.parametrize("counting_first", [False, True])
def test_the_steps_of_a_training_that_another_callback_restores_count_once(
    rng, tmp_path, counting_first
):
    x = rng.normal(size=(12, 4)).astype("f4")
    for epochs in (2, 4):
        norm = layers.BatchRenormalization(r_max=RAMP, d_max=1.0)
        model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        callbacks = [CountSteps(), backup][:: 1 if counting_first else -1]
        model.fit(x, x[:, :1], batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks)
        assert int(norm.update_count) == int(model.optimizer.iterations) == 3 * epochs


def test_a_training_without_an_epoch_is_no_training_without_a_step(rng):
    norm = layers.BatchRenormalization(r_max=RAMP, d_max=1.0)
    model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = rng.normal(size=(12, 4)).astype("f4")
    callbacks = [CountSteps(), RenormHistory()]
    model.fit(x, x[:, :1], epochs=2, initial_epoch=2, verbose=0, callbacks=callbacks)
    assert norm.counts_calls


@pytest.mark.parametrize("counts", [False, True])
def test_after_a_training_calls_count_as_before(rng, counts):
    class Interrupted(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    norm = layers.BatchRenormalization(r_max=RAMP, d_max=1.0)
    model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = rng.normal(size=(12, 4)).astype("f4")
    norm.counts_calls = counts
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, x[:, :1], verbose=0, callbacks=[CountSteps(), Interrupted()])
    assert not norm.counts_calls
    model.fit(x, x[:, :1], verbose=0, callbacks=[CountSteps()])
    assert norm.counts_calls == counts


def test_a_counter_of_a_loop_stays_one_after_a_training(rng):
    norm = layers.BatchRenormalization(r_max=RAMP, d_max=1.0)
    model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = rng.normal(size=(12, 4)).astype("f4")
    with pytest.raises(TypeError, match="`optimizer` must be an optimizer of Keras"):
        model.fit(x, x[:, :1], verbose=0, callbacks=[CountSteps(optimizer="sgd")])
    assert norm.counts_calls
    counter = CountSteps(model)
    model.fit(x, x[:, :1], batch_size=4, verbose=0, callbacks=[counter])
    for _ in range(2):
        model(x, training=True)
    counter.advance()
    assert int(norm.update_count) == 4


def test_a_model_without_a_counter_is_refused():
    norms = [layers.BatchRenormalization(), layers.BatchRenormalization(r_max=3.0, d_max=5.0)]
    domains = layers.DomainBatchRenormalization(2, r_max=RAMP)
    for norm in (*norms, keras.layers.BatchNormalization()):
        model = keras.Sequential([keras.Input((4,)), norm], name="net")
        with pytest.raises(ValueError, match=r"no counter in the model 'net'.* leave the callback"):
            CountSteps(model)
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="no counter"):
        CountSteps(keras.Model(x, domains(x, domain=1)))


@pytest.mark.parametrize("build", [True, False])
def test_counters_by_domain_are_not_taken_over(rng, build):
    def counts_its_calls(**options):
        norm = layers.DomainBatchRenormalization(2, r_max=RAMP, **options)
        plain = layers.BatchRenormalization(r_max=RAMP)
        model = keras.Sequential([plain, norm])
        if build:
            for layer in (plain, norm):
                layer.build((None, 4))
        CountSteps(model)
        assert not plain.counts_calls
        return norm.counts_calls

    assert counts_its_calls()
    with pytest.warns(UserWarning, match="breaks a rule"):
        assert not counts_its_calls(population_statistics="shared")


def test_there_must_be_a_model_to_count_for():
    with pytest.raises(TypeError, match="`model` must be a Keras model, received 3"):
        CountSteps(3)
    with pytest.raises(ValueError, match=r"no model to count for: write CountSteps\(model\)"):
        CountSteps().advance()


def test_steps_are_a_whole_number():
    model = keras.Sequential([keras.Input((4,)), layers.BatchRenormalization(r_max=RAMP)])
    counter = CountSteps(model)
    for wrong in (1.5, "2"):
        with pytest.raises(TypeError, match=f"`steps` must be an integer, received {wrong!r}"):
            counter.advance(wrong)
    with pytest.raises(ValueError, match="`steps` must be at least 0, received steps=-1"):
        counter.advance(-1)
    counter.advance(keras.ops.convert_to_tensor(2))
    assert int(model.layers[0].update_count) == 2


def test_whether_calls_count_is_a_truth_value():
    layer = layers.BatchRenormalization(r_max=RAMP)
    with pytest.raises(TypeError, match="`counts_calls` must be True or False"):
        layer.counts_calls = 2
