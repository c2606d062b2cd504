r"""A small Inception network on CIFAR-10, for the checkpoints that ship.

    python -m zoo.train --workdir=runs/brn --config=small_inception_cifar10
    python -m zoo.train --workdir=runs/bn --config=small_inception_cifar10 --config.norm=batch_norm

The network is that of Zhang et al. 2017 with half as many filters. All else is as in
`resnet20_cifar10`, but shorter, and in bfloat16.
"""

from ml_collections import config_dict

from zoo.configs import resnet20_cifar10


def get_config() -> config_dict.ConfigDict:
    """Returns the recipe."""
    config = resnet20_cifar10.get_config()
    config.model = "small_inception_48"
    config.precision = "bfloat16"
    config.num_steps = 3000
    return config
