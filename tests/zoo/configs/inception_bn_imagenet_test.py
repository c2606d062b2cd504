from zoo.configs import inception_bn_imagenet
from zoo.training import pictures
from zoo.training.config import check_values


def test_the_recipe_is_one():
    config = inception_bn_imagenet.get_config()
    check_values(config)
    assert pictures.augmentation(config).crop == "inception"
    assert pictures.preparation(config).crop_share == 0.875
    assert (config["norm"], config["weight_decay"]) == ("batch_norm", 1e-5)
