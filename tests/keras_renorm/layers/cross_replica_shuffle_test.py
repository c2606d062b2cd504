import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import layers


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas(run_checks, replicas):
    # What depends on the number of replicas, and on an empty one in the middle.
    chosen = ["-k", "rows or gradients"] if replicas == 3 else []
    run_checks("shuffle_checks.py", *chosen, LOGICAL_CPUS=str(replicas))


def nested(rng):
    return {"x": rng.normal(size=(4, 3)).astype("f4"), "ids": np.arange(4)}


@pytest.mark.parametrize("training", [True, False, None])
def test_outside_a_strategy_it_is_the_identity(rng, training):
    inputs = nested(rng)
    outputs, order = layers.CrossReplicaShuffle(seed=1)(inputs, training=training)
    assert order.shape == (0, 2)
    back = layers.CrossReplicaUnshuffle()(outputs, order)
    for name, value in inputs.items():
        np.testing.assert_array_equal(outputs[name], value)
        np.testing.assert_array_equal(back[name], value)


@pytest.mark.parametrize("training", [True, False])
def test_outside_a_strategy_training_may_be_a_tensor(rng, training):
    x, layer = rng.normal(size=(4, 3)).astype("f4"), layers.CrossReplicaShuffle(seed=1)
    run = tf.function(lambda training: layer(x, training=training)[0])
    np.testing.assert_array_equal(run(tf.constant(training)), x)


def test_symbolic_shapes_and_types():
    inputs = {"x": keras.Input((3,)), "ids": keras.Input((), dtype="int32")}
    outputs, order = layers.CrossReplicaShuffle()(inputs)
    assert order.shape == (None, 2)
    for tensors in (outputs, layers.CrossReplicaUnshuffle()(outputs, order)):
        assert (tensors["x"].shape, tensors["x"].dtype) == ((None, 3), "float32")
        assert (tensors["ids"].shape, tensors["ids"].dtype) == ((None,), "int32")


def test_a_model_with_both_layers_loads(rng, tmp_path):
    inputs = keras.Input((3,))
    rows, order = layers.CrossReplicaShuffle(seed=3, name="there")(inputs)
    outputs = layers.CrossReplicaUnshuffle(name="back")(keras.layers.Dense(2)(rows), order)
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = rng.normal(size=(4, 3)).astype("f4")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.get_layer("there").seed == 3
    assert isinstance(loaded.get_layer("back"), layers.CrossReplicaUnshuffle)


def test_inputs_of_different_batch_sizes_are_named():
    with pytest.raises(ValueError, match=r"the same batch size, received.*\[4, 3\]"):
        layers.CrossReplicaShuffle()([np.zeros((4, 2), "f4"), np.zeros((3, 2), "f4")])


def test_a_scalar_has_no_batch():
    with pytest.raises(ValueError, match="must have a batch dimension, received a scalar"):
        layers.CrossReplicaShuffle()(np.float32(1))


def test_seeds_of_numpy_and_those_that_are_too_large():
    assert layers.CrossReplicaShuffle(seed=np.int64(3)).get_config()["seed"] == 3
    with pytest.raises(ValueError, match="`seed` must fit into 64 bits with a sign, received seed"):
        layers.CrossReplicaShuffle(seed=2**63)


@pytest.mark.parametrize("seed", [1.5, "a", True])
def test_a_seed_that_is_no_integer_is_named(seed):
    with pytest.raises(TypeError, match="`seed` must be an integer or None, received"):
        layers.CrossReplicaShuffle(seed=seed)


@pytest.mark.parametrize("inputs", [None, [], {"a": None}])
def test_what_is_no_tensor_is_named(inputs):
    message = r"`inputs` must be a tensor, or a list.*; received .*may lack a `return`"
    with pytest.raises(TypeError, match=message):
        layers.CrossReplicaShuffle()(inputs)


def test_shapes_of_the_outputs():
    shuffle = layers.CrossReplicaShuffle()
    assert shuffle.compute_output_shape((None, 3)) == ((None, 3), (None, 2))
    assert shuffle.compute_output_shape({"a": (4, 3)}) == ({"a": (4, 3)}, (None, 2))
    assert shuffle.compute_output_shape([(4,), (4, 2)]) == ([(4,), (4, 2)], (None, 2))
    assert shuffle.compute_output_shape(((4,), (4, 2))) == (((4,), (4, 2)), (None, 2))
