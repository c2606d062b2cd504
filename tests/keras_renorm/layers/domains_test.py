import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import layers
from keras_renorm.layers.domains import Domains, without_ghosts

X = np.ones((4, 3), "f4")


@pytest.fixture
def domains():
    return Domains(3, "domain", "domain", "shared")


def test_a_layer_has_the_rows_of_the_arguments(domains):
    layer = layers.BatchNormalization()
    domains.describe(layer)
    assert {name: getattr(domains, name) for name in Domains.ARGUMENTS} == {
        "num_domains": 3,
        "batch_statistics": "domain",
        "population_statistics": "domain",
        "affine": "shared",
    }
    layer.build((None, 4))
    assert [weight.shape for weight in layer.weights] == [(4,), (4,), (3, 4), (3, 4)]


def test_one_id_is_an_int_and_ids_are_a_tensor(domains):
    for one in (2, np.int64(2), np.array(2, "uint8"), tf.constant(2)):
        assert domains.ids(one, X, "norm") == 2
        assert isinstance(domains.ids(one, X, "norm"), int)
    ids = domains.ids([0, 1, 2, 0], X, "norm")
    np.testing.assert_array_equal(ids, [0, 1, 2, 0])
    symbolic = keras.Input((), dtype="int32")
    assert domains.ids(symbolic, keras.Input((3,)), "norm") is symbolic


def test_ids_that_do_not_fit_are_named(domains):
    with pytest.raises(ValueError, match=r"'norm' needs the domain .* ids in \[0, 2\]"):
        domains.ids(None, X, "norm")
    with pytest.raises(ValueError, match=r"ids in \[0, 2\], .*; received -1, 3\."):
        domains.ids([0, 3, -1, 0], X, "norm")
    with pytest.raises(TypeError, match="must hold integers, received dtype bool"):
        domains.ids(True, X, "norm")
    with pytest.raises(TypeError, match="`domain` must be a tensor, or an array or a list of num"):
        domains.ids("a", X, "norm")
    with pytest.raises(ValueError, match=r"of shape \(4,\); received shape \(2,\)"):
        domains.ids([0, 1], X, "norm")
    with pytest.raises(TypeError, match="must hold integers, received dtype float32"):
        domains.ids(keras.Input(()), keras.Input((3,)), "norm")


def test_values_in_a_graph_are_looked_at_as_it_runs(domains):
    @tf.function
    def run(ids):
        return domains.ids(ids, X, "norm")

    np.testing.assert_array_equal(run(tf.constant([0, 2, 0, 0])), [0, 2, 0, 0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="num_domains=3; received"):
        run(tf.constant([0, 7, 0, 0]))


def test_ghosts_are_refused():
    assert without_ghosts({"virtual_batch_size": None}) == {"virtual_batch_size": None}
    with pytest.raises(ValueError, match=r"is not for layers with domains.*=2"):
        without_ghosts({"virtual_batch_size": 2})
