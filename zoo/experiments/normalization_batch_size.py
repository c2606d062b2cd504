"""Moments over few images, and which statistics inference uses: Rethinking "Batch", 3 and 4."""

from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale

_SIZES = (2, 4, 16, 64)
_MEASURES = ("precise", "precise_100", "precise_by_2", "minibatch")


def _name(size: int) -> str:
    return f"{size} images"


def _frozen(size: int) -> str:
    return f"{size} images, frozen for the last fifth"


EXPERIMENT = Experiment(
    title="The normalization batch size",
    source="Wu & Johnson 2021, sections 3 and 4",
    about=(
        "A wide residual net of 10 layers learns Fashion-MNIST (the packaged subset) with Batch "
        "Norm. The gradient is of 64 images, the moments are of ghost batches of fewer. Inference "
        "uses the moving averages (accuracy), the statistics of 2,000 training images with the "
        "final weights (precise), of 100 of them, or of 400 that are taken 2 at a time, or those "
        "of as many test images as in training (minibatch). The paper trains a ResNet-50 on "
        "ImageNet."
    ),
    recipe="resnet20",
    keys={
        "model": "wide_resnet_10_1",
        "norm": "batch_norm",
        "batch_size": 64,
        "num_steps": 400,
        "norm_momentum": 0.9,
        "eval_every_steps": 100,
    },
    arms=(
        *(Arm(_name(n), {"virtual_batch_size": n % 64}, _MEASURES) for n in _SIZES),
        Arm(_frozen(2), {"virtual_batch_size": 2, "freeze_statistics_at_step": 0.8}),
    ),
    claims=(
        Claim(
            "Moments over 2 images cost accuracy.",
            "error 35.5 % at 2, 23.7 % at 32 (section 3)",
            Term(_name(64)),
            Term(_name(2)),
        ),
        Claim(
            "At 2 images precise statistics beat the moving averages.",
            "error 32.0 against 35.5 % (section 3)",
            Term(_name(2), "precise"),
            Term(_name(2)),
        ),
        Claim(
            "At 64 images it makes no difference, within 1 point.",
            "error 23.5 against 23.7 % at 32 (section 3)",
            Term(_name(64), "precise"),
            Term(_name(64)),
            within=0.01,
        ),
        Claim(
            "Precise statistics that are taken 2 images at a time are worse.",
            "error 28.8 against 23.5 % at 32 (section 3)",
            Term(_name(64), "precise"),
            Term(_name(64), "precise_by_2"),
        ),
        Claim(
            "At 2 images a net that trains on with frozen statistics is ahead.",
            "error 25.2 against 32.5 % (section 4)",
            Term(_frozen(2)),
            Term(_name(2)),
        ),
        Claim(
            "At 2 images the statistics of 2 test images are ahead of population statistics.",
            "error 26.0 against 32.5 % (section 4)",
            Term(_name(2), "minibatch"),
            Term(_name(2), "precise"),
        ),
        Claim(
            "At 64 images it makes no difference, within 1.5 points.",
            "error 23.2 against about 24.5 % (section 4)",
            Term(_name(64), "precise"),
            Term(_name(64), "minibatch"),
            within=0.015,
        ),
    ),
    scales={
        "smoke": Scale(
            {
                "num_steps": 4,
                "eval_every_steps": 4,
                "batch_size": 16,
                "model": "mlp",
            },
            2,
            "seconds",
        ),
        "default": Scale({}, 3, "27 min of training, beside other work"),
        "full": Scale(
            {"model": "resnet20", "dataset": "cifar10", "num_steps": 20_000}, 3, "not run"
        ),
    },
    columns=("accuracy", *_MEASURES),
)
