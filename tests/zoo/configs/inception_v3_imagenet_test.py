from zoo.configs import inception_v3_imagenet
from zoo.training import builders, optimizers, pictures
from zoo.training.config import check_values


def test_the_recipe_is_one():
    config = inception_v3_imagenet.get_config()
    check_values(config)
    assert pictures.augmentation(config).crop == "inception"
    assert pictures.preparation(config).crop_share == 0.875
    options = builders.norm_options(config)
    assert options["scale"] is False
    assert optimizers.peak_rate(config) == 0.045 / 8
    assert (options["r_max"].start_step, options["r_max"].end_step) == (5000, 40_000)
    assert (options["d_max"].start_step, options["d_max"].end_step) == (5000, 25_000)
