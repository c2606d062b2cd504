import hypothesis
import hypothesis.strategies as st
import numpy as np

from keras_renorm.statistics.moments import PopulationMoments


@hypothesis.given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    mean=st.sampled_from([0.0, 1e4, -1e6]),
)
def test_moments_of_parts_are_those_of_the_whole(sizes, mean):
    x = np.random.default_rng(0).normal(mean, 1.0, (sum(sizes), 3))
    moments, within = PopulationMoments(), 0.0
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        own = part.mean(0) if len(part) else np.zeros(3)
        variance = part.var(0) if len(part) else np.zeros(3)
        moments.add(np.full(3, float(len(part))), own, variance)
        within += len(part) * variance
    np.testing.assert_array_equal(moments.count, np.full(3, len(x)))
    for result in (moments.total(), moments.mean_of_batch_variances()):
        np.testing.assert_allclose(result[0], x.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.total()[1], x.var(0), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(moments.mean_of_batch_variances()[1], within / len(x), rtol=1e-9)
