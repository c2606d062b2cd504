from zoo.configs import resnet20_cifar10, small_inception_cifar10
from zoo.training.config import check_values


def test_all_but_the_net_the_length_and_the_precision_is_as_for_resnet20():
    config = small_inception_cifar10.get_config()
    check_values(config)
    other = resnet20_cifar10.get_config()
    differ = {key for key in config if config[key] != other[key]}
    assert differ == {"model", "num_steps", "precision"}
    assert config.model == "small_inception_48"
