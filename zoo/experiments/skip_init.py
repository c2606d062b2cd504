"""Deep residual nets without normalisation: De & Smith, section 4."""

from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale

_DEPTHS = (16, 64)


def _arms(depth: int) -> tuple[Arm, ...]:
    model = {"model": f"wide_resnet_{depth}_1"}
    rate = {"learning_rate": 0.01}
    skip_init = model | rate | {"norm": "skip_init"}
    return (
        Arm(
            f"Batch Norm, depth {depth}",
            model | {"norm": "batch_norm", "norm_momentum": 0.9, "learning_rate": 0.1},
        ),
        Arm(f"alpha = 0, depth {depth}", skip_init | {"skip_init_value": "zero"}),
        Arm(f"alpha = 1, depth {depth}", skip_init | {"skip_init_value": "one"}),
    )


EXPERIMENT = Experiment(
    title="Deep residual nets without normalization",
    source="De & Smith 2020, table 1",
    about=(
        "Pre-activation residual nets of 16 and 64 layers learn Fashion-MNIST (the packaged "
        "subset) in 300 steps, with Batch Norm at a learning rate of 0.1 and with SkipInit at "
        "0.01, both fixed beforehand. The paper's nets have 16, 100 and 1,000 layers and learn "
        "CIFAR-10, each with the best rate of a grid."
    ),
    recipe="resnet20",
    keys={
        "batch_size": 32,
        "num_steps": 300,
        "eval_every_steps": 100,
        "augment": False,
    },
    arms=tuple(arm for depth in _DEPTHS for arm in _arms(depth)),
    claims=(
        Claim(
            "SkipInit trains the deeper net as it trains the shallower one, within 5 points.",
            "94.2 % at depth 100, 93.3 % at 16",
            Term(f"alpha = 0, depth {_DEPTHS[1]}"),
            Term(f"alpha = 0, depth {_DEPTHS[0]}"),
            within=0.05,
        ),
        Claim(
            "The deeper net needs a small alpha: with 1 it fails.",
            "alpha = 1 fails at depths 100 and 1,000",
            Term(f"alpha = 0, depth {_DEPTHS[1]}"),
            Term(f"alpha = 1, depth {_DEPTHS[1]}"),
            by=0.3,
        ),
        Claim(
            "SkipInit is within 3 points of Batch Norm in the deeper net.",
            "94.2 against 94.7 % at depth 100",
            Term(f"alpha = 0, depth {_DEPTHS[1]}"),
            Term(f"Batch Norm, depth {_DEPTHS[1]}"),
            within=0.03,
        ),
    ),
    scales={
        "smoke": Scale({"num_steps": 2, "batch_size": 8, "image_size": 8}, 2, "1 min"),
        "default": Scale({}, 3, "90 min of training, two runs on one core"),
        "full": Scale({"dataset": "cifar10", "num_steps": 150_000, "batch_size": 64}, 3, "not run"),
    },
)
