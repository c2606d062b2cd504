"""Three layers of 100 sigmoids on MNIST, for the checkpoints that ship.

    python -m zoo.train --workdir=runs/brn --config=mlp_sigmoid
    python -m zoo.train --workdir=runs/bn --config=mlp_sigmoid --config.norm=batch_norm

The net and the minibatches of 60 are those of Ioffe & Szegedy 2015, section 4.1. The rate falls
along a cosine.
"""

from ml_collections import config_dict

from zoo.training.config import default_config


def get_config() -> config_dict.ConfigDict:
    """Returns the recipe."""
    config = default_config()
    config.model = "mlp_sigmoid"

    config.dataset = "mnist"
    config.batch_size = 60

    config.num_steps = 20_000
    config.learning_rate = 0.1
    config.eval_every_steps = 1000
    return config
