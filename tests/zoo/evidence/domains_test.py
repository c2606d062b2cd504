import keras
import numpy as np
import pytest

from zoo.data import datasets
from zoo.evidence import domains


def images():
    return datasets.load("fashion_mnist_subset", "test", None).images


def test_odd_images_lose_contrast():
    pixels = images()[:200]
    x = pixels.astype("float32") / 255
    found, domain = map(np.asarray, domains.TwoDomains()(x))
    odd = pixels.sum((1, 2, 3), dtype=int) % 2
    np.testing.assert_array_equal(domain, odd)
    assert 0.4 < odd.mean() < 0.6
    np.testing.assert_array_equal(found[odd == 0], x[odd == 0])
    np.testing.assert_allclose(found[odd == 1], 0.4 + 0.2 * x[odd == 1], atol=1e-6)


@pytest.mark.parametrize("name", ["shared_domain_shared", "domain_shared_domain"])
def test_a_net_keeps_what_its_name_says(name, tmp_path):
    """Without the warning that it breaks a rule, which would be an error here."""
    model = getattr(domains, name)(
        num_classes=10, input_shape=(28, 28, 1), norm="batch_norm", norm_options={"momentum": 0.9}
    )
    norms = [layer for layer in model.layers if isinstance(layer, domains.DomainNormalization)]
    assert len(norms) == 3
    batch, population, affine = name.split("_")
    for norm in norms:
        assert norm.batch_statistics == batch
        assert norm.population_statistics == population
        assert len(norm.moving_mean.shape) == (2 if population == "domain" else 1)
        assert len(norm.gamma.shape) == (2 if affine == "domain" else 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = images()[:4].astype("float32") / 255
    np.testing.assert_array_equal(loaded(x), model(x))


def test_there_are_eight_and_no_more():
    assert len(domains.ALL) == 8
    with pytest.raises(AttributeError, match="domain_domain"):
        domains.domain_domain  # noqa: B018
