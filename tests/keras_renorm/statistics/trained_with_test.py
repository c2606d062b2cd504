import keras
import numpy as np
import pytest

from keras_renorm import layers
from keras_renorm.statistics import freeze, moving_statistics
from keras_renorm.statistics.trained_with import leads_away, limits, square_distances

EPSILON = 0.01
BEFORE = np.array([0.5, -1.0, 2.0]), np.array([1.0, 4.0, 0.5])
LIMITS = {
    "batch norm": None,
    "closed": (1.0, 0.0),
    "narrow": (1.2, 0.3),
    "wide": (30.0, 50.0),
    "none": (np.inf, np.inf),
}


def norm_of(pair, **options):
    options |= {"epsilon": EPSILON}
    if pair is None:
        layer = layers.BatchNormalization(**options)
    else:
        layer = layers.BatchRenormalization(r_max=pair[0], d_max=pair[1], **options)
    layer.build((None, 3))
    moving_statistics.write(layer, moving_statistics.values(layer, BEFORE))
    return layer


def outputs(layer, x, statistics=None, **call):
    if statistics is not None:
        moving_statistics.write(layer, moving_statistics.values(layer, statistics))
    return np.float64(keras.ops.convert_to_numpy(layer(x, **call)))


@pytest.mark.parametrize("pair", LIMITS.values(), ids=LIMITS)
def test_the_distances_are_those_of_the_layers_own_outputs(rng, pair):
    x = rng.normal([1.0, -2.0, 2.5], [2.0, 1.0, 3.0], (4000, 3)).astype("f4")
    new = np.float64(x).mean(0), np.float64(x).var(0)
    layer = norm_of(pair)
    found = square_distances([(layer, BEFORE, new)])
    training = outputs(layer, x, training=True)
    for distance, statistics in zip(found, (BEFORE, new), strict=True):
        square = np.mean((training - outputs(layer, x, statistics)) ** 2)
        # An output has a variance of var / (var + epsilon).
        np.testing.assert_allclose(distance, square, rtol=2e-2, atol=1e-9)


def test_what_is_clipped_nowhere_agrees_with_the_averages_and_batch_norm_with_the_moments():
    new = BEFORE[0] + 1, BEFORE[1] * 2
    assert square_distances([(norm_of((np.inf, np.inf)), BEFORE, new)])[0] == 0
    assert square_distances([(norm_of(None), BEFORE, new)])[1] == 0


def test_a_diverged_net_has_great_distances_without_a_warning():
    new = BEFORE[0] + 1e25, BEFORE[1]
    before, after = square_distances([(norm_of((3.0, 5.0)), BEFORE, new)])
    np.testing.assert_allclose(before, np.mean((1e25**2) / (BEFORE[1] + EPSILON)), rtol=1e-5)
    assert after == 5**2


def test_several_layers_and_domains_are_averaged():
    new = BEFORE[0] + 1, BEFORE[1]
    wide, plain = norm_of((3.0, 5.0)), norm_of(None)
    each = [square_distances([(layer, BEFORE, new)]) for layer in (wide, plain)]
    both = square_distances([(wide, BEFORE, new), (plain, BEFORE, new)])
    np.testing.assert_allclose(both, np.mean(each, axis=0), rtol=1e-6)
    domains = layers.DomainBatchRenormalization(2, r_max=3.0, d_max=5.0, epsilon=EPSILON)
    domains.build((None, 3))
    stacked = (
        [np.stack([one, one]) for one in BEFORE],
        [np.stack(p) for p in zip(BEFORE, new, strict=True)],
    )
    domains.moving_mean.assign(stacked[0][0])
    np.testing.assert_allclose(
        square_distances([(domains, *stacked)]), np.array(each[0]) / 2, rtol=1e-6
    )


def test_only_what_has_trained_with_minibatches_counts():
    new = BEFORE[0] + 9, BEFORE[1]
    frozen, fixed, fresh = (norm_of((3.0, 5.0)) for _ in range(3))
    freeze(frozen)
    fixed.trainable = False
    fresh.moving_mean.assign(np.zeros(3))
    fresh.moving_variance.assign(np.ones(3))
    assert square_distances([(layer, BEFORE, new) for layer in (frozen, fixed, fresh)]) == (0, 0)
    assert square_distances([]) == (0, 0)


@pytest.mark.parametrize(
    ("layer", "desired"),
    [
        (lambda: keras.layers.BatchNormalization(), (1.0, 0.0)),
        (lambda: keras.layers.BatchNormalization(renorm=True), (np.inf, np.inf)),
        (
            lambda: keras.layers.BatchNormalization(
                renorm=True, renorm_clipping={"rmax": 3.0, "rmin": 1 / 3, "dmax": 5.0}
            ),
            (3.0, 5.0),
        ),
        (lambda: layers.BatchNormalization(), (1.0, 0.0)),
        (lambda: layers.BatchRenormalization(r_max=2.0, d_max=4.0), (2.0, 4.0)),
        (lambda: layers.BatchRenormalization(), (1.0, 0.0)),
    ],
)
def test_the_limits_of_every_kind(layer, desired):
    layer = layer()
    layer.build((None, 3))
    assert limits(layer) == desired


def test_much_more_than_before_leads_away():
    assert leads_away(0.0, 0.2)
    assert not leads_away(0.1, 0.2)
    assert not leads_away(0.9, 0.2)
