r"""The Inception of the Batch Normalization paper on ImageNet.

    python -m zoo.train --workdir=runs/bn --config=inception_bn_imagenet
    python -m zoo.train --workdir=runs/bn_x5 --config=inception_bn_imagenet \
        --config.learning_rate=0.0075
    python -m zoo.train --workdir=runs/bn_x30 --config=inception_bn_imagenet \
        --config.learning_rate=0.045

BN-x5 and BN-x30 differ in the learning rate alone: 5 and 30 times the 0.0015 of Inception. They
have of the paper's section 4.2.1: no dropout, weight decay a fifth of Inception's, a faster decay
of the rate, and weaker distortions of the images. There is no local response normalization in the
model, and within a pass the order of the images is fresh.

It takes imagenet2012 of TensorFlow Datasets, prepared with file_format="array_record", or a folder:
--config.dataset=folder --config.data_dir=DIR.

Not run to the end: the paper's 72.7 % (BN-Baseline), 73.0 % (BN-x5) and 74.8 % (BN-x30) take
millions of steps of 32 images.

Source: Ioffe & Szegedy 2015, Batch Normalization, section 4.2.
"""

from ml_collections import config_dict

from zoo.training.config import default_config


def get_config() -> config_dict.ConfigDict:
    """Returns the recipe."""
    config = default_config()
    config.model = "inception_bn"
    config.norm = "batch_norm"
    config.auxiliary_weight = 0.3

    config.dataset = "imagenet2012"
    config.image_size = 224
    config.eval_crop_share = 0.875
    config.pixels = "tf"
    config.batch_size = 32
    config.eval_batch_size = 100
    config.augment = True
    config.crop = "inception"
    config.colour_strength = 0.4

    config.num_steps = 3_000_000
    config.learning_rate = 0.0015
    config.learning_rate_schedule = "exponential"
    config.decay_factor = 0.96
    config.decay_every_steps = 0.002
    config.weight_decay = 1e-5
    config.eval_every_steps = 0.01
    config.checkpoint_every_steps = 0.002
    return config
