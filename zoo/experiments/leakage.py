"""Minibatches whose members give each other away: Rethinking "Batch", section 6."""

from typing import Any

from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale

_WORKERS, _IMAGES = 5, 20
_OWN: dict[str, Any] = {"norm": "batch_norm", "virtual_batch_size": _IMAGES}
_LEAK, _DEALT, _SYNCHRONIZED = "two labels each", "dealt out", "synchronized"
_ONE_LABEL, _RENORM = "ghosts of one label", "Batch Renorm, two labels each"

EXPERIMENT = Experiment(
    title="Workers whose images give each other away",
    source="Wu & Johnson 2021, section 6",
    about=(
        "A perceptron of three layers learns Fashion-MNIST (the packaged subset) from minibatches "
        "of 100 images, 10 of each label. Five workers, here ghost batches, have 20 images of two "
        "labels each and normalise by these. `minibatch` is the accuracy with the moments of such "
        "ghosts of test images. The cures: the images of all workers are dealt out among them; "
        "moments are of all 100; ghosts have one label, and so nothing to tell apart; Batch "
        "Renorm. The paper trains a detector whose head sees regions of one image on each GPU."
    ),
    recipe="few_labels",
    keys={
        "labels_per_batch": 2 * _WORKERS,
        "batch_size": _WORKERS * _IMAGES,
        "num_steps": 2000,
        "eval_every_steps": 100,
    },
    arms=(
        Arm(_LEAK, _OWN, ("minibatch",)),
        Arm(_DEALT, _OWN | {"model": "zoo.evidence.dealing:fifths"}, ("minibatch",)),
        Arm(_SYNCHRONIZED, {"norm": "batch_norm"}, ("minibatch",)),
        Arm(_ONE_LABEL, _OWN | {"virtual_batch_size": _IMAGES // 2}, ("minibatch",)),
        Arm(_RENORM, _OWN | {"norm": "batch_renorm"}, ("minibatch",)),
    ),
    claims=(
        Claim(
            "Moments of a worker's own images cost accuracy.",
            "30.7 AP, and 41.7 synchronized",
            Term(_SYNCHRONIZED),
            Term(_LEAK),
        ),
        Claim(
            "The net is good where it may see such workers at inference.",
            "41.5 AP with the statistics of minibatches, 30.7 without",
            Term(_LEAK, "minibatch"),
            Term(_LEAK),
        ),
        Claim(
            "Dealing the images out among the workers cures it.",
            "41.7 AP shuffled, 30.7 not",
            Term(_DEALT),
            Term(_LEAK),
        ),
        Claim(
            "Dealt out or synchronized is the same, within 2 points.",
            "41.7 AP both",
            Term(_DEALT),
            Term(_SYNCHRONIZED),
            within=0.02,
        ),
        Claim(
            "Ghosts of one label are ahead of ghosts of two.",
            "not in the paper",
            Term(_ONE_LABEL),
            Term(_LEAK),
        ),
        Claim(
            "Batch Renorm is ahead of Batch Norm with the same workers.",
            "not in the paper",
            Term(_RENORM),
            Term(_LEAK),
        ),
        Claim(
            "Batch Renorm does as well as synchronized Batch Norm, within 3 points.",
            "not in the paper",
            Term(_RENORM),
            Term(_SYNCHRONIZED),
            within=0.03,
        ),
    ),
    scales={
        "smoke": Scale({"num_steps": 10, "eval_every_steps": 5}, 2, "seconds"),
        "default": Scale({}, 5, "3 min of training, beside other work"),
        "full": Scale({"num_steps": 30_000, "dataset": "fashion_mnist"}, 5, "not run"),
    },
    columns=("accuracy", "minibatch"),
)
