"""ResNet-20 with Batch Renorm on small images.

    python -m zoo.train --workdir=runs/resnet20 --config=resnet20
    python -m zoo.train --workdir=runs/fashion --config=resnet20 --config.dataset=fashion_mnist
    python -m zoo.train --workdir=runs/cifar10 --config=resnet20 --config.dataset=cifar10

The first takes the packaged images, the others full sets that TensorFlow Datasets has prepared.
Minibatches are independent; images are padded, cropped and flipped; weights decay by 1e-4, all as
in He et al. 2015, section 4.2.

8,000 steps of 128 images are 102 passes over the packaged images, 17 over Fashion-MNIST and 20
over CIFAR-10.

The second command, with seed 0, reached a test accuracy of 93.57 % (loss 0.181) in 49 min on two
cores of an Intel Xeon at 2.6 GHz that had other work to do; at the 580 images/s of its last steps
it would have been 30 min.
"""

from ml_collections import config_dict

from zoo.training.config import default_config


def get_config() -> config_dict.ConfigDict:
    """Returns the recipe."""
    config = default_config()
    config.model = "resnet20"
    # The ramps take the paper's shape: r_max rises from 5 % to 35 % of the training, d_max to 25 %.
    config.r_max, config.r_max_ramp = 3.0, "0.05,0.35"
    config.d_max, config.d_max_ramp = 5.0, "0.05,0.25"

    config.batch_size = 128
    config.augment = True

    config.num_steps = 8000
    config.learning_rate = 0.1
    config.warmup_steps = 0.05
    config.eval_every_steps = 0.0625
    config.weight_decay = 1e-4
    return config
