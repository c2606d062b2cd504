"""Layers inside `jax.shard_map` and `jax.pmap`, on two devices; `backends_test.py` runs this."""

import functools

import jax
import keras
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from keras_renorm import layers, ops
from keras_renorm.ops import reference
from keras_renorm.ops.backends.jax.backend import BACKEND

MESH = jax.sharding.Mesh(np.array(jax.devices()), ("rows",))
ROWS, WHOLE = PartitionSpec("rows"), PartitionSpec()
IDS = np.array([0, 1, 0, 1, 1, 1, 2, 2])
LIMITS = {"r_max": 1.5, "d_max": 0.5, "momentum": 0.7}
LAYERS = {
    "bn": lambda **options: layers.BatchNormalization(momentum=0.7, activation="relu", **options),
    "brn": lambda **options: layers.BatchRenormalization(**LIMITS, **options),
    "adaptive": lambda **options: layers.BatchRenormalization(momentum=0.7, **options),
    "domains": lambda **options: layers.DomainBatchRenormalization(4, **LIMITS, **options),
}


def made(kind, **options):
    layer, values = LAYERS[kind](**options), np.random.default_rng(1)
    layer.build((None, 5, 3))
    for variable in layer.trainable_variables:
        variable.assign(values.uniform(0.5, 1.5, variable.shape))
    return layer


def step_of(layer):
    """A step: outputs, new statistics, and gradients in x and in the trainable variables."""

    def step(trainable, others, x, dy, mask, ids):
        options = {"domain": ids} if "Domain" in type(layer).__name__ else {}

        def output(trainable, x):
            return layer.stateless_call(trainable, others, x, training=True, mask=mask, **options)

        (y, others), pull = jax.vjp(output, trainable, x)
        zeros = jax.tree.map(lambda value: 0 * value, others)
        return y, others, pull((dy, zeros))

    return step


def mapped(step, check_vma):
    def each(trainable, others, *rest):
        y, others, (dvariables, dx) = step(trainable, others, *rest)
        if not check_vma:  # else JAX adds them up, as the variables are the same everywhere
            dvariables = jax.lax.psum(dvariables, "rows")
        return y, others, (dvariables, dx)

    return jax.jit(
        jax.shard_map(
            each,
            mesh=MESH,
            in_specs=(WHOLE, WHOLE, ROWS, ROWS, ROWS, ROWS),
            out_specs=(ROWS, WHOLE, (WHOLE, ROWS)),
            check_vma=check_vma,
        )
    )


def by_pmap(step):
    """Each device's copy of the variables is returned; they must be equal."""

    def each(trainable, others, *rest):
        y, others, (dvariables, dx) = step(trainable, others, *rest)
        return y, others, (jax.lax.psum(dvariables, "any name"), dx)

    run = jax.pmap(each, axis_name="any name", in_axes=(None, None, 0, 0, 0, 0))

    def joined(value):
        return value.reshape(-1, *value.shape[2:])

    def same(value):
        np.testing.assert_array_equal(value[0], value[1])
        return value[0]

    def call(trainable, others, *rest):
        halves = (value.reshape(2, -1, *value.shape[1:]) for value in rest)
        y, others, (dvariables, dx) = run(trainable, others, *halves)
        same_variables = jax.tree.map(same, dvariables)
        return joined(y), jax.tree.map(same, others), (same_variables, joined(dx))

    return call


WAYS = {
    "shard_map": lambda step: mapped(step, check_vma=True),
    "unchecked": lambda step: mapped(step, check_vma=False),
    "pmap": by_pmap,
}


@functools.cache
def program(kind, way):
    """A layer and its compiled step, which is compiled once for all that a step is given."""
    layer = made(kind, synchronized=way is not None)
    return layer, WAYS.get(way, jax.jit)(step_of(layer))


@functools.cache
def alone(kind, offset, empty):
    return two_steps(kind, None, offset, empty)


def two_steps(kind, way, offset, empty):
    """What two steps end with, in one program or on two devices; here parts are of equal sizes."""
    rng = np.random.default_rng(0)
    x, dy = rng.normal(1.0, 2.0, (2, 8, 5, 3)).astype("f4")
    x[4:] = 3 * x[4:] + 5
    x += np.float32(offset)
    mask = rng.random((8, 5)) > 0.3
    mask[4:] &= not empty
    layer, run = program(kind, way)
    trainable, others = (
        [v.value for v in group]
        for group in (layer.trainable_variables, layer.non_trainable_variables)
    )
    for _ in range(2):
        y, others, gradients = run(trainable, others, x, dy, mask, IDS)
    return jax.tree.leaves((y, others, gradients))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("offset", "empty"), [(0.0, False), (100.0, True)])
@pytest.mark.parametrize(
    "kind",
    ["bn", "brn", *(pytest.param(k, marks=pytest.mark.slow) for k in ("adaptive", "domains"))],
)
def test_two_devices_do_what_one_does(kind, offset, empty, way):
    """Also where one of them has nothing that counts."""
    together = two_steps(kind, way, offset, empty)
    for desired, actual in zip(alone(kind, offset, empty), together, strict=True):
        scale = max(1.0, np.abs(desired).max())
        tolerance = 2e-6 if offset == 0 else 2e-5
        np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


@pytest.mark.slow
def test_means_that_are_large_lose_no_variance(rng):
    x = (rng.normal(size=(8, 500, 3)) + 1e6).astype("f4")

    def merged(x):
        return tuple(ops.Replicas.running().merge(ops.moments(x)))

    run = jax.shard_map(merged, mesh=MESH, in_specs=ROWS, out_specs=WHOLE)
    mean, variance, count, rest = map(np.float64, run(x))
    np.testing.assert_allclose(variance, np.var(np.float64(x), (0, 1)), rtol=1e-5)
    np.testing.assert_allclose(mean + rest, np.mean(np.float64(x), (0, 1)), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(count, 4000)


@pytest.mark.parametrize("shape", [(8, 5, 3), (64, 8, 8, 4)])
def test_masked_means_that_are_large_lose_no_digit(rng, shape):
    """Where XLA adds to the product of a division it rounds once, elsewhere twice."""
    x = (rng.normal(size=shape) + 1e6).astype("f4")
    mask = rng.random((*shape[:-1], 1)) > 0.4
    zero, one = np.zeros(shape[-1], "f4"), np.ones(shape[-1], "f4")

    def normalized(x, mask):
        given = {"momentum": 0.9, "r_max": 1.0, "d_max": 0.0, "mask": mask, "synchronized": True}
        return ops.training_step(x, 1e6 * one, one, one, zero, **given)[0]

    y = jax.jit(jax.shard_map(normalized, mesh=MESH, in_specs=(ROWS, ROWS), out_specs=ROWS))(
        x, mask
    )
    mean, variance, _ = reference.moments(x, np.broadcast_to(mask, shape))
    desired = (np.float64(x) - mean) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(np.where(mask, y, 0), np.where(mask, desired, 0), atol=1e-5)


@pytest.mark.slow
def test_without_synchronization_each_device_is_on_its_own(rng):
    x = rng.normal(size=(8, 3)).astype("f4")
    layer = layers.BatchNormalization()
    layer.build((8, 3))
    groups = layer.trainable_variables, layer.non_trainable_variables
    values = [[v.value for v in group] for group in groups]

    def output(x):
        return layer.stateless_call(*values, x, training=True)[0]

    run = jax.shard_map(output, mesh=MESH, in_specs=ROWS, out_specs=ROWS)
    for half in np.split(np.asarray(run(x)), 2):
        np.testing.assert_allclose(half.mean(0), 0, atol=1e-6)


@pytest.mark.slow
def test_a_mesh_of_one_device_gives_results_of_the_same_types():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("rows",))

    def merged(x):
        return tuple(ops.Replicas.running().merge(ops.moments(x)))

    run = jax.shard_map(merged, mesh=mesh, in_specs=ROWS, out_specs=WHOLE)
    np.testing.assert_array_equal(run(np.float32([[1], [3]]))[0], [2])


def test_nobody_elsewhere():
    assert BACKEND.replicas() is None
    found = jax.jit(lambda x: x + (BACKEND.replicas() is None))(0)
    assert found == 1


def test_no_rows_move_there():
    shuffle = layers.CrossReplicaShuffle()
    run = jax.shard_map(
        lambda x: shuffle(x, training=True)[0], mesh=MESH, in_specs=ROWS, out_specs=ROWS
    )
    with pytest.raises(ValueError, match=r"inside jax.shard_map.*synchronized=True"):
        run(np.zeros((4, 3), "f4"))
    assert keras.backend.backend() == "jax"
