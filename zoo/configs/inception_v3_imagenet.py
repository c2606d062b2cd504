"""Inception-v3 with Batch Renorm on ImageNet, as in the Batch Renormalization paper.

    python -m zoo.train --workdir=runs/inception_v3 --config=inception_v3_imagenet

It takes imagenet2012 of TensorFlow Datasets, prepared with file_format="array_record", or a folder:
--config.dataset=folder --config.data_dir=DIR. The paper trains 50 replicas with minibatches of 32
each; here a minibatch is of 32 images, and --config.strategy and --config.batch_size give more.
Gauges are recorded on one device only.

RMSProp with a decay of the squares of 0.9 and an epsilon of 1, an auxiliary classifier, averages of
all weights, gamma fixed to 1, Inception's crops and colours: all as in Szegedy et al. 2015
(Rethinking the Inception Architecture), section 8, where the Batch Renormalization paper is silent.
The learning rate falls by 0.94 every two passes there, and every 1,599 steps here. Both are the
same at the paper's 1,600 images a step: with minibatches of 32 those steps are 0.04 passes, which
--config.decay_every_steps changes. r_max and d_max rise as in section 4 of the Batch
Renormalization paper: r_max from 1 to 3 between 5,000 and 40,000 of 130,000 steps, d_max from 0 to
5 between 5,000 and 25,000.

The rate of 0.045 is for a minibatch of 256 and scales with yours, as in the authors' later code for
TPUs, 0.165 for 1,024. As a rate for the 1,600 of all replicas it leaves a few images without an
effect. As a rate for the 32 of one it let the loss of 8 images rise from 3.1 to 13.7 within 50
steps.

Not run to the end: the paper's 78.5 % at step 130,000 would take months on two cores. It was tried
for 300 steps of 8 images of 107 pixels on a folder, 4,000 images of CIFAR-10 as JPEGs of 160, with
--config.crop_area=0.5 --config.colour_strength=0 --config.decay_every_steps=0.05, and with
--config.r_max=None, d_max and both ramps likewise, so that the limits follow from what layers see:
the loss fell from 2.55 in the first 50 steps to 2.16 in the last 50, in 13 min on a part of a core.
With the recipe's own ramps, which stay closed for 3 / (1 - norm_momentum), all 300 steps, and say
so, the means of 50 steps were 2.50, 2.37, 2.38, 2.28, 2.19 and 2.20, in 13 min on one or two cores
of an AMD EPYC. The run was stopped at step 219 and resumed. Ramps that begin earlier let the loss
rise: with --config.r_max_ramp=0.33,0.9 --config.d_max_ramp=0.33,0.6 and a norm_momentum of 0.9 it
was 2.53, 2.47, 2.39, 2.45 and 2.51, and 2.82 from step 251 to 280.

TensorBoard had ten gauges of each of 96 norms. Two workers with minibatches of 4 trained 10 steps,
and resumed for four more. Two workers record no gauges.

Source: Ioffe 2017, Batch Renormalization, section 4.
"""

from ml_collections import config_dict

from zoo.training.config import default_config


def get_config() -> config_dict.ConfigDict:
    """Returns the recipe."""
    config = default_config()
    config.model = "inception_v3"
    config.norm = "batch_renorm"
    config.norm_momentum = 0.99
    config.norm_scale = False
    config.r_max, config.r_max_ramp = 3.0, "paper"
    config.d_max, config.d_max_ramp = 5.0, "paper"
    config.auxiliary_weight = 0.4

    config.dataset = "imagenet2012"
    config.image_size = 299
    config.eval_crop_share = 0.875
    config.pixels = "tf"
    config.batch_size = 32
    config.eval_batch_size = 100
    config.augment = True
    config.crop = "inception"
    config.colour_strength = 1.0

    config.num_steps = 130_000
    config.optimizer = "rmsprop"
    config.learning_rate = 0.045
    config.learning_rate_batch_size = 256
    config.learning_rate_schedule = "exponential"
    config.decay_factor = 0.94
    config.decay_every_steps = 0.0123
    config.rho = 0.9
    config.momentum = 0.9
    config.optimizer_epsilon = 1.0
    config.label_smoothing = 0.1
    config.weight_decay = 4e-5
    config.average_decay = 0.9999
    config.eval_every_steps = 0.01
    config.checkpoint_every_steps = 0.005
    config.gauges_every_steps = 0.005
    return config
