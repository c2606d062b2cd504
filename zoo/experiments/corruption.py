"""Statistics of the images at hand: Rethinking "Batch", section 5.1."""

from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale

_KINDS = {"contrast": "40.8", "noise": "64.4", "jpeg": "40.4"}
_AFTER = {"contrast": "33.1", "noise": "52.5", "jpeg": "36.7"}
_ARM = "Batch Norm"

EXPERIMENT = Experiment(
    title="Statistics of corrupted images",
    source="Wu & Johnson 2021, section 5.1",
    about=(
        "A wide residual net of 10 layers learns Fashion-MNIST (the packaged subset). It is tested "
        "on corrupted test images with the moving averages of training, and with the statistics of "
        "1,000 other images with the same corruption; no weight changes. The paper does it with a "
        "ResNet-50 and ImageNet-C."
    ),
    recipe="resnet20",
    keys={
        "model": "wide_resnet_10_1",
        "norm": "batch_norm",
        "batch_size": 64,
        "num_steps": 600,
        "norm_momentum": 0.9,
        "eval_every_steps": 100,
    },
    arms=(Arm(_ARM, {}, tuple(f"{kind}{what}" for kind in _KINDS for what in ("", "_adapted"))),),
    claims=tuple(
        Claim(
            f"Statistics of such images help against {kind}.",
            f"error {_AFTER[kind]} instead of {_KINDS[kind]} %",
            Term(_ARM, f"{kind}_adapted"),
            Term(_ARM, kind),
        )
        for kind in _KINDS
    ),
    scales={
        "smoke": Scale(
            {"num_steps": 4, "eval_every_steps": 4, "batch_size": 16, "model": "mlp"}, 2, "seconds"
        ),
        "default": Scale({}, 3, "2 min of training, beside other work"),
        "full": Scale(
            {"model": "resnet20", "dataset": "cifar10", "num_steps": 20_000}, 3, "not run"
        ),
    },
    columns=("accuracy", *(f"{kind}{what}" for kind in _KINDS for what in ("", "_adapted"))),
)
