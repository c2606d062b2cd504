from zoo.configs import norm_batch
from zoo.training import builders
from zoo.training.config import check_values


def test_moments_are_of_two_images_and_gradients_of_64():
    config = norm_batch.get_config()
    check_values(config)
    assert (config.model, config.norm, config.dataset) == ("resnet20", "batch_norm", "cifar10")
    assert config.batch_size == 64
    assert builders.norm_options(config)["virtual_batch_size"] == 2
