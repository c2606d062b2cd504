"""What a schedule counts, on every Keras backend; `backends_test.py` runs this under each."""

import keras
import pytest

from keras_renorm import layers, schedules
from keras_renorm.callbacks import CountSteps, FreezeStatistics, LogDiagnostics, RenormHistory
from keras_renorm.diagnostics import lint

L = keras.layers


def renorm(**options):
    ramp = schedules.LinearRamp(1.0, 3.0, start_step=0, end_step=100)
    return layers.BatchRenormalization(r_max=ramp, d_max=1.0, name="norm", **options)


def counted(norm):
    return int(keras.ops.convert_to_numpy(norm.update_count))


def alone():
    norm = renorm()
    return keras.Sequential([keras.Input((4,)), norm, L.Dense(1)]), norm


def shared():
    x, norm = keras.Input((4,)), renorm()
    return keras.Model(x, L.Dense(1)(norm(norm(x) + x))), norm


def within():
    norm = renorm()
    inner = keras.Sequential([keras.Input((4,)), norm])
    x = keras.Input((4,))
    return keras.Model(x, L.Dense(1)(inner(inner(x) + 1.0))), norm


def by_frames():
    norm = renorm()
    frames = keras.Sequential([keras.Input((5, 4)), L.TimeDistributed(norm)])
    return keras.Sequential([L.Reshape((5, 4)), frames, L.Flatten(), L.Dense(1)]), norm


def by_padded_frames():
    """The first frames are masked in all examples."""
    norm = renorm()
    frames = [L.Reshape((5, 4)), L.Masking(), L.TimeDistributed(norm)]
    return keras.Sequential([*frames, L.GlobalAveragePooling1D(), L.Dense(1)]), norm


def recorder():
    return LogDiagnostics([lambda model: lint(model)], every_n_steps=1000)


def freezer():
    return FreezeStatistics(1000)


MODELS = {make.__name__: make for make in (alone, shared, within, by_frames, by_padded_frames)}
FRAMES = {"by_frames", "by_padded_frames"}


def data(name, steps, rng):
    x = rng.normal(size=(4 * steps, 20 if name in FRAMES else 4)).astype("f4")
    if name == "by_padded_frames":
        x[:, :8] = 0
    return x, rng.normal(size=(4 * steps, 1)).astype("f4")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_step_counts_once_however_often_it_calls_the_layer(rng, name, mode):
    model, norm = MODELS[name]()
    model.compile("sgd", "mse", run_eagerly=mode == "eager", jit_compile=False)
    model.fit(*data(name, 3, rng), batch_size=4, verbose=0)
    assert counted(norm) == 3


def test_a_step_counts_once_where_it_is_compiled(rng):
    model, norm = shared()
    compiled = keras.backend.backend() != "torch"  # PyTorch has no compiler in the tests
    model.compile("sgd", "mse", jit_compile=compiled)
    model.fit(*data("shared", 3, rng), batch_size=4, verbose=0)
    assert counted(norm) == 3


def test_calls_of_the_layer_itself_count_each(rng):
    norm = renorm()
    x = rng.normal(size=(4, 4)).astype("f4")
    for call in (norm, norm, norm.call, norm.call, norm):
        call(x, training=True)
    assert counted(norm) == 5
    model, other = shared()
    model(x, training=True)
    model(x, training=True)
    assert counted(other) == 2


def test_limits_are_in_the_history(rng):
    model, norm = alone()
    model.compile("sgd", "mse")
    x, y = data("alone", 5, rng)
    callbacks = [RenormHistory(x[:4])]
    found = model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=callbacks).history
    assert found["renorm_r_max"] == pytest.approx([1.1, 1.2])
    assert norm.current_limits().r_max == pytest.approx(1.2)
    assert 0 <= found["renorm_r_clipped"][-1] <= 1


@pytest.mark.parametrize("name", ["alone", "shared"])
def test_gathered_gradients_are_one_step(rng, name):
    model, norm = MODELS[name]()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4), "mse")
    counting = {"batch_size": 4, "verbose": 0, "callbacks": [CountSteps()]}
    model.fit(*data(name, 6, rng), **counting)
    assert counted(norm) == 1
    model.fit(*data(name, 6, rng), **counting)
    assert counted(norm) == 3
    assert norm.counts_calls
    model.fit(*data(name, 6, rng), batch_size=4, verbose=0)
    assert counted(norm) == 9


class Unbuilt(keras.Model):
    """A model whose layers the first step builds."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = renorm(), L.Dense(1)

    def call(self, x, training=None):
        return self.head(self.norm(self.norm(x, training=training) + x, training=training))


@pytest.mark.parametrize("kind", ["subclassed", "sequential"])
def test_a_model_that_the_first_step_builds(rng, kind):
    model = Unbuilt() if kind == "subclassed" else keras.Sequential([renorm(), L.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
    model.fit(*data("alone", 6, rng), batch_size=4, verbose=0, callbacks=[CountSteps()])
    assert counted(model.get_layer("norm")) == 3


def test_a_loop_counts_for_a_model_that_its_first_step_builds(rng):
    model = Unbuilt()
    counter = CountSteps(model)
    counter.advance()  # nothing that could count is built
    for _ in range(3):
        model(data("alone", 1, rng)[0], training=True)
        counter.advance()
    assert counted(model.norm) == 3


def test_a_loop_that_counts_its_own_steps(rng):
    model, norm = alone()
    model(data("alone", 1, rng)[0], training=True)
    counter = CountSteps(model)
    for step in range(3):
        for _ in range(3):
            model(data("alone", 1, rng)[0], training=True)
        assert norm.current_limits().r_max == pytest.approx(1 + 2 * (step + 1) / 100)
        counter.advance()
    counter.advance(96)
    assert norm.current_limits().r_max == 3.0


def test_a_step_without_side_effects_counts_in_a_scope(rng):
    model, norm = alone()
    counter = CountSteps(model)
    kept = [(v, v.value + 0) for v in model.non_trainable_variables]
    with keras.StatelessScope(state_mapping=kept) as scope:
        counter.advance(2)
    assert int(scope.get_current_value(norm.update_count)) == 2
    assert counted(norm) == 0


@pytest.mark.parametrize("make", [recorder, freezer])
def test_a_callback_reads_the_state_of_training_only_when_it_needs_it(rng, monkeypatch, make):
    """Under JAX each reading copies all weights out of the compiled step, and in again."""
    most = {"jax": 10}.get(keras.backend.backend(), 100)  # the others read at each step
    model, _ = alone()
    model.compile("sgd", "mse")
    callback, read = make(), []
    kind = type(callback)
    monkeypatch.setattr(
        kind, "model", property(lambda self: read.append(1) or super(kind, self).model)
    )
    model.fit(*data("alone", 12, rng), batch_size=4, verbose=0, callbacks=[callback])
    assert 0 < len(read) <= most
