"""Layers on the replicas of a strategy of logical CPUs; `replicas_test.py` runs this."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import layers, schedules
from keras_renorm.ops import reference

REPLICAS = len(tf.config.list_logical_devices("CPU"))
SPLITS = {1: [[8]], 2: [[5, 3], [7, 1], [8, 0]], 3: [[5, 3, 0], [0, 1, 7]]}[REPLICAS]
# Each split, the first one with a mask; the last one without and with.
CASES = [(sizes, i == 0) for i, sizes in enumerate(SPLITS)] + [(SPLITS[-1], True)] * (REPLICAS > 1)
EPSILON, MOMENTUM, RATE = 1e-3, 0.7, 0.1
RAMPS = {
    "r_max": schedules.LinearRamp(1.0, 2.0, start_step=1, end_step=3),
    "d_max": schedules.LinearRamp(0.0, 1.0, start_step=1, end_step=3),
}
LAYERS = {"bn": (layers.BatchNormalization, {}), "brn": (layers.BatchRenormalization, RAMPS)}
both = pytest.mark.parametrize("kind", LAYERS)


@pytest.fixture(scope="module")
def strategy():
    if REPLICAS == 1:
        return tf.distribute.OneDeviceStrategy("CPU:0")
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])


@pytest.fixture
def make(strategy):
    """A built layer in the strategy's scope, with weights that are neither zeros nor ones."""

    def make_layer(kind, synchronized, rank=2, **options):
        layer_class, limits = LAYERS[kind]
        options = limits | {"epsilon": EPSILON, "momentum": MOMENTUM} | options
        with strategy.scope():
            layer = layer_class(synchronized=synchronized, **options)
            layer.build((None,) * (rank - 1) + (3,))
            values = np.random.default_rng(1)
            layer.gamma.assign(values.uniform(0.5, 1.5, 3))
            layer.beta.assign(values.normal(size=3))
        return layer

    return make_layer


def split(strategy, array, sizes):
    parts = np.split(array, np.cumsum(sizes)[:-1])
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )


def joined(strategy, value):
    return np.concatenate([part.numpy() for part in strategy.experimental_local_results(value)])


def summed(strategy, value):
    parts = strategy.experimental_local_results(value)
    return np.sum([part.numpy().astype("f8") for part in parts], axis=0)


def own_values(variable):
    """The value that each replica has of a variable."""
    value = variable.value
    return [v.numpy() for v in getattr(value, "values", [value])]


def step(layer):
    """One training step as a function of a replica: output, and gradients in x, gamma and beta."""

    def replica_step(x, dy, mask=None):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
        return y, tape.gradient(y, [x, layer.gamma, layer.beta], output_gradients=dy)

    return replica_step


class Reference:
    """The layer of `make` in float64, on the whole batch."""

    def __init__(self, layer):
        self.gamma, self.beta, self.mean, self.variance = (
            np.float64(w) for w in layer.get_weights()[:4]
        )
        self.is_renorm = isinstance(layer, layers.BatchRenormalization)

    def step(self, number, x, dy, mask):
        limits = {"r_max": 1.0, "d_max": 0.0}
        if self.is_renorm:
            limits = {name: float(ramp(number)) for name, ramp in RAMPS.items()}
        result = reference.forward(
            x,
            self.gamma,
            self.beta,
            self.mean,
            np.sqrt(self.variance + EPSILON),
            **limits,
            alpha=1 - MOMENTUM,
            epsilon=EPSILON,
            mask=mask,
        )
        gradients = reference.backward(dy, x, self.gamma, result, mask)
        if self.is_renorm:
            self.variance = result.sigma**2 - EPSILON
        elif len(x):
            batch = result.sigma_b**2 - EPSILON
            self.variance = reference.moving_variance(self.variance, batch, MOMENTUM)
        self.mean = result.mu
        return result.y, gradients


def assert_close(actual, desired, tolerance=1e-6):
    """Within `tolerance` of the greatest value, or of 1."""
    scale = max(1.0, np.abs(desired).max(initial=0))
    np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


@both
@pytest.mark.parametrize(
    ("sizes", "masked", "graph"), [(*case, True) for case in CASES] + [(SPLITS[0], False, False)]
)
def test_five_steps_equal_the_whole_batch_in_float64(
    strategy, make, rng, kind, sizes, masked, graph
):
    layer = make(kind, synchronized=True, rank=3)
    whole, replica_step = Reference(layer), step(layer)

    def run(*parts):
        return strategy.run(replica_step, args=parts)

    run = tf.function(run) if graph else run
    for number in range(5 if graph else 2):
        x, dy = (rng.normal(0.5, 1.5, (8, 4, 3)).astype("f4") for _ in range(2))
        mask = rng.random((8, 4)) > 0.3 if masked else np.ones((8, 4), bool)
        parts = (x, dy, mask) if masked else (x, dy)
        y, (dx, dgamma, dbeta) = run(*(split(strategy, part, sizes) for part in parts))
        desired, gradients = whole.step(number, x, dy, mask[..., None])
        assert_close(joined(strategy, y), desired)
        assert_close(joined(strategy, dx), gradients.dx)
        assert_close(summed(strategy, dgamma), gradients.dgamma)
        assert_close(summed(strategy, dbeta), gradients.dbeta)
        assert_close(layer.moving_mean.numpy(), whole.mean)
        np.testing.assert_allclose(layer.moving_variance.numpy(), whole.variance, rtol=1e-6)
        for variable in (layer.moving_mean, layer.moving_variance):
            assert len({value.tobytes() for value in own_values(variable)}) == 1


@both
def test_large_means(strategy, make, rng, kind):
    layer = make(kind, synchronized=True, rank=3, momentum=0.0)
    x = (rng.normal(size=(8, 50, 3)) + 1e6).astype("f4")
    y = strategy.run(lambda x: layer(x, training=True), args=(split(strategy, x, SPLITS[0]),))
    mean, variance, _ = reference.moments(x)
    np.testing.assert_allclose(layer.moving_variance.numpy(), variance, rtol=1e-5)
    gamma, beta = layer.gamma.numpy(), layer.beta.numpy()
    desired = gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta
    np.testing.assert_allclose(joined(strategy, y), desired, atol=1e-5)


@both
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(strategy, make, rng, kind, policy):
    layer = make(kind, synchronized=True, rank=3, dtype=policy, momentum=0.0)
    x = tf.cast(rng.normal(3.0, 2.0, (8, 60, 3)), layer.compute_dtype)
    sizes = SPLITS[0]
    parts = tf.split(x, sizes)
    values = strategy.experimental_distribute_values_from_function(
        lambda context: parts[context.replica_id_in_sync_group]
    )
    y = strategy.run(lambda x: layer(x, training=True), args=(values,))
    exact = tf.cast(x, "float64").numpy()
    mean, variance, _ = reference.moments(exact)
    np.testing.assert_allclose(layer.moving_mean.numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance.numpy(), variance, rtol=1e-5)
    desired = layer.gamma.numpy() * (exact - mean) / np.sqrt(variance + EPSILON)
    tolerance = {"mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}[policy]
    actual = np.concatenate(
        [tf.cast(part, "float64") for part in strategy.experimental_local_results(y)]
    )
    np.testing.assert_allclose(actual, desired + layer.beta.numpy(), atol=tolerance)
    assert {part.dtype for part in strategy.experimental_local_results(y)} == {x.dtype}


@both
def test_a_nan_on_one_replica_spares_the_statistics_of_all(strategy, make, rng, kind):
    layer = make(kind, synchronized=True)
    x = rng.normal(size=(8, 3)).astype("f4")
    x[1, 2] = np.nan
    y = strategy.run(lambda x: layer(x, training=True), args=(split(strategy, x, SPLITS[0]),))
    assert np.isnan(joined(strategy, y)[:, 2]).all()
    for old, variable in ((0, layer.moving_mean), (1, layer.moving_variance)):
        for value in own_values(variable):
            assert value[2] == old
            assert (value[:2] != old).all()


@both
def test_nothing_on_any_replica_changes_no_weight(strategy, make, kind):
    layer = make(kind, synchronized=True)
    before = layer.get_weights()
    x = split(strategy, np.zeros((0, 3), "f4"), [0] * REPLICAS)
    _, gradients = strategy.run(step(layer), args=(x, x))
    for gradient in gradients[1:]:
        np.testing.assert_array_equal(summed(strategy, gradient), np.zeros(3))
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@both
def test_without_synchronization_each_replica_is_on_its_own(strategy, make, rng, kind):
    layer = make(kind, synchronized=False, rank=3)
    x = rng.normal(1.0, 2.0, (8, 4, 3)).astype("f4")
    run = tf.function(lambda x, dy: strategy.run(step(layer), args=(x, dy)))
    sizes = SPLITS[0]
    y, _ = run(split(strategy, x, sizes), split(strategy, x, sizes))
    single = [Reference(layer) for _ in sizes]
    for one in single:
        one.mean, one.variance = np.zeros(3), np.ones(3)
    parts = np.split(x, np.cumsum(sizes)[:-1])
    outputs = [one.step(0, p, p, None)[0] for one, p in zip(single, parts, strict=True)]
    assert_close(joined(strategy, y), np.concatenate(outputs))
    for i, one in enumerate(single):
        np.testing.assert_allclose(own_values(layer.moving_mean)[i], one.mean, atol=1e-6)
        np.testing.assert_allclose(own_values(layer.moving_variance)[i], one.variance, rtol=1e-6)
    mean = np.mean([one.mean for one in single], 0)
    variance = np.mean([one.variance for one in single], 0)
    np.testing.assert_allclose(layer.get_weights()[2], mean, atol=1e-6)
    np.testing.assert_allclose(layer.get_weights()[3], variance, rtol=1e-6)
    desired = reference.inference(
        x, single[0].gamma, single[0].beta, mean, np.sqrt(variance + 1e-3)
    )
    outside = layer(x).numpy()
    inside = strategy.run(lambda x: layer(x), args=(split(strategy, x, sizes),))
    assert_close(outside, desired)
    assert_close(joined(strategy, inside), desired)


@both
@pytest.mark.parametrize("training", [True, False])
def test_without_synchronization_training_may_be_a_tensor(strategy, make, rng, kind, training):
    static, given = (make(kind, synchronized=False) for _ in range(2))
    parts = split(strategy, rng.normal(1.0, 2.0, (8, 3)).astype("f4"), SPLITS[0])

    def run(layer):
        call = tf.function(lambda x, training: strategy.run(layer, (x,), {"training": training}))
        return lambda training: joined(strategy, call(parts, training))

    for switch in (True, training):  # the first makes the statistics of the replicas differ
        desired, found = run(static)(switch), run(given)(tf.constant(switch))
    assert_close(found, desired)
    for new, old in zip(given.get_weights(), static.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6)


@pytest.mark.parametrize("synchronized", [False, True])
def test_statistics_are_saved_as_they_are_read_and_loaded_on_every_replica(
    strategy, make, rng, tmp_path, synchronized
):
    x = rng.normal(1.0, 2.0, (8, 3)).astype("f4")
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), make("brn", synchronized)])
    for _ in range(3):
        strategy.run(lambda x: model(x, training=True), args=(split(strategy, x, SPLITS[0]),))
    weights, desired = model.get_weights(), model(x).numpy()
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))

    outside = keras.saving.load_model(tmp_path / "model.keras")
    with strategy.scope():
        inside = keras.saving.load_model(tmp_path / "model.keras")
    for loaded in (outside, inside):
        for actual, saved in zip(loaded.get_weights(), weights, strict=True):
            np.testing.assert_allclose(actual, saved, rtol=2e-7)  # a mean of 3 equal numbers
        assert_close(loaded(x).numpy(), desired)
        assert loaded.layers[0].current_limits() == model.layers[0].current_limits()

    def check_replicas():
        for variable, saved in zip(model.weights, weights, strict=True):
            for value in own_values(variable):
                np.testing.assert_array_equal(value, saved)

    zeros = [np.zeros_like(value) for value in weights]
    model.set_weights(zeros)
    model.load_weights(tmp_path / "model.weights.h5")
    check_replicas()
    model.set_weights(zeros)
    tf.train.Checkpoint(model=model).read(str(tmp_path / "checkpoint")).assert_consumed()
    check_replicas()
    with strategy.scope():
        model.set_weights(zeros)
        model.load_weights(tmp_path / "model.weights.h5")
    check_replicas()


@pytest.mark.parametrize("synchronized", [False, True])
def test_updates_are_counted_where_the_statistics_are_kept(strategy, make, rng, synchronized):
    layer = make("brn", synchronized)
    for sizes in ([8] + [0] * (REPLICAS - 1), [0] * (REPLICAS - 1) + [8], [0] * REPLICAS):
        x = rng.normal(size=(sum(sizes), 3)).astype("f4")
        strategy.run(lambda x: layer(x, training=True), args=(split(strategy, x, sizes),))
    counts = own_values(layer.update_count)
    assert np.array(layer.update_count) == pytest.approx(np.mean(counts))
    if synchronized or REPLICAS == 1:
        assert counts == [2] * REPLICAS
        assert layer.current_limits() == pytest.approx((1.5, 0.5))
    else:
        assert counts == [1] + [0] * (REPLICAS - 2) + [1]


@pytest.mark.parametrize("synchronized", [False, True])
def test_adaptive_limits_see_what_the_statistics_see(strategy, make, rng, synchronized):
    limits = {"r_max": schedules.Adaptive(3.0), "d_max": schedules.Adaptive(5.0)}
    layer = make("brn", synchronized, **limits)
    alone = [layers.BatchRenormalization(momentum=MOMENTUM, **limits) for _ in range(REPLICAS)]
    run = tf.function(lambda x: strategy.run(lambda x: layer(x, training=True), args=(x,)))
    for _ in range(10):
        x = rng.normal(rng.normal(0, 1, 3), 1, (4 * REPLICAS, 3)).astype("f4")
        run(split(strategy, x, [4] * REPLICAS))
        for own, part in zip(alone, np.split(x, REPLICAS), strict=True):
            own(x if synchronized else part, training=True)
    for variable in ("deviations", "seen"):
        desired = [getattr(own, variable).numpy() for own in alone]
        for actual, value in zip(own_values(getattr(layer, variable)), desired, strict=True):
            assert_close(actual, value, 1e-4)
        assert_close(getattr(layer, variable).numpy(), np.mean(desired, axis=0), 1e-4)


class Network:
    """Three normalised layers with a mask, and a training step for a replica."""

    def __init__(self, kind, synchronized):
        layer_class, limits = LAYERS[kind]
        keras.utils.set_random_seed(3)
        self.layers = []
        for _ in range(3):
            norm = layer_class(synchronized=synchronized, activation="relu", **limits)
            self.layers += [keras.layers.Dense(4), norm]
        self.layers.append(keras.layers.Dense(1))
        self.call(tf.zeros((1, 2, 4)), None, training=False)
        self.optimizer = keras.optimizers.SGD(RATE)
        self.optimizer.build(self.weights(trainable=True))

    def call(self, x, mask, training):
        for layer in self.layers:
            is_norm = isinstance(layer, layers.BatchNormalization)
            x = layer(x, training=training, mask=mask) if is_norm else layer(x)
        return x

    def weights(self, trainable=False):
        name = "trainable_weights" if trainable else "weights"
        return [weight for layer in self.layers for weight in getattr(layer, name)]

    def train(self, x, target, mask, total):
        with tf.GradientTape() as tape:
            errors = tf.square(self.call(x, mask, training=True) - target)
            loss = tf.reduce_sum(tf.where(mask[..., None], errors, 0)) / total
        variables = self.weights(trainable=True)
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss


@both
@pytest.mark.parametrize(("sizes", "masked"), CASES)
def test_five_optimizer_steps_equal_one_device(strategy, rng, kind, sizes, masked):
    with strategy.scope():
        network = Network(kind, synchronized=True)
    single = Network(kind, synchronized=False)

    @tf.function
    def train(*parts):
        return strategy.run(network.train, args=parts)

    for _ in range(5):
        x, target = (rng.normal(size=(8, 6, n)).astype("f4") for n in (4, 1))
        mask = rng.random((8, 6)) > 0.3 if masked else np.ones((8, 6), bool)
        total = np.float32(mask.sum())
        losses = train(*(split(strategy, part, sizes) for part in (x, target, mask)), total)
        loss = single.train(tf.constant(x), target, tf.constant(mask), total)
        assert_close(summed(strategy, losses), loss)
    for actual, desired in zip(network.weights(), single.weights(), strict=True):
        assert_close(actual.numpy(), desired.numpy())


def collectives(strategy, network):
    """The number of all-reductions of each type in the graph of a training step, per replica."""
    batch = np.ones((8, 6, 4), "f4"), np.ones((8, 6, 1), "f4"), np.ones((8, 6), bool)

    @tf.function
    def train(*parts):
        return strategy.run(network.train, args=(*parts, 1.0))

    graph = train.get_concrete_function(*(split(strategy, a, SPLITS[0]) for a in batch)).graph
    found = [op for op in graph.get_operations() if "CollectiveReduce" in op.type]
    functions = graph.as_graph_def().library.function
    assert not any("Collective" in n.op for function in functions for n in function.node_def)
    return collections.Counter(op.outputs[0].dtype.name for op in found)


@both
def test_one_collective_forward_and_one_backward_per_layer(strategy, kind):
    with strategy.scope():
        local, synchronized = Network(kind, False), Network(kind, True)
    of_gradients = collectives(strategy, local)
    in_all = collectives(strategy, synchronized)
    assert set(of_gradients) == {"float32"}
    assert in_all - of_gradients == {"float64": 2 * 3 * REPLICAS}


@pytest.mark.parametrize("synchronized", [False, True])
def test_fit_evaluate_and_predict(strategy, rng, synchronized):
    x = rng.normal(1.0, 2.0, (24, 4)).astype("f4")
    target = rng.normal(size=(24, 1)).astype("f4")

    def fitted():
        keras.utils.set_random_seed(3)
        norm = layers.BatchRenormalization(synchronized=synchronized, momentum=0.5)
        stack = [keras.layers.Dense(4), norm, keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,)), *stack])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(x, target, batch_size=12, epochs=2, shuffle=False, verbose=0)
        return model

    with strategy.scope():
        model = fitted()
    assert np.isfinite(model.evaluate(x, target, batch_size=12, verbose=0))
    assert_close(model.predict(x, batch_size=12, verbose=0), model(x).numpy())
    if synchronized or REPLICAS == 1:
        for actual, desired in zip(model.get_weights(), fitted().get_weights(), strict=True):
            assert_close(actual, desired, 1e-5)


def test_masks_where_keras_goes_wrong(strategy, make, rng):
    x, mask = rng.normal(1.0, 2.0, (8, 4, 3)).astype("f4"), rng.random((8, 4)) > 0.4
    x[:5] += 3
    parts = [split(strategy, part, SPLITS[0]) for part in (x, mask)]
    mean, _, _ = reference.moments(x, mask[..., None])

    def moving_mean(layer):
        strategy.run(lambda x, mask: layer(x, training=True, mask=mask), args=parts)
        return layer.moving_mean.numpy()

    np.testing.assert_allclose(moving_mean(make("bn", True, rank=3, momentum=0.0)), mean, rtol=1e-6)
    with strategy.scope():
        theirs = keras.layers.BatchNormalization(momentum=0.0, synchronized=True)
    assert np.abs(moving_mean(theirs) - mean).min() > 0.1


CONTROL_FLOW = {
    "tf.function": lambda f, x: tf.function(f, autograph=False)(x),
    "jit_compile": lambda f, x: tf.function(f, autograph=False, jit_compile=True)(x),
    "tf.cond": lambda f, x: tf.cond(tf.reduce_sum(x) < 1e9, lambda: f(x), lambda: x),
}


@pytest.mark.parametrize("wrap", CONTROL_FLOW.values(), ids=CONTROL_FLOW)
@pytest.mark.parametrize(("synchronized", "training"), [(True, True), (False, False)])
def test_where_there_can_be_no_collective_the_message_says_so(
    strategy, make, wrap, synchronized, training
):
    layer = make("bn", synchronized)

    @tf.function
    def run():
        return strategy.run(lambda: wrap(lambda x: layer(x, training=training), tf.ones((2, 3))))

    with pytest.raises(RuntimeError, match="Call it from that function itself"):
        run()


def test_where_training_is_a_tensor_no_layer_is_synchronized(strategy, make):
    layer = make("bn", synchronized=True)
    run = tf.function(
        lambda training: strategy.run(layer, (tf.ones((2, 3)),), {"training": training})
    )
    with pytest.raises(RuntimeError, match=r"with a tensor as `training`\. Call it from that"):
        run(tf.constant(True))


if REPLICAS == 1:  # no collectives, and Keras's layer sees the whole batch
    del test_one_collective_forward_and_one_backward_per_layer
    del test_where_there_can_be_no_collective_the_message_says_so
    del test_where_training_is_a_tensor_no_layer_is_synchronized
    del test_masks_where_keras_goes_wrong
