"""What the gauges know of each kind of layer, and how many values its statistics have."""

import keras
import numpy as np
import pytest

from keras_renorm import statistics
from keras_renorm.diagnostics import layer_traits
from keras_renorm.layers import (
    BatchNormalization,
    BatchRenormalization,
    DomainBatchNormalization,
    DomainBatchRenormalization,
    SkipInit,
)
from keras_renorm.models import is_batch_norm
from keras_renorm.schedules import PAPER_R_MAX, Adaptive

L = keras.layers


class Own(BatchRenormalization):
    """A user's."""


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (BatchNormalization(), "BN"),
        (DomainBatchNormalization(2), "BN"),
        (BatchRenormalization(), "BRN"),
        (DomainBatchRenormalization(2), "BRN"),
        (Own(), "BRN"),
        (L.BatchNormalization(), "Keras BN"),
        (L.BatchNormalization(renorm=True), "Keras renorm"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, L.Layer) else value,
)
def test_kinds(layer, kind):
    assert is_batch_norm(layer)
    assert layer_traits.kind(layer) == kind


@pytest.mark.parametrize(
    "layer",
    [L.LayerNormalization(), L.GroupNormalization(1), L.Normalization(), SkipInit(), None],
    ids=lambda layer: type(layer).__name__,
)
def test_what_does_not_use_the_minibatch_is_no_norm(layer):
    assert not is_batch_norm(layer)


@pytest.mark.parametrize("norm", [BatchNormalization, Own, L.BatchNormalization])
def test_a_frozen_layer_does_not_use_the_minibatch(norm):
    layer = norm()
    model = keras.Sequential([keras.Input((4,)), layer])
    assert layer_traits.uses_minibatch(layer)
    model.trainable = False
    assert not layer_traits.uses_minibatch(layer)
    model.trainable = True
    assert layer_traits.uses_minibatch(layer)
    statistics.freeze(model)
    assert layer.trainable
    assert not layer_traits.uses_minibatch(layer)


@pytest.mark.parametrize(
    ("norm", "corrects"),
    [(BatchNormalization, False), (L.BatchNormalization, False), (Own, True)],
)
def test_what_corrects_minibatches(norm, corrects):
    layer = norm()
    assert layer_traits.corrects_minibatches(layer) == corrects
    layer.trainable = False
    assert not layer_traits.corrects_minibatches(layer)


@pytest.mark.parametrize("norm", [BatchNormalization, L.BatchNormalization])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((7, 4), -1), ((7, 5, 4), 2), ((7, 5, 4), 1), ((7, 4, 3, 2), -3), ((7, 2, 1, 3, 4), -1)],
)
def test_positions_are_the_others_sizes_without_the_batch(norm, shape, axis):
    per_channel = np.moveaxis(np.ones(shape), axis, -1).sum(tuple(range(len(shape) - 1)))
    for given in (shape, (None, *shape[1:])):
        assert layer_traits.positions(norm(axis=axis), given) * 7 == per_channel[0]


def test_positions_of_a_size_that_is_not_known():
    assert layer_traits.positions(BatchNormalization(), (None, None, 3, 4)) is None
    assert layer_traits.positions(BatchNormalization(axis=1), (None, None, 3, 4)) == 12


def test_counters(rng):
    fixed, counting = BatchRenormalization(r_max=3.0), BatchRenormalization(r_max=PAPER_R_MAX)
    domains = DomainBatchRenormalization(3, r_max=PAPER_R_MAX)
    x = rng.normal(size=(8, 4)).astype("float32")
    for layer in (fixed, counting):
        layer(x, training=True)
        layer(x, training=False)
    for domain in (1, 1, 2):
        domains(x, training=True, domain=domain)
    assert layer_traits.update_count(fixed) is None
    assert layer_traits.update_count(BatchNormalization()) is None
    assert layer_traits.update_count(L.BatchNormalization()) is None
    assert layer_traits.update_count(counting) == 1
    assert layer_traits.update_count(domains) == 2  # the largest of 0, 2 and 1
    assert [layer_traits.update_count(domains, one) for one in range(3)] == [0, 2, 1]
    shared = DomainBatchRenormalization(
        3, batch_statistics="shared", population_statistics="shared", r_max=PAPER_R_MAX
    )
    shared(x, training=True, domain=1)
    assert layer_traits.update_count(shared, 2) == 1


@pytest.mark.parametrize("norm", [BatchNormalization, BatchRenormalization, L.BatchNormalization])
def test_untouched_statistics(norm, rng):
    layer = norm()
    x = rng.normal(size=(8, 4)).astype("float32")
    layer(x)
    assert layer_traits.is_untouched(layer)
    layer.moving_mean.assign([0.0, 0.0, 0.0, 1e-30])
    assert not layer_traits.is_untouched(layer)
    layer.moving_mean.assign(np.zeros(4))
    layer.moving_variance.assign([1.0, 1.0, 1.0, np.nan])
    assert not layer_traits.is_untouched(layer)


def test_statistics_of_one_domain_alone_are_touched(rng):
    layer = DomainBatchNormalization(3)
    x = rng.normal(size=(8, 4)).astype("float32")
    layer(x, domain=0)
    assert layer_traits.is_untouched(layer)
    layer(x, training=True, domain=2)
    assert not layer_traits.is_untouched(layer)


@pytest.mark.parametrize("options", [{}, {"r_max": 3.0, "d_max": 5.0}])
def test_adaptive_limits_begin_again_with_new_statistics(options, rng):
    layer = BatchRenormalization(**options)
    x = rng.normal(size=(8, 3)).astype("float32")
    assert not layer_traits.begins_again(layer)
    layer(x)
    assert not layer_traits.begins_again(layer)
    layer(x, training=True)
    assert not layer_traits.begins_again(layer)
    statistics.precise(layer, x, verbose=0)
    assert layer_traits.begins_again(layer) == (not options)
    layer(x, training=True)
    assert not layer_traits.begins_again(layer)
    layer.r_max, layer.d_max = 2.0, 1.0
    statistics.precise(layer, x, verbose=0)
    assert not layer_traits.begins_again(layer)


def test_adaptive_limits_forget_the_initial_statistics():
    forgets = layer_traits.forgets_initial_statistics
    assert forgets(BatchRenormalization(r_max=1.0, d_max=Adaptive(5.0)))
    assert not forgets(BatchRenormalization(r_max=1.0, d_max=5.0))
    assert not forgets(BatchNormalization())


@pytest.mark.parametrize("norm", [BatchNormalization, L.BatchNormalization])
def test_initial_statistics_are_kept_until_they_are_set(norm, rng):
    layer = norm()
    assert layer_traits.keeps_initial_statistics(layer)
    layer(rng.normal(size=(8, 3)).astype("float32"), training=True)
    assert not layer_traits.keeps_initial_statistics(layer)
    assert not layer_traits.keeps_initial_statistics(BatchRenormalization())
