import copy
import pickle

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import layers, schedules
from keras_renorm.ops import Moments, Moving, reference
from keras_renorm.ops.maths import adaptive
from keras_renorm.ops.maths.scatter import among_ghosts
from zoo.data import datasets

EPSILON = 1e-3
PAPER = {"r_max": schedules.PAPER_R_MAX, "d_max": schedules.PAPER_D_MAX}


def trained_step(layer, x, dy):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    return y, tape.gradient(y, [x, layer.gamma, layer.beta], output_gradients=dy)


def assert_close(actual, desired, rtol=1e-5):
    desired = np.asarray(desired)
    np.testing.assert_allclose(actual, desired, rtol=0, atol=rtol * np.abs(desired).max())


@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
def test_200_steps_of_a_ramp_equal_the_reference(rng, mode):
    r_max, d_max = schedules.LinearRamp(1, 3, 20, 150), schedules.LinearRamp(0, 5, 20, 100)
    layer = layers.BatchRenormalization(momentum=0.95, r_max=r_max, d_max=d_max)
    layer.build((6, 5, 4))
    gamma, beta = rng.normal(1.0, 0.3, 4).astype("f4"), rng.normal(size=4).astype("f4")
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    run = trained_step if mode == "eager" else tf.function(trained_step, jit_compile=mode == "jit")
    mu, sigma = np.zeros(4), np.full(4, np.sqrt(1 + EPSILON))
    clipped = []
    for i in range(200):
        # Minibatches whose moments jump about, so that the limits bind in many of them.
        x = rng.normal(rng.normal(0, 3, 4), rng.uniform(0.2, 6, 4), (6, 5, 4)).astype("f4")
        dy = rng.normal(size=x.shape).astype("f4")
        limits = {
            "r_max": 1 + 2 * np.clip((i - 20) / 130, 0, 1),
            "d_max": 5 * np.clip((i - 20) / 80, 0, 1),
        }
        step = reference.forward(x, gamma, beta, mu, sigma, **limits, alpha=0.05, epsilon=EPSILON)
        desired = reference.backward(dy, x, gamma, step)
        assert layer.current_limits() == pytest.approx(tuple(limits.values()), rel=1e-5)
        y, gradients = run(layer, tf.constant(x), tf.constant(dy))
        assert_close(y, step.y)
        for actual, gradient in zip(gradients, desired, strict=True):
            assert_close(actual, gradient)
        mu, sigma = step.mu, step.sigma
        assert_close(layer.moving_mean, mu)
        assert_close(np.sqrt(layer.moving_variance.numpy() + EPSILON), sigma)
        clipped.append(np.mean((step.r == limits["r_max"]) | (np.abs(step.d) == limits["d_max"])))
    # The case is a fair one: some steps clip, others do not.
    assert min(clipped[20:]) == 0
    assert max(clipped[20:]) > 0.4


@pytest.mark.parametrize("jit", [False, True])
def test_limits_of_one_and_zero_are_batch_normalization_to_the_bit(rng, jit):
    plain = layers.BatchNormalization()
    renorm = layers.BatchRenormalization(r_max=1.0, d_max=0.0)
    scheduled = layers.BatchRenormalization(**PAPER)  # 1 and 0 for 5,000 steps
    for layer in (plain, renorm, scheduled):
        layer.build((6, 5, 4))
    steps = {
        layer: tf.function(trained_step, jit_compile=jit) for layer in (plain, renorm, scheduled)
    }
    for _ in range(10):
        x = tf.constant(rng.normal(1.0, 2.0, (6, 5, 4)), "float32")
        dy = tf.constant(rng.normal(size=x.shape), "float32")
        desired = tf.nest.flatten(steps[plain](plain, x, dy))
        for layer in (renorm, scheduled):
            for a, b in zip(tf.nest.flatten(steps[layer](layer, x, dy)), desired, strict=True):
                np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(renorm.moving_mean, plain.moving_mean)


@pytest.mark.parametrize("lowering", ["native", "composite"])
def test_every_ghost_trains_as_inference_normalises_when_nothing_clips(rng, lowering, monkeypatch):
    """y = gamma * (x - mu) / sigma + beta in each ghost, from the first step on (not in tf_keras).

    So the output does not depend on how the minibatch is cut.
    """
    monkeypatch.setenv("KERAS_RENORM_LOWERING", lowering)
    layer = layers.BatchRenormalization(
        r_max=float("inf"), d_max=float("inf"), momentum=0.8, virtual_batch_size=3
    )
    layer.build((None, 5, 4))
    gamma, beta = rng.normal(1.0, 0.3, 4).astype("f4"), rng.normal(size=4).astype("f4")
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    mu, sigma = np.zeros(4), np.full(4, np.sqrt(1 + EPSILON))
    for _ in range(5):
        # Each example, and so each ghost, has a mean and a deviation of its own.
        x = rng.normal(rng.normal(0, 3, (8, 1, 4)), rng.uniform(0.2, 6, (8, 1, 4)), (8, 5, 4))
        x = x.astype("f4")
        assert_close(layer(x, training=True), gamma * (x - mu) / sigma + beta)
        ghosts = [x[:3], x[3:6], x[6:]]
        moments = [reference.moments(ghost)[:2] for ghost in ghosts]
        weights = np.array([3, 3, 2])[:, None] / 8
        means = np.array([mean for mean, _ in moments])
        sigmas = np.sqrt(np.array([variance for _, variance in moments]) + EPSILON)
        mu = 0.8 * mu + 0.2 * (weights * means).sum(0)
        sigma = 0.8 * sigma + 0.2 * (weights * sigmas).sum(0)
        assert_close(layer.moving_mean, mu)
        assert_close(np.sqrt(layer.moving_variance.numpy() + EPSILON), sigma)


def test_each_ghost_is_clipped_by_itself(rng):
    layer = layers.BatchRenormalization(r_max=1.5, d_max=0.5, virtual_batch_size=2)
    x = rng.normal(rng.normal(0, 3, (8, 1, 4)), rng.uniform(0.2, 6, (8, 1, 4)), (8, 5, 4))
    y = layer(x.astype("f4"), training=True)
    clipped = []
    for i in range(0, 8, 2):
        step = reference.forward(
            x[i : i + 2],
            1,
            0,
            0,
            np.sqrt(1 + EPSILON),
            r_max=1.5,
            d_max=0.5,
            alpha=0.01,
            epsilon=EPSILON,
        )
        assert_close(y[i : i + 2], step.y)
        clipped.append(np.mean(np.abs(step.d) == 0.5))
    assert min(clipped) < max(clipped)


def test_a_schedule_counts_a_minibatch_of_ghosts_once(rng):
    layer = layers.BatchRenormalization(virtual_batch_size=2, **PAPER)
    layer(rng.normal(size=(7, 3)).astype("f4"), training=True)
    assert int(layer.update_count.numpy()) == 1


def test_weights_of_a_keras_layer_load_as_they_are(rng):
    theirs = keras.layers.BatchNormalization()
    theirs.build((None, 5))
    weights = [rng.uniform(0.5, 2.0, 5).astype("f4") for _ in range(4)]
    theirs.set_weights(weights)
    x = rng.normal(size=(16, 5)).astype("f4")
    for options in (PAPER, {"r_max": 3.0, "d_max": 5.0}):
        layer = layers.BatchRenormalization(**options)
        layer.build((None, 5))
        layer.set_weights(theirs.get_weights())
        np.testing.assert_allclose(layer(x), theirs(x), atol=1e-6)
    # Training goes on from the loaded variance (Keras's renorm rebuilds it).
    sigma = np.sqrt(weights[3] + EPSILON)
    step = reference.forward(x, *weights[:3], sigma, r_max=3, d_max=5, alpha=0.01, epsilon=EPSILON)
    assert_close(layer(x, training=True), step.y)
    assert_close(layer.moving_variance, step.sigma**2 - EPSILON)


def test_a_file_without_a_counter_loads(rng, tmp_path):
    fixed, scheduled = (
        keras.Sequential([keras.Input((5,)), layers.BatchRenormalization(**options)])
        for options in ({"r_max": 3.0, "d_max": 5.0}, PAPER)
    )
    fixed(rng.normal(size=(16, 5)), training=True)
    fixed.save_weights(tmp_path / "fixed.weights.h5")
    scheduled.load_weights(tmp_path / "fixed.weights.h5")
    for actual, desired in zip(scheduled.get_weights()[:4], fixed.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, desired)
    assert scheduled.layers[0].current_limits() == (1.0, 0.0)


def test_a_counter_is_left_out_where_the_limits_are_fixed(rng, tmp_path):
    scheduled, fixed = (
        keras.Sequential([keras.Input((5,)), layers.BatchRenormalization(**options)])
        for options in (PAPER, {"r_max": 3.0, "d_max": 5.0})
    )
    scheduled(rng.normal(size=(16, 5)), training=True)
    scheduled.save_weights(tmp_path / "scheduled.weights.h5")
    fixed.load_weights(tmp_path / "scheduled.weights.h5")
    for actual, desired in zip(fixed.get_weights(), scheduled.get_weights()[:4], strict=True):
        np.testing.assert_array_equal(actual, desired)
    fixed.layers[0].set_weights(scheduled.layers[0].get_weights())


NETS = {
    "default": layers.BatchRenormalization,
    "schedule": lambda **options: layers.BatchRenormalization(**PAPER, **options),
    "fixed": lambda **options: layers.BatchRenormalization(r_max=3.0, d_max=5.0, **options),
}


def deep(norm):
    """A net with norms in a list, in a model within, and in an attribute."""
    inner = keras.Sequential([keras.Input((5,)), norm(), norm()])
    around = keras.layers.TimeDistributed(norm())
    top = [keras.Input((2, 5)), norm(), keras.layers.TimeDistributed(inner), around, norm()]
    return keras.Sequential(top)


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
@pytest.mark.parametrize("norm", [keras.layers.BatchNormalization, layers.BatchNormalization])
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".h5", "get_weights"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_weights_of_a_batch_norm_net_fit_in_every_form(rng, tmp_path, make, norm, suffix):
    if suffix == ".h5":  # this format has one level
        theirs, ours = (
            keras.Sequential([keras.Input((5,)), kind(), keras.layers.Dense(5), kind()])
            for kind in (norm, make)
        )
    else:
        theirs, ours = deep(norm), deep(make)
    ours.build(ours.input_shape)
    shape = (8, *theirs.input_shape[1:])
    theirs(rng.normal(2.0, 3.0, shape).astype("f4"), training=True)
    for weight in theirs.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    path = tmp_path / f"net{suffix}"
    if suffix == "get_weights":
        ours.set_weights(theirs.get_weights())
    else:
        (theirs.save_weights if suffix == ".weights.h5" else theirs.save)(path)
        ours.load_weights(path)
    for actual, desired in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, desired)
    x = rng.normal(2.0, 3.0, shape).astype("f4")
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    # The first minibatch does not replace the statistics.
    before, norm = np.array(ours.layers[0].moving_mean), ours.layers[0]
    ours(x, training=True)
    np.testing.assert_allclose(norm.moving_mean, before, atol=0.05)


def norms_in_a_row(*kinds, **names):
    return keras.Sequential([keras.Input((5,)), *(kind(**names) for kind in kinds)])


@pytest.fixture
def batch_norms(rng, tmp_path):
    """Weights of three batch norms, and the file that holds them."""
    model = norms_in_a_row(*[keras.layers.BatchNormalization] * 3)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    model.save_weights(tmp_path / "net.weights.h5")
    return model.get_weights(), tmp_path / "net.weights.h5"


_STAYING = [keras.layers.BatchNormalization, layers.BatchNormalization]


@pytest.mark.parametrize("staying", _STAYING)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_norms_of_a_file_load_after_norms_that_stay(batch_norms, staying, number):
    values, path = batch_norms
    kinds = [staying] * number + [layers.BatchRenormalization] * (3 - number)
    model = norms_in_a_row(*kinds)
    model.load_weights(path)
    for actual, desired in zip(model.get_weights(), values, strict=True):
        np.testing.assert_array_equal(actual, desired)


@pytest.mark.parametrize("staying", _STAYING)
def test_norms_of_a_file_that_keras_would_mistake_are_named(batch_norms, staying):
    model = norms_in_a_row(staying, layers.BatchRenormalization, staying)
    with pytest.raises(ValueError, match=r"takes the weights of other norms for \w+\. Load"):
        model.load_weights(batch_norms[1])


def test_a_name_tells_which_batch_norm_of_a_file_is_meant(rng, tmp_path):
    theirs = norms_in_a_row(*[keras.layers.BatchNormalization] * 2)
    theirs.layers[1].name = "second"
    theirs.layers[1].set_weights([rng.normal(size=5) for _ in range(4)])
    theirs.save_weights(tmp_path / "net.weights.h5")
    ours = norms_in_a_row(layers.BatchRenormalization, name="second")
    ours.load_weights(tmp_path / "net.weights.h5")
    for actual, desired in zip(ours.get_weights(), theirs.layers[1].get_weights(), strict=True):
        np.testing.assert_array_equal(actual, desired)


def test_a_file_of_bfloat16_batch_norms_loads(rng, tmp_path):
    theirs, ours = (
        keras.Sequential([keras.Input((5,)), kind(dtype="bfloat16")])
        for kind in (keras.layers.BatchNormalization, layers.BatchRenormalization)
    )
    theirs.layers[0].gamma.assign(rng.normal(size=5))
    theirs.save_weights(tmp_path / "net.weights.h5")
    ours.load_weights(tmp_path / "net.weights.h5")
    for actual, desired in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(actual.astype("f4"), desired.astype("f4"))


def test_a_file_without_norms_names_the_way_to_other_weights(tmp_path):
    dense = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5)])
    dense.save_weights(tmp_path / "dense.weights.h5")
    model = keras.Sequential([keras.Input((5,)), layers.BatchRenormalization(name="norm")])
    with pytest.raises(
        ValueError,
        match=r"layer 'norm', nor a batch norm in its place.*model\.set_weights\(other_model.get_w",
    ):
        model.load_weights(tmp_path / "dense.weights.h5")


def test_limits_before_the_layer_is_built():
    assert layers.BatchRenormalization().current_limits() == (1.0, 0.0)


def test_keras_arguments_with_renorm():
    theirs = keras.layers.BatchNormalization(
        renorm=True, renorm_clipping={"rmax": 3.0, "dmax": 5.0}, axis=1
    )
    ours = layers.BatchRenormalization.from_config(theirs.get_config())
    assert (ours.r_max, ours.d_max, ours.axis) == (3.0, 5.0, 1)
    plain = keras.layers.BatchNormalization().get_config()
    assert layers.BatchRenormalization.from_config(plain).r_max == schedules.Adaptive(3.0)


def test_weights_of_another_number_are_refused():
    layer = layers.BatchRenormalization()
    layer.build((None, 3))
    with pytest.raises(ValueError, match="weight list of length 3"):
        layer.set_weights([np.zeros(3)] * 3)
    bare = layers.BatchRenormalization(center=False, scale=False)
    bare.build((None, 3))
    with pytest.raises(ValueError, match=r"weight list of length 4, .* expecting 2 weights"):
        bare.set_weights([np.full(3, 7.0)] * 4)
    np.testing.assert_array_equal(bare.get_weights(), [np.zeros(3), np.ones(3)])


@pytest.mark.parametrize("counts", [True, False])
def test_an_activation_with_weights_is_saved_beside_the_counter(rng, tmp_path, counts):
    def model(counts):
        limits = PAPER if counts else {"r_max": 2.0, "d_max": 1.0}
        norm = layers.BatchRenormalization(activation=keras.layers.PReLU(), **limits)
        return keras.Sequential([keras.Input((3,)), norm])

    saved = model(counts)
    norm = saved.layers[0]
    norm(rng.normal(size=(8, 3)), training=True)
    norm.activation.alpha.assign([0.1, 0.2, 0.3])
    vectors = [norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance]
    saved.save(tmp_path / "model.keras")
    saved.save_weights(tmp_path / "model.weights.h5")
    loaded = [keras.saving.load_model(tmp_path / "model.keras"), copy.deepcopy(saved)]
    for other in (model(True), model(False)):
        other.load_weights(tmp_path / "model.weights.h5")
        given = model(other.layers[0].update_count is not None)
        given.layers[0].set_weights([np.array(variable) for variable in norm.variables])
        loaded += [other, given]
    for found in (part.layers[0] for part in loaded):
        np.testing.assert_array_equal(found.activation.alpha, norm.activation.alpha)
        owned = [found.gamma, found.beta, found.moving_mean, found.moving_variance]
        for actual, desired in zip(owned, vectors, strict=True):
            np.testing.assert_array_equal(actual, desired)
        if found.update_count is not None:
            assert int(found.update_count) == counts


def test_four_weights_with_fixed_limits_and_a_counter_with_a_schedule():
    fixed, scheduled = (
        layers.BatchRenormalization(r_max=2.0, d_max=1),
        layers.BatchRenormalization(**PAPER),
    )
    names = ["gamma", "beta", "moving_mean", "moving_variance"]
    for layer, expected in ((fixed, names), (scheduled, [*names, "update_count"])):
        layer.build((None, 3))
        assert [w.name for w in layer.weights] == names
        assert [w.name for w in layer.variables] == expected
    assert scheduled.update_count.dtype == "float32"
    assert fixed.current_limits() == layers.RenormLimits(r_max=2.0, d_max=1.0)


def test_limits_for_a_number_of_steps():
    layer = layers.BatchRenormalization(num_steps=2_000, momentum=0.9)
    assert (layer.r_max, layer.d_max) == schedules.paper(2_000, momentum=0.9)
    assert "num_steps" not in layer.get_config()
    copy = layers.BatchRenormalization.from_config(layer.get_config())
    assert (copy.r_max, copy.d_max) == (layer.r_max, layer.d_max)
    domains = layers.DomainBatchRenormalization(2, num_steps=130_000)
    assert domains.r_max == schedules.PAPER_R_MAX
    with pytest.warns(UserWarning, match="A run of 400 steps is short for the paper's limits"):
        layers.BatchRenormalization(num_steps=400)
    with pytest.raises(ValueError, match=r"Give either `num_steps` .*received num_steps=9, renorm"):
        layers.BatchRenormalization(num_steps=9, d_max=2.0)


def test_a_count_ends_at_the_last_number_that_float32_counts_to(rng):
    ramp = schedules.LinearRamp(1.0, 3.0, start_step=2**24 - 4, end_step=2**24)
    layer = layers.BatchRenormalization(r_max=ramp, d_max=1.0)
    layer.build((None, 3))
    layer.update_count.assign(2**24 - 2)
    found = []
    for _ in range(4):
        found.append((int(layer.update_count), layer.current_limits().r_max))
        layer(rng.normal(size=(8, 3)), training=True)
    assert found == [(2**24 - 2, 2.0), (2**24 - 1, 2.5), (2**24, 3.0), (2**24, 3.0)]


def test_files_with_an_integer_counter_load(rng, tmp_path):
    made = [keras.Sequential([keras.Input((4,)), layers.BatchRenormalization(**PAPER)])] * 2
    made[1] = keras.models.clone_model(made[0])
    made[0](rng.normal(size=(8, 4)), training=True)
    made[0].save_weights(tmp_path / "old.weights.h5")
    with h5py.File(tmp_path / "old.weights.h5", "a") as file:
        group = file["layers/batch_renormalization/vars"]
        del group["4"]
        group["4"] = np.int32(20_000_001)  # no float32
    made[1].load_weights(tmp_path / "old.weights.h5")
    assert int(made[1].layers[0].update_count) == 20_000_000


def test_a_schedule_goes_on_after_saving(rng, tmp_path):
    ramp = schedules.LinearRamp(1.0, 3.0, start_step=4, end_step=24)
    layer = layers.BatchRenormalization(r_max=ramp, d_max=2.0, name="norm")
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = rng.normal(size=(28, 4)), rng.normal(size=(28, 1))
    model.fit(x, y, batch_size=2, epochs=1, verbose=0)
    assert layer.current_limits() == pytest.approx((2.0, 2.0))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fresh = keras.models.clone_model(model)
    assert fresh.get_layer("norm").current_limits() == (1.0, 2.0)
    fresh.load_weights(tmp_path / "model.weights.h5")
    for other in (loaded, fresh):
        assert other.get_layer("norm").current_limits() == layer.current_limits()
        np.testing.assert_array_equal(other.predict(x, verbose=0), model.predict(x, verbose=0))


@keras.saving.register_keras_serializable("batch_renormalization_test")
class Step(schedules.Schedule):
    def __init__(self, value, at_step):
        self.value, self.at_step = value, at_step

    def __call__(self, step):
        return keras.ops.where(step < self.at_step, 1.0, self.value)

    def get_config(self):
        return {"value": self.value, "at_step": self.at_step}


def test_a_users_own_schedule(rng, tmp_path):
    layer = layers.BatchRenormalization(r_max=Step(2.5, at_step=3), d_max=0.0)
    model = keras.Sequential([keras.Input((4,)), layer])
    limits = []
    for _ in range(5):
        limits.append(layer.current_limits().r_max)
        model(rng.normal(size=(8, 4)), training=True)
    assert limits == [1.0, 1.0, 1.0, 2.5, 2.5]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].r_max == Step(2.5, at_step=3)
    assert loaded.layers[0].current_limits() == (2.5, 0.0)


def test_only_updates_advance_the_schedule(rng):
    layer = layers.BatchRenormalization(**PAPER)
    x = rng.normal(size=(4, 3)).astype("f4")
    counts = []
    for batch, training in ((x, True), (x[:0], True), (x, False), (x, True)):
        layer(batch, training=training)
        counts.append(int(layer.update_count.numpy()))
    layer.trainable = False
    layer(x, training=True)
    assert [*counts, int(layer.update_count.numpy())] == [1, 1, 1, 2, 2]


def test_examples_do_not_depend_on_their_minibatch_when_nothing_clips(rng):
    layer = layers.BatchRenormalization(r_max=float("inf"), d_max=float("inf"), momentum=1.0)
    x = rng.normal(2.0, 3.0, (32, 4)).astype("f4")
    whole = layer(x, training=True)
    parts = tf.concat([layer(part, training=True) for part in np.split(x, 16)], 0)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    np.testing.assert_allclose(layer(x), whole, atol=1e-5)


def test_keras_clipping():
    layer = layers.BatchRenormalization(renorm_clipping={"rmax": 3, "rmin": 1 / 3, "dmax": 5})
    assert layer.current_limits() == (3.0, 5.0)
    assert layers.BatchRenormalization(renorm_clipping={}).r_max == float("inf")
    assert set(layer.get_config()) == {"name", "trainable", "dtype", "r_max", "d_max"}


BAD_ARGUMENTS = {
    "r_max": ({"r_max": 0.5}, "`r_max` must be at least 1, received r_max=0.5"),
    "d_max": ({"d_max": -1}, "`d_max` must be at least 0, received d_max=-1"),
    "r_max ramp": (
        {"r_max": schedules.LinearRamp(0, 3, 0, 10)},
        "`r_max` must be at least 1 at every step",
    ),
    "type": ({"r_max": "3"}, "`r_max` must be a number or a schedule.*received '3' of type str"),
    "unknown key": (
        {"renorm_clipping": {"r_max": 3}},
        r"`renorm_clipping` has unknown keys \['r_max'\].*Allowed are \['rmax', 'rmin', 'dmax'\]",
    ),
    "clipping type": (
        {"renorm_clipping": 3},
        "`renorm_clipping` must be a dictionary .* received 3 of type int",
    ),
    "clipping keys": ({"renorm_clipping": {1: 2, "a": 3}}, r"unknown keys \[1, 'a'\]"),
    "renorm_momentum": ({"renorm_momentum": 0.5}, "`renorm_momentum` must equal `momentum`"),
    "rmin": ({"renorm_clipping": {"rmax": 3, "rmin": 0.1}}, "`rmin` must be 1 / rmax = 0.333333"),
    "rmax": ({"renorm_clipping": {"rmax": 0.5}}, "`rmax` must be at least 1"),
    "dmax": ({"renorm_clipping": {"dmax": -1}}, "`dmax` must be at least 0"),
    "both": (
        {"renorm_clipping": {"rmax": 3}, "r_max": 2.0},
        "Give either `num_steps` or `renorm_clipping` or `r_max` and `d_max`",
    ),
}


@pytest.mark.parametrize(("options", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_named(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        layers.BatchRenormalization(**options)


def test_trains_where_minibatches_hold_one_class_each(rng):
    """What the layer is for: two classes that minibatches never mix."""
    centres = np.array([[0.0] * 4, [3.0] * 4])
    x_test = np.concatenate([centre + rng.normal(size=(200, 4)) for centre in centres])
    y_test = np.repeat([0, 1], 200)
    accuracy = {}
    for name, norm in {
        "renorm": layers.BatchRenormalization(
            momentum=0.95,
            r_max=schedules.LinearRamp(1, 3, 20, 60),
            d_max=schedules.LinearRamp(0, 5, 20, 60),
        ),
        "plain": layers.BatchNormalization(momentum=0.95),
    }.items():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(2)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"])
        draws = np.random.default_rng(1)
        for i in range(300):
            batch = centres[i % 2] + draws.normal(size=(16, 4))
            model.train_on_batch(batch, np.full(16, i % 2))
        accuracy[name] = model.evaluate(x_test, y_test, verbose=0)[1]
    assert accuracy["renorm"] > 0.95
    assert accuracy["plain"] < 0.8


class WithUnusedNorm(keras.Model):
    """A model that is built and has a norm that is not."""

    def __init__(self, norm):
        super().__init__()
        self.dense, self.norm = keras.layers.Dense(3), norm

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    "options", [{}, PAPER, {"r_max": 3.0, "d_max": 5.0}], ids=["adaptive", "ramps", "fixed"]
)
@pytest.mark.parametrize(
    "make",
    [layers.BatchRenormalization, lambda **k: layers.DomainBatchRenormalization(2, **k)],
    ids=["one domain", "domains"],
)
def test_layers_that_are_not_built_are_copied_and_loaded(tmp_path, make, options):
    """Saved are no weights, which those of a batch norm are not."""
    for again in (copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))):
        layer = again(make(**options))
        assert layer.get_config()["r_max"] == make(**options).get_config()["r_max"]
        assert not layer.built
    model = WithUnusedNorm(make(**options))
    x = np.ones((2, 3), "f4")
    y = model(x)
    model.save_weights(tmp_path / "model.weights.h5")
    other = WithUnusedNorm(make(**options))
    other.build(x.shape)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other(x), y)


def test_a_tensor_below_the_least_limit_counts_as_that_and_is_shown_so():
    class Line(schedules.Schedule):
        def __init__(self, slope):
            self.slope = slope

        def __call__(self, step):
            return self.slope * keras.ops.cast(step, "float32")

        def get_config(self):
            return {"slope": self.slope}

    for slope, shown in ((-1.0, [1.0, 0.0]), (np.nan, [np.nan, np.nan])):
        layer = layers.BatchRenormalization(r_max=Line(slope), d_max=Line(slope))
        layer(np.ones((4, 3), "f4"), training=True)
        np.testing.assert_array_equal(layer.current_limits(), shown)


RENORMS = {
    "plain": layers.BatchRenormalization,
    "domains": lambda **options: layers.DomainBatchRenormalization(2, **options),
}
every_renorm = pytest.mark.parametrize("make", RENORMS.values(), ids=RENORMS)


def call_of(layer, x):
    options = {} if not hasattr(layer, "num_domains") else {"domain": [0, 1] * (x.shape[0] // 2)}
    return layer(x, training=True, **options)


@every_renorm
def test_numbers_assigned_after_building_take_effect(rng, make):
    x = rng.normal(5.0, 2.0, (8, 3)).astype("f4")
    changed, made = make(r_max=1.0, d_max=0.0), make(r_max=3.0, d_max=5.0)
    for layer in (changed, made):
        layer.build(x.shape)
    changed.r_max, changed.d_max = 3, 5.0
    assert changed.current_limits() == made.current_limits() == (3.0, 5.0)
    np.testing.assert_array_equal(call_of(changed, x), call_of(made, x))
    assert changed.get_config() == made.get_config() | {"name": changed.name}
    with pytest.raises(ValueError, match=r"`r_max` must be at least 1, received r_max=0\.5"):
        changed.r_max = 0.5
    assert changed.r_max == 3.0


@every_renorm
def test_a_schedule_assigned_where_nothing_counts_is_refused(rng, make):
    ramp = schedules.LinearRamp(1.0, 3.0, start_step=1, end_step=3)
    layer = make(r_max=1.0, d_max=0.0, name="norm")
    layer.d_max = 1.0
    layer.build((None, 3))
    for value in (ramp, schedules.serialize(ramp)):
        with pytest.raises(ValueError, match=r"`r_max` of the layer .norm. must be a number.*Make"):
            layer.r_max = value
    assert layer.r_max == 1.0


@every_renorm
def test_a_schedule_assigned_where_updates_are_counted_takes_effect(rng, make):
    ramp = schedules.LinearRamp(0.0, 2.0, start_step=1, end_step=3)
    layer = make(r_max=1.0, d_max=0.0)
    layer.r_max = schedules.PAPER_R_MAX  # before it is built
    x = rng.normal(5.0, 2.0, (8, 3)).astype("f4")
    call_of(layer, x)
    layer.d_max = ramp
    call_of(layer, x)
    assert layer.current_limits() == (1.0, 1.0)
    layer.r_max, layer.d_max = 2.0, 3.0  # fixed from now on
    call_of(layer, x)
    assert layer.current_limits() == (2.0, 3.0)
    np.testing.assert_array_equal(np.unique(layer.update_count), [3])


@every_renorm
def test_no_limit_is_no_infinity_in_the_graph(rng, make):
    layer = make(r_max=float("inf"), d_max=float("inf"))
    x = rng.normal(5.0, 2.0, (8, 3)).astype("f4")
    layer.build(x.shape)
    assert layer.current_limits() == (float("inf"), float("inf"))
    tf.debugging.enable_check_numerics()
    try:
        y = tf.function(lambda x: call_of(layer, x), autograph=False)(x)
    finally:
        tf.debugging.disable_check_numerics()
    np.testing.assert_allclose(y, x / np.sqrt(1.001), rtol=1e-4)


ADAPTIVE = {"r_max": schedules.Adaptive(3.0), "d_max": schedules.Adaptive(5.0)}


def uneven(rng, shape=(8, 4)):
    """A minibatch with a mean and a deviation of its own."""
    channels = shape[-1]
    x = rng.normal(rng.normal(0, 1, channels), rng.uniform(0.5, 2, channels), shape)
    return x.astype("f4")


@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
def test_adaptive_limits_follow_what_the_layer_sees(rng, mode):
    layer = layers.BatchRenormalization(momentum=0.9, **ADAPTIVE)
    layer.build((8, 4))
    run = trained_step if mode == "eager" else tf.function(trained_step, jit_compile=mode == "jit")
    state = adaptive.State(tf.zeros((adaptive.ROWS, 4)), tf.zeros(2))
    moving = Moving(tf.zeros(4), tf.ones(4), 1.0)
    for _ in range(30):
        x, dy = uneven(rng), uneven(rng)
        r_max, d_max = (float(limit) for limit in adaptive.limits(state))
        limits = {"r_max": min(r_max, 3.0), "d_max": min(d_max, 5.0)}
        assert layer.current_limits() == pytest.approx(tuple(limits.values()), abs=1e-4)
        mu, sigma = moving.mean.numpy(), np.sqrt(moving.variance.numpy() + EPSILON)
        step = reference.forward(x, 1, 0, mu, sigma, **limits, alpha=0.1, epsilon=EPSILON)
        y, _ = run(layer, tf.constant(x), tf.constant(dy))
        assert_close(y, step.y, rtol=1e-4)
        mean, variance, _ = reference.moments(x)
        batch = Moving(tf.constant(mean, "float32"), tf.constant(variance, "float32"), tf.ones(()))
        state, moving = adaptive.advance(state, *moving[:2], batch, momentum=0.9, epsilon=EPSILON)
        assert_close(layer.moving_mean, moving.mean)
        assert_close(layer.moving_variance, moving.variance)
        assert_close(layer.deviations, state.deviations, rtol=1e-4)
    assert min(limits.values()) > 1.2


@pytest.mark.parametrize(("ghosts", "masked"), [(1, False), (1, True), (3, False), (3, True)])
def test_steps_are_those_of_the_rules_specification_in_float64(specification, rng, ghosts, masked):
    """Ghosts of equal sizes, as the specification has them."""
    size = None if ghosts == 1 else 5
    layer = layers.BatchRenormalization(momentum=0.9, virtual_batch_size=size, **ADAPTIVE)
    call = tf.function(lambda x, mask: layer(x, training=True, mask=mask))
    desired, channels = specification(6, 0.9), rng.uniform(-2, 2, 6)
    mask = np.array([[True, False, True, True, True]] * 3) if masked else np.ones((3, 5), bool)
    for _ in range(40):
        x = (channels + rng.normal(0, 0.4, 6) + rng.normal(0, 1, (3, 5, 6))).astype("f4")
        parts = np.float64(x)[mask].reshape(ghosts, -1, 6)
        mu, sigma = parts.mean(1), np.sqrt(parts.var(1) + EPSILON)
        r_max, d_max = np.minimum(desired.limits(), [3.0, 5.0])
        np.testing.assert_allclose(layer.current_limits(), (r_max, d_max), rtol=2e-3, atol=2e-3)
        r = np.clip(sigma / desired.sigma, 1 / r_max, r_max)
        d = np.clip((mu - desired.mu) / desired.sigma, -d_max, d_max)
        wanted = (parts - mu[:, None]) / sigma[:, None] * r[:, None] + d[:, None]
        y = call(x.reshape(15, 6), mask.reshape(15) if masked else None)
        found = np.array(y).reshape(3, 5, 6)[mask].reshape(wanted.shape)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-3)
        desired.advance(mu, sigma)
    assert_close(layer.moving_mean, desired.mu, rtol=1e-4)
    assert_close(np.sqrt(layer.moving_variance + EPSILON), desired.sigma, rtol=1e-4)
    assert min(r_max - 1, d_max) > 0.1


def test_adaptive_limits_go_on_after_saving(rng, tmp_path):
    layer = layers.BatchRenormalization(momentum=0.9, name="norm", **ADAPTIVE)
    model = keras.Sequential([keras.Input((4,)), layer])
    for _ in range(20):
        model(uneven(rng), training=True)
    names = ["gamma", "beta", "moving_mean", "moving_variance", "deviations", "seen"]
    assert [w.name for w in layer.variables] == names
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fresh = keras.models.clone_model(model)
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert layer.current_limits().d_max > 1
    x = uneven(rng)
    y = model(x, training=True)
    for other in (loaded, fresh):
        assert other.layers[0].r_max == ADAPTIVE["r_max"]
        np.testing.assert_array_equal(other(x, training=True), y)
        assert other.layers[0].current_limits() == layer.current_limits()


OTHERS = {
    "batch norm": layers.BatchNormalization,
    "fixed": lambda: layers.BatchRenormalization(r_max=3.0, d_max=5.0),
    "schedule": lambda: layers.BatchRenormalization(**PAPER),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("rows", [0, 8])
def test_weights_of_other_limits_count_in_full_unless_they_are_initial(rng, make, rows):
    other, layer = make(), layers.BatchRenormalization(**ADAPTIVE)
    other.build((None, 4))
    layer.build((None, 4))
    for _ in range(3):
        other(uneven(rng, (rows, 4)), training=True)
        layer(uneven(rng), training=True)
    layer.set_weights(other.get_weights())
    np.testing.assert_array_equal(layer.seen, [0.0, 0.0])
    np.testing.assert_array_equal(layer.deviations, np.zeros((adaptive.ROWS, 4)))
    np.testing.assert_array_equal(layer.moving_mean, other.moving_mean)
    assert layer.current_limits() == (1.0, 0.0)
    layer(uneven(rng), training=True)
    np.testing.assert_allclose(layer.seen, [1.0 if rows else 0.01, 0.01], rtol=1e-5)
    if isinstance(other, layers.BatchRenormalization):
        layer(uneven(rng), training=True)
        other.set_weights(layer.get_weights())
        np.testing.assert_array_equal(layer.moving_mean, other.moving_mean)


@pytest.mark.parametrize("make", list(OTHERS.values())[1:], ids=list(OTHERS)[1:])
def test_files_of_other_limits_load(rng, tmp_path, make):
    other, own = (
        keras.Sequential([keras.Input((4,)), layer])
        for layer in (make(), layers.BatchRenormalization(**ADAPTIVE))
    )
    for source, target in ((other, own), (own, other)):
        source(uneven(rng), training=True)
        source.save_weights(tmp_path / "model.weights.h5")
        target.load_weights(tmp_path / "model.weights.h5")
        for a, b in zip(target.get_weights()[:4], source.get_weights()[:4], strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(own.layers[0].seen, [1.0, 0.01], rtol=1e-5)


def test_minibatches_without_positions_leave_adaptive_limits_as_they_are(rng):
    layer = layers.BatchRenormalization(momentum=0.9, **ADAPTIVE)
    for _ in range(5):
        layer(uneven(rng), training=True)
    desired = [np.array(variable) for variable in layer.variables]
    layer(uneven(rng)[:0], training=True)
    layer(uneven(rng), training=True, mask=np.zeros(8, bool))
    layer(uneven(rng))
    layer.trainable = False
    layer(uneven(rng), training=True)
    for actual, value in zip(layer.variables, desired, strict=True):
        np.testing.assert_array_equal(actual, value)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_without_an_average_adaptive_limits_are_batch_normalization(rng, momentum):
    layer = layers.BatchRenormalization(momentum=momentum, **ADAPTIVE)
    for _ in range(5):
        layer(uneven(rng), training=True)
        np.testing.assert_allclose(layer.current_limits(), [1.0, 0.0], atol=1e-6)
    assert np.isfinite(keras.ops.convert_to_numpy(layer.seen)).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float64"])
def test_adaptive_limits_are_float32_or_wider(rng, policy):
    layer = layers.BatchRenormalization(momentum=0.9, dtype=policy, **ADAPTIVE)
    for _ in range(20):
        y = layer(uneven(rng), training=True)
    assert layer.current_limits().d_max > 1
    desired = "float64" if policy == "float64" else "float32"
    assert {layer.deviations.dtype, layer.seen.dtype} == {desired}
    assert np.isfinite(np.asarray(y, "f4")).all()


@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
@pytest.mark.parametrize("lowering", ["native", "composite"])  # none is fused
def test_adaptive_limits_follow_what_ghosts_differ_by(rng, mode, lowering, monkeypatch):
    """By the moments of each ghost in float64, the last of them a smaller one."""
    monkeypatch.setenv("KERAS_RENORM_LOWERING", lowering)
    layer = layers.BatchRenormalization(momentum=0.9, virtual_batch_size=3, **ADAPTIVE)
    layer.build((None, 5, 4))
    known = None if mode == "graph" else 8

    def call(x):
        return layer(x, training=True)

    if mode != "eager":
        spec = [tf.TensorSpec((known, 5, 4))]
        call = tf.function(call, input_signature=spec, jit_compile=mode == "jit")
    state = adaptive.State(np.zeros((adaptive.ROWS, 4)), np.zeros(2))
    mean, variance, counts = np.zeros(4), np.ones(4), np.array([15.0, 15.0, 10.0])[:, None]
    for _ in range(20):
        x = uneven(rng, (8, 1, 4)) + rng.normal(0, 1, (8, 5, 4)).astype("f4")
        call(tf.constant(x))
        found = [reference.moments(part)[:2] for part in (x[:3], x[3:6], x[6:])]
        means, variances = np.array(found).swapaxes(0, 1)
        sigma = np.sum(counts / 40 * np.sqrt(variances + EPSILON), axis=0)
        batch = Moving(np.sum(counts / 40 * means, axis=0), sigma**2 - EPSILON, np.ones(()))
        ghosts = Moments(means, variances, counts * np.ones(4), np.zeros((3, 4)))
        among = among_ghosts(ghosts, mean, EPSILON, ops=np)
        state, (mean, variance, _) = adaptive.advance(
            state, mean, variance, batch, among, momentum=0.9, epsilon=EPSILON, ops=np
        )
        assert_close(layer.deviations, state.deviations, rtol=1e-3)
    assert_close(layer.moving_mean, mean, rtol=1e-4)
    assert_close(layer.current_limits(), adaptive.limits(state, ops=np), rtol=1e-3)
    assert layer.current_limits().d_max > 0.5


def test_ghosts_open_adaptive_limits_as_much_as_a_minibatch_of_their_size(rng):
    limits = []
    for ghosts in (1, 4):
        layer = layers.BatchRenormalization(
            virtual_batch_size=None if ghosts == 1 else 4, r_max=1.0, d_max=ADAPTIVE["d_max"]
        )
        run = tf.function(lambda x, layer=layer: layer(x, training=True))
        for _ in range(300):
            run(tf.constant(rng.normal(3, 1, (4 * ghosts, 16)), "float32"))
        limits.append(layer.current_limits().d_max)
    assert limits[1] == pytest.approx(limits[0], rel=0.1)


@every_renorm
@pytest.mark.parametrize("way", ["file", "arrays"])
def test_what_an_earlier_rule_had_seen_loads_as_nothing(rng, tmp_path, make, way):
    """Four rows of deviations instead of six: the limits begin again."""
    layer = make(momentum=0.9, **ADAPTIVE)
    which = {"domain": 0} if hasattr(layer, "num_domains") else {}
    for _ in range(20):
        call_of(layer, uneven(rng))
    mean = np.array(layer.moving_mean)
    values = [np.array(variable) for variable in layer.variables]
    values[-2] = values[-2][..., :4, :]
    call_of(layer, uneven(rng))
    assert layer.current_limits(**which).d_max > 0
    if way == "arrays":
        layer.set_weights(values)
    else:
        with h5py.File(tmp_path / "old.h5", "w") as file:
            for i, value in enumerate(values):
                file[str(i)] = value
            layer.load_own_variables(file)
    np.testing.assert_array_equal(layer.moving_mean, mean)
    np.testing.assert_array_equal(layer.seen, np.zeros_like(layer.seen))
    assert layer.current_limits(**which) == (1.0, 0.0)


def test_adaptive_limits_that_cannot_be():
    with pytest.raises(ValueError, match=r"received Adaptive\(greatest=0\.5\)\. Give it a"):
        layers.BatchRenormalization(r_max=schedules.Adaptive(0.5))
    layer = layers.BatchRenormalization(r_max=1.0, d_max=0.0)
    layer.build((None, 3))
    with pytest.raises(ValueError, match=r"keeps no deviations .*Make a layer with it"):
        layer.r_max = ADAPTIVE["r_max"]


@every_renorm
def test_numbers_take_the_place_of_adaptive_limits(rng, make):
    layer = make(**ADAPTIVE)
    call_of(layer, uneven(rng))
    layer.r_max, layer.d_max = 2.0, 3.0
    call_of(layer, uneven(rng))
    assert layer.current_limits() == (2.0, 3.0)


def two_labels(labels, steps):
    """The examples of minibatches of 32 in which two of the ten labels occur."""
    draws = np.random.default_rng(0)
    rows = [np.flatnonzero(labels == label) for label in range(10)]
    pairs = [draws.choice(10, 2, replace=False) for _ in range(steps)]
    return np.concatenate([draws.choice(rows[label], 16) for pair in pairs for label in pair])


@pytest.mark.slow
def test_a_plain_swap_helps_where_minibatches_are_uneven():
    """`BatchRenormalization` without a number of steps; nothing else in the program changes."""
    (x, y), (x_test, y_test) = (
        (np.float32(part.images.reshape(len(part.images), -1)) / 255, part.labels)
        for part in (datasets.load("fashion_mnist_subset", split) for split in ("train", "test"))
    )
    chosen, accuracy = two_labels(y, steps=1000), []
    for norm in (layers.BatchNormalization, layers.BatchRenormalization):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((x.shape[1],))])
        for _ in range(3):
            for layer in (keras.layers.Dense(100), norm(), keras.layers.ReLU()):
                model.add(layer)
        model.add(keras.layers.Dense(10))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        model.fit(x[chosen], y[chosen], batch_size=32, shuffle=False, verbose=0)
        accuracy.append(model.evaluate(x_test, y_test, verbose=0)[1])
    assert accuracy[0] < 0.5
    assert accuracy[1] > 0.65


def test_an_adaptive_limit_beside_a_schedule(rng):
    ramp = schedules.LinearRamp(1.0, 3.0, start_step=0, end_step=20)
    layer = layers.BatchRenormalization(momentum=0.9, r_max=ramp, d_max=ADAPTIVE["d_max"])
    adapts = layers.BatchRenormalization(momentum=0.9, **ADAPTIVE)
    for _ in range(10):
        x = uneven(rng)
        layer(x, training=True)
        adapts(x, training=True)
    assert [w.name for w in layer.variables][4:] == ["update_count", "deviations", "seen"]
    assert layer.current_limits() == (2.0, adapts.current_limits().d_max)
    for given in (adapts, layer):
        for other in (adapts, layer):
            other.set_weights([np.array(variable) for variable in given.variables])
            assert other.current_limits().d_max == adapts.current_limits().d_max
            assert layer.current_limits().r_max == 2.0


@pytest.mark.parametrize("wrong", [None, "3", np.ones(2)])
def test_current_limits_refuse_what_a_call_refuses_of_a_schedule(wrong):
    class Own(schedules.Schedule):
        def __call__(self, step):
            return wrong

        def get_config(self):
            return {}

    layer = layers.BatchRenormalization(r_max=Own(), d_max=1.0)
    layer.build((None, 3))
    with pytest.raises(TypeError, match="`r_max` must be a number or a scalar tensor, received"):
        layer.current_limits()
