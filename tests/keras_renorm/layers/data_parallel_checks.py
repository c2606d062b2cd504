"""JAX's data parallelism on two CPU devices; `backends_test.py` runs this."""

import jax
import keras
import numpy as np
import pytest

from keras_renorm import layers, ops
from keras_renorm.ops import reference


@pytest.fixture(autouse=True)
def two_devices():
    assert len(jax.devices()) == 2
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    yield
    keras.distribution.set_distribution(None)


@pytest.mark.parametrize("synchronized", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_moments_are_those_of_the_whole_batch(rng, synchronized, masked):
    inputs = keras.Input((6, 3))
    hidden = keras.layers.Masking()(inputs) if masked else inputs
    norm = layers.BatchRenormalization(
        r_max=3.0, d_max=5.0, momentum=0.5, synchronized=synchronized
    )
    model = keras.Model(inputs, norm(hidden))
    model.compile("sgd", "mse")
    # The two halves, one for each device, differ much in mean and deviation.
    x = rng.normal(size=(16, 6, 3)).astype("f4")
    x[8:] = 3 * x[8:] + 5
    mask = np.ones((16, 6, 1), bool)
    if masked:
        mask[:, 4:] = mask[:3] = False
        x = np.where(mask, x, 0).astype("f4")
    target = rng.normal(size=x.shape).astype("f4")
    mu, sigma = np.zeros(3), np.full(3, np.sqrt(1.001))
    settings = {"r_max": 3.0, "d_max": 5.0, "alpha": 0.5, "epsilon": 1e-3, "mask": mask}
    for _ in range(2):
        gamma, beta = (w.astype("f8") for w in model.get_weights()[:2])
        loss = model.train_on_batch(x, target)
        step = reference.forward(x, gamma, beta, mu, sigma, **settings)
        mu, sigma = step.mu, step.sigma
        np.testing.assert_allclose(norm.moving_mean, mu, atol=1e-5)
        np.testing.assert_allclose(norm.moving_variance, sigma**2 - 1e-3, rtol=1e-5)
        if not masked:
            error = step.y - target
            gradients = reference.backward(2 * error / error.size, x, gamma, step)
            np.testing.assert_allclose(norm.gamma, gamma - 0.01 * gradients.dgamma, atol=1e-5)
            np.testing.assert_allclose(norm.beta, beta - 0.01 * gradients.dbeta, atol=1e-5)
            np.testing.assert_allclose(loss, np.mean(error**2), rtol=1e-4)


def test_the_work_is_shared(rng):
    x = rng.normal(size=(16, 3)).astype("f4")
    shared = keras.distribution.distribution().get_data_layout(x.shape)
    placed = keras.distribution.distribute_tensor(x, shared)
    assert len({shard.device for shard in placed.addressable_shards}) == 2
    y = layers.BatchNormalization(synchronized=True)(placed, training=True)
    np.testing.assert_allclose(np.mean(y, 0), 0, atol=1e-6)


def test_results_stay_where_their_part_of_the_batch_is(rng):
    """Which a call of the native library would gather whole on each device."""
    assert ops.lowering().reason == "JAX computes on 2 devices"
    x = rng.normal(size=(16, 3)).astype("f4")
    shared = keras.distribution.distribution().get_data_layout(x.shape)
    placed = keras.distribution.distribute_tensor(x, shared)
    layer = layers.BatchNormalization()
    layer.build(x.shape)
    y = jax.jit(lambda x: layer(x, training=True))(placed)
    assert y.sharding.is_equivalent_to(placed.sharding, 2)


def test_shard_map(rng):
    """Each device's own part, with the gradients of its moments."""
    keras.distribution.set_distribution(None)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("rows",))
    rows, whole = jax.sharding.PartitionSpec("rows"), jax.sharding.PartitionSpec()
    x = rng.normal(size=(16, 3)).astype("f4")
    found = []
    for layer in (layers.BatchNormalization(), keras.layers.BatchNormalization()):
        layer.build((8, 3))
        weights = [[v.value for v in layer.trainable_variables]]
        weights.append([v.value for v in layer.non_trainable_variables])

        def part(trainable, others, x, layer=layer):
            y, others = layer.stateless_call(trainable, others, x, training=True)
            return y, jax.lax.pmean(others, "rows")

        step = jax.shard_map(
            part, mesh=mesh, in_specs=(whole, whole, rows), out_specs=(rows, whole)
        )
        loss = jax.value_and_grad(
            lambda trainable, step=step, others=weights[1]: (
                lambda y, moved: ((y**3).sum(), moved)
            )(*step(trainable, others, x)),
            has_aux=True,
        )
        found.append(jax.tree.leaves(jax.jit(loss)(weights[0])))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_there_is_nothing_to_shuffle(rng):
    x = rng.normal(size=(16, 3)).astype("f4")
    rows, order = layers.CrossReplicaShuffle()(x, training=True)
    np.testing.assert_array_equal(rows, x)
    np.testing.assert_array_equal(layers.CrossReplicaUnshuffle()(rows, order), x)
