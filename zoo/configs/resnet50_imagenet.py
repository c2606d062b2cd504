"""ResNet-50 with Batch Renorm on ImageNet.

    python -m zoo.train --workdir=runs/resnet50 --config=resnet50_imagenet

SGD with Nesterov momentum, a learning rate of 0.1 for 256 images that follows a cosine after a
warm-up, Inception's crops and flips, as is usual since Goyal et al. 2017; 450,000 steps of 256
images are 90 passes. --config.batch_size=32 --config.num_steps=3600000 does the same in smaller
minibatches: the rate is scaled.

It takes imagenet2012 of TensorFlow Datasets, prepared with file_format="array_record", or a folder:
--config.dataset=folder --config.data_dir=DIR.

Not run to the end.

Source: He et al. 2015, Deep Residual Learning for Image Recognition, section 3.4.
"""

from ml_collections import config_dict

from zoo.training.config import default_config


def get_config() -> config_dict.ConfigDict:
    """Returns the recipe."""
    config = default_config()
    config.model = "resnet50"
    config.norm = "batch_renorm"
    config.norm_momentum = 0.99

    config.dataset = "imagenet2012"
    config.image_size = 224
    config.eval_crop_share = 0.875
    config.batch_size = 256
    config.eval_batch_size = 100
    config.augment = True
    config.crop = "inception"

    config.num_steps = 450_000
    config.learning_rate = 0.1
    config.learning_rate_batch_size = 256
    config.warmup_steps = 0.055
    config.nesterov = True
    config.weight_decay = 1e-4
    config.eval_every_steps = 0.011
    config.checkpoint_every_steps = 0.005
    return config
