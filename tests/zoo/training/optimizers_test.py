"""Optimizers and rates held against Keras's own, and against formulas."""

import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.errors import UserError
from zoo.training import optimizers
from zoo.training.config import default_config

schedules = keras.optimizers.schedules


def config(**values):
    return default_config().to_dict() | {"num_steps": 110, "learning_rate": 0.4} | values


def rates(**values):
    schedule = optimizers.learning_rate_schedule(config(**values))
    return [float(schedule(step)) for step in range(110)]


AFTER = {
    "constant": ({}, lambda n: lambda step: 0.4),
    "cosine": ({}, lambda n: schedules.CosineDecay(0.4, n)),
    "cosine to a tenth": (
        {"learning_rate_schedule": "cosine", "learning_rate_end": 0.1},
        lambda n: schedules.CosineDecay(0.4, n, alpha=0.1),
    ),
    "polynomial": (
        {"learning_rate_end": 0.01, "polynomial_power": 2.0},
        lambda n: schedules.PolynomialDecay(0.4, n, 0.004, 2.0),
    ),
    "exponential": (
        {"decay_every_steps": 7, "decay_factor": 0.94},
        lambda n: schedules.ExponentialDecay(0.4, 7, 0.94, staircase=True),
    ),
    "exponential, smoothly": (
        {
            "learning_rate_schedule": "exponential",
            "decay_smoothly": True,
            "decay_every_steps": 0.1,
            "decay_factor": 0.94,
        },
        lambda n: schedules.ExponentialDecay(0.4, 11, 0.94),
    ),
}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('foo')", "failed at step 0: KeyError: 'foo'"),
        ("return 'x'", "failed at step 0: ValueError: could not convert string to float: 'x'"),
        ("return float('nan')", "must give a finite learning rate, received nan at step 0."),
        ("return 1 / (109.0 - float(step))", "failed at step 109: ZeroDivisionError: "),
    ],
)
def test_a_rate_of_the_users_own_is_a_number(tmp_path, body, message):
    make = own_rate(tmp_path, body)
    values = config(learning_rate_schedule=make, num_steps=110)
    with pytest.raises(
        UserError, match=re.escape(f"--config.learning_rate_schedule={make} {message}")
    ):
        optimizers.learning_rate_schedule(values)


@pytest.mark.parametrize("body", ["return 0.1 / (1 + 0.01 * step)", "return 0.1 * step"])
def test_a_rate_of_the_users_own_computes_with_the_count_of_an_optimizer(tmp_path, body):
    optimizers.learning_rate_schedule(config(learning_rate_schedule=own_rate(tmp_path, body)))


def own_rate(tmp_path, body):
    path = tmp_path / "mine.py"
    path.write_text(
        "import keras\n"
        "class Rate(keras.optimizers.schedules.LearningRateSchedule):\n"
        f"    def __call__(self, step):\n        {body}\n"
        "    def get_config(self):\n        return {}\n"
        "def make(config):\n    return Rate()\n"
    )
    return f"{path}:make"


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize("name", AFTER)
def test_rates_are_keras_after_a_warm_up(name, warmup):
    values, make = AFTER[name]
    after = make(110 - warmup)
    found = rates(**{"learning_rate_schedule": name} | values | {"warmup_steps": warmup})
    expected = [
        0.4 * step / warmup if step < warmup else float(after(step - warmup)) for step in range(110)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_a_piecewise_rate_falls_after_so_many_steps():
    values = {"learning_rate_schedule": "piecewise", "warmup_steps": 10, "decay_factor": 0.1}
    found = rates(**values, decay_at_steps="20,0.5")
    expected = [0.04 * step for step in range(10)] + [0.4] * 10 + [0.04] * 35 + [0.004] * 55
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_rate_for_a_minibatch_of_256_is_scaled():
    assert rates(learning_rate_batch_size=256, batch_size=64)[0] == pytest.approx(0.1)
    assert rates(learning_rate_batch_size=0, batch_size=64)[0] == pytest.approx(0.4)


def test_a_warm_up_survives_saving():
    schedule = optimizers.learning_rate_schedule(config(warmup_steps=10))
    again = schedules.deserialize(schedules.serialize(schedule))
    assert [float(again(s)) for s in (3, 50)] == [float(schedule(s)) for s in (3, 50)]


def small_model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization()]
    return keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(2, name="logits")])


def after_steps(optimizer, model, rng, count=4):
    optimizer.build(model.trainable_variables)
    for _ in range(count):
        gradients = [
            tf.constant(rng.normal(size=v.shape), tf.float32) for v in model.trainable_variables
        ]
        optimizer.apply(gradients, model.trainable_variables)
    return model.get_weights()


KERAS = {
    "sgd": ({"momentum": 0.8, "nesterov": True}, lambda r: keras.optimizers.SGD(r, 0.8, True)),
    "rmsprop": (
        {"momentum": 0.9, "rho": 0.95, "optimizer_epsilon": 1.0},
        lambda r: keras.optimizers.RMSprop(r, rho=0.95, momentum=0.9, epsilon=1.0),
    ),
    "adam": ({"beta_1": 0.8, "beta_2": 0.99}, lambda r: keras.optimizers.Adam(r, 0.8, 0.99)),
    "adamw": ({"weight_decay": 0.0}, lambda r: keras.optimizers.Adam(r)),
    "lamb": ({}, lambda r: keras.optimizers.Lamb(r)),
}  # fmt: skip


@pytest.mark.parametrize("name", KERAS)
def test_steps_are_those_of_keras(name, rng):
    values, make = KERAS[name]
    ours, theirs = small_model(), small_model()
    values = config(optimizer=name, warmup_steps=2, **values)
    state = rng.bit_generator.state
    found = after_steps(optimizers.build_optimizer(values, ours), ours, rng)
    rng.bit_generator.state = state
    expected = after_steps(make(optimizers.learning_rate_schedule(values)), theirs, rng)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_weights_decay_beside_the_gradient_but_for_gamma_beta_and_biases(name, rng):
    del rng
    model = small_model()
    values = config(optimizer=name, weight_decay=0.1, learning_rate_schedule="constant")
    assert optimizers.loss_weight_decay(values) == 0.0
    assert optimizers.loss_weight_decay(values | {"optimizer": "sgd"}) == 0.1
    optimizer = optimizers.build_optimizer(values, model)
    before = [np.array(v) for v in model.trainable_variables]
    optimizer.apply([tf.zeros(v.shape) for v in model.trainable_variables])
    for variable, value in zip(model.trainable_variables, before, strict=True):
        factor = 1 - 0.4 * 0.1 if variable.name == "kernel" else 1.0
        np.testing.assert_allclose(variable, value * factor, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw", "lamb"])
def test_the_head_has_a_rate_of_its_own(name, rng):
    def trained(rate, factor):
        model = small_model()
        values = config(
            optimizer=name,
            learning_rate=rate,
            learning_rate_schedule="constant",
            head_rate_factor=factor,
        )
        generator = np.random.default_rng(1)
        weights = after_steps(optimizers.build_optimizer(values, model), model, generator)
        return weights[:-2], weights[-2:]

    del rng
    body, head = trained(0.02, 5.0)
    slow_body, _ = trained(0.02, 1.0)
    _, fast_head = trained(0.1, 1.0)
    tolerance = {"rtol": 2e-3, "atol": 1e-5} if name == "lamb" else {"rtol": 1e-5, "atol": 1e-6}
    for a, b in zip(body, slow_body, strict=True):
        np.testing.assert_array_equal(a, b)
    if name != "lamb":  # its steps are relative to a weight that moves
        for a, b in zip(head, fast_head, strict=True):
            np.testing.assert_allclose(a, b, **tolerance)


def test_float16_has_its_loss_scaled():
    model = small_model()
    optimizer = optimizers.build_optimizer(config(precision="float16"), model)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert optimizer.built


def test_an_optimizer_and_a_rate_of_the_users_own(tmp_path, rng):
    path = tmp_path / "mine.py"
    path.write_text(
        "import keras\n"
        "def optimizer(learning_rate, config):\n"
        "    return keras.optimizers.SGD(learning_rate, config['momentum'])\n"
        "def rate(config):\n"
        "    return keras.optimizers.schedules.InverseTimeDecay(0.1, 1, 0.5)\n"
        "def wrong(**arguments):\n"
        "    return 5\n"
    )
    values = config(optimizer=f"{path}:optimizer", learning_rate_schedule=f"{path}:rate")
    assert float(optimizers.learning_rate_schedule(values)(2)) == pytest.approx(0.05)
    model = small_model()
    optimizer = optimizers.build_optimizer(values, model)
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert optimizer.momentum == 0.9
    with pytest.raises(UserError, match=r"wrong must return a keras Optimizer, received 5\.$"):
        optimizers.build_optimizer(values | {"optimizer": f"{path}:wrong"}, model)


def test_the_rate_of_a_cosine_is_the_formulas():
    found = rates(warmup_steps=10)
    for step in (10, 35, 60, 109):
        expected = 0.2 * (1 + math.cos(math.pi * (step - 10) / 100))
        assert found[step] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_the_head_decays_by_a_rate_of_its_own(name, factor):
    model = small_model()
    values = config(
        optimizer=name,
        weight_decay=0.1,
        learning_rate_schedule="constant",
        head_rate_factor=factor,
    )
    optimizer = optimizers.build_optimizer(values, model)
    before = [np.array(v) for v in model.trainable_variables]
    optimizer.apply([tf.zeros(v.shape) for v in model.trainable_variables])
    decays = [0.4 * 0.1, 0, 0, 0, factor * 0.4 * 0.1, 0]  # two kernels; biases, gamma and beta
    for variable, value, decay in zip(model.trainable_variables, before, decays, strict=True):
        np.testing.assert_allclose(variable, value * (1 - decay), rtol=1e-6)
