"""Moments over few images: Batch Renormalization, section 4.2."""

from typing import Any

from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale

_BATCH = 128
_SIZES = (2, 4, 8, 32, _BATCH)
_NORMS: dict[str, dict[str, Any]] = {
    "Batch Norm": {"norm": "batch_norm"},
    "Batch Renorm": {"norm": "batch_renorm"},
}


def _name(norm: str, size: int) -> str:
    return f"{norm}, {size} images"


EXPERIMENT = Experiment(
    title="Moments over few images",
    source="Ioffe 2017, section 4.2",
    about=(
        "A perceptron of three layers learns Fashion-MNIST (the packaged subset). The gradient is "
        "of 128 images, the moments are of ghost batches of fewer. Batch Renorm has the default "
        "limits. The paper trains Inception-v3 on ImageNet, with gradients of 1,600 images and "
        "moments of 32 or 4."
    ),
    recipe="few_labels",
    keys={"minibatches": "iid", "batch_size": _BATCH, "num_steps": 2000, "eval_every_steps": 50},
    arms=tuple(
        Arm(_name(norm, size), keys | {"virtual_batch_size": size % _BATCH})
        for norm, keys in _NORMS.items()
        for size in _SIZES
    ),
    claims=(
        Claim(
            "Moments over 4 images cost Batch Norm accuracy.",
            "78.3 % over 32 images, 74.2 % over 4",
            Term(_name("Batch Norm", 32)),
            Term(_name("Batch Norm", 4)),
        ),
        Claim(
            "Over 4 images Batch Renorm is ahead of Batch Norm.",
            "76.5 against 74.2 %",
            Term(_name("Batch Renorm", 4)),
            Term(_name("Batch Norm", 4)),
        ),
        Claim(
            "Over 4 images Batch Renorm gets there sooner.",
            "130k steps, and 210k with Batch Norm",
            Term(_name("Batch Norm", 4), "steps_to_target"),
            Term(_name("Batch Renorm", 4), "steps_to_target"),
        ),
        Claim(
            "Over 2 images Batch Renorm is ahead of Batch Norm.",
            "not in the paper",
            Term(_name("Batch Renorm", 2)),
            Term(_name("Batch Norm", 2)),
        ),
        Claim(
            "Over all images the two are equal, within 1 point.",
            "78.5 and 78.3 % over 32 images",
            Term(_name("Batch Renorm", _BATCH)),
            Term(_name("Batch Norm", _BATCH)),
            within=0.01,
        ),
    ),
    scales={
        "smoke": Scale({"num_steps": 10, "eval_every_steps": 5}, 2, "seconds"),
        "default": Scale({}, 5, "23 min of training, beside other work"),
        "full": Scale({"num_steps": 30_000, "dataset": "fashion_mnist"}, 5, "not run"),
    },
    columns=("accuracy", "steps_to_target"),
    target=0.82,
)
