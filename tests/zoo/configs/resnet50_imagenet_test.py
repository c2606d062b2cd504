from zoo.configs import resnet50_imagenet
from zoo.training import pictures
from zoo.training.config import check_values


def test_the_recipe_is_one():
    config = resnet50_imagenet.get_config()
    check_values(config)
    assert pictures.augmentation(config).crop == "inception"
    assert pictures.preparation(config).crop_share == 0.875
    assert (config["norm"], config["nesterov"]) == ("batch_renorm", True)
