import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import layers, schedules

RAMPS = {
    "r_max": schedules.LinearRamp(1.0, 3.0, start_step=1, end_step=5),
    "d_max": schedules.LinearRamp(0.0, 4.0, start_step=1, end_step=5),
}
FIXED = {"r_max": 3.0, "d_max": 4.0}


def make(**options):
    return layers.DomainBatchRenormalization(3, **RAMPS | options)


def test_each_domain_counts_its_own_updates(rng):
    layer = make()
    x = rng.normal(size=(6, 4)).astype("f4")
    assert layer.current_limits() == (1.0, 0.0)  # before it is built
    for ids in ([0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0], 0):
        layer(x, domain=ids, training=True)
    np.testing.assert_array_equal(layer.update_count, [3, 1, 0])
    assert layer.current_limits(domain=0) == pytest.approx((2.0, 2.0))
    assert layer.current_limits(domain=1) == (1.0, 0.0)
    assert layer.current_limits(domain=2) == (1.0, 0.0)


def test_a_new_domain_is_normalised_as_by_batch_norm_at_first(rng):
    layer = make()
    for _ in range(10):
        layer(rng.normal(5.0, 2.0, (8, 4)), domain=0, training=True)
    x = rng.normal(50.0, 10.0, (8, 4)).astype("f4")
    y = layer(np.concatenate([x, x]), domain=[0] * 8 + [1] * 8, training=True).numpy()
    desired = (x - x.mean(0, dtype="f8")) / np.sqrt(x.var(0, dtype="f8") + 1e-3)
    np.testing.assert_allclose(y[8:], desired, atol=1e-5)
    assert np.all(y[:8].mean(0) > 3)  # d is at its limit, 4, in the domain with known statistics


def test_population_statistics_that_are_shared_have_one_count(rng):
    layer = make(batch_statistics="shared", population_statistics="shared")
    for k in (0, 1, 2):
        layer(rng.normal(size=(6, 4)), domain=k, training=True)
    assert layer.update_count.shape == ()
    assert layer.current_limits() == layer.current_limits(domain=1) == pytest.approx((2.0, 2.0))


def test_a_minibatch_without_positions_is_no_update(rng):
    layer = make()
    x = rng.normal(size=(4, 5, 3)).astype("f4")
    mask = np.ones((4, 5), bool)
    mask[:2] = False
    layer(x, domain=[0, 0, 1, 1], training=True, mask=mask)
    np.testing.assert_array_equal(layer.update_count, [0, 1, 0])


def test_limits_that_differ_need_a_domain(rng):
    layer = make(name="norm")
    for _ in range(3):
        layer(rng.normal(size=(6, 4)), domain=0, training=True)
    with pytest.raises(ValueError, match=r"'norm' differ.*Write `layer.current_limits\(k\)`"):
        layer.current_limits()
    with pytest.raises(ValueError, match=r"`domain` must hold ids in \[0, 2\].*received 5\."):
        layer.current_limits(5)
    assert make(**FIXED).current_limits() == (3.0, 4.0)


@pytest.mark.parametrize("jit", [False, True])
def test_where_nothing_clips_training_equals_inference(rng, jit):
    layer = layers.DomainBatchRenormalization(
        2, r_max=float("inf"), d_max=float("inf"), momentum=1.0, affine="domain"
    )
    layer.build((None, 4))
    for weight in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance):
        weight.assign(rng.uniform(0.5, 2.0, (2, 4)))
    x, ids = rng.normal(3.0, 2.0, (8, 4)).astype("f4"), tf.constant([0, 1, 1, 0, 1, 0, 0, 0])
    run = tf.function(layer, jit_compile=jit)
    np.testing.assert_allclose(
        run(x, domain=ids, training=True), run(x, domain=ids, training=False), atol=1e-5
    )


def functional(**options):
    inputs, domain = keras.Input((4,)), keras.Input((), dtype="int32")
    return keras.Model([inputs, domain], make(name="norm", **options)(inputs, domain=domain))


@pytest.mark.parametrize(("old", "new"), [({}, FIXED), (FIXED, {}), ({}, {})])
def test_files_load_with_and_without_counters(rng, tmp_path, old, new):
    old_model, new_model = functional(**old), functional(**new)
    old_model([rng.normal(size=(6, 4)), np.array([0, 2, 0, 0, 2, 2])], training=True)
    old_model.save_weights(tmp_path / "model.weights.h5")
    new_model.load_weights(tmp_path / "model.weights.h5")
    for actual, desired in zip(new_model.get_weights()[:4], old_model.get_weights(), strict=False):
        np.testing.assert_array_equal(actual, desired)
    if not new:
        count = [0, 0, 0] if old else [1, 0, 1]
        np.testing.assert_array_equal(new_model.get_layer("norm").update_count, count)


def test_a_schedule_whose_number_is_out_of_range_is_named():
    class Half(schedules.Schedule):
        def __call__(self, step):
            return 0.5

        def get_config(self):
            return {}

    layer = make(r_max=Half())
    with pytest.raises(ValueError, match=r"`r_max` must be at least 1, received r_max=0\.5"):
        layer(np.ones((4, 3), "f4"), domain=[0, 1, 0, 1], training=True)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("kind", ["domain", "shared"])
def test_adaptive_limits_by_domain(rng, kind, jit):
    """A domain sees what a layer of its own would see; shared statistics have one state."""
    limits = {"r_max": schedules.Adaptive(3.0), "d_max": schedules.Adaptive(5.0)}
    layer = layers.DomainBatchRenormalization(
        2, momentum=0.9, batch_statistics=kind, population_statistics=kind, **limits
    )
    alone = layers.BatchRenormalization(momentum=0.9, **limits)
    for each in (layer, alone):
        each.build((None, 4))
    step = tf.function(lambda x, k: layer(x, training=True, domain=k), jit_compile=jit)
    ids = tf.constant([0, 1] * 8)
    for _ in range(20):
        x = rng.normal(rng.normal(0, 1, 4), rng.uniform(0.5, 2, 4), (16, 4)).astype("f4")
        own = x[1::2] if kind == "domain" else x
        y, desired = step(tf.constant(x), ids), alone(own, training=True)
        actual = y[1::2] if kind == "domain" else y
        np.testing.assert_allclose(actual, desired, atol=1e-3)
    assert layer.current_limits(1) == pytest.approx(alone.current_limits(), rel=1e-3)
    assert layer.current_limits(1).d_max > 0.5
    before = layer.get_weights()
    if kind == "domain":
        step(tf.constant(x), tf.zeros(16, "int32"))  # the other domain alone
        for actual, desired in zip(layer.get_weights()[2:], before[2:], strict=True):
            np.testing.assert_array_equal(actual[1], desired[1])
    plain = layers.DomainBatchNormalization(2, batch_statistics=kind, population_statistics=kind)
    plain.build((None, 4))
    plain.moving_mean.assign(plain.moving_mean + 1)
    layer.set_weights(plain.get_weights())
    assert layer.current_limits() == (1.0, 0.0)
    step(tf.constant(x), ids)
    np.testing.assert_array_equal(layer.seen[..., 0], np.ones(layer.seen.shape[:-1]))
