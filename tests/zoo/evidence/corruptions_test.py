import numpy as np

from zoo.evidence import corruptions


def images(rng):
    return rng.uniform(0.3, 0.7, (4, 8, 8, 3)).astype("float32")


def test_contrast_keeps_the_mean(rng):
    x = images(rng)
    found = corruptions.contrast(x)
    np.testing.assert_allclose(found.mean((1, 2)), x.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(found.std((1, 2)), corruptions.CONTRAST * x.std((1, 2)), rtol=1e-4)


def test_noise_is_gaussian_cut_off_and_the_same_each_time(rng):
    x = np.full((50, 28, 28, 1), 0.5, "float32")
    found = corruptions.noise(x)
    np.testing.assert_array_equal(found, corruptions.noise(x))
    assert found.min() >= 0
    assert found.max() <= 1
    # 0.5 is 2.5 deviations from both ends, where little is cut off.
    np.testing.assert_allclose((found - x).std(), corruptions.NOISE, rtol=0.03)


def test_jpeg_keeps_flat_images_and_spoils_others(rng):
    flat = np.full((2, 16, 16, 1), 128 / 255, "float32")
    np.testing.assert_allclose(corruptions.jpeg(flat), flat, atol=0.01)
    x = images(rng)
    assert np.abs(corruptions.jpeg(x) - x).mean() > 0.05
