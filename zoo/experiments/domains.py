"""Two domains in one net: Rethinking "Batch", section 5.2."""

import itertools

from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale

_SAME, _POPULATION = Term("shared, shared, shared"), Term("shared, domain, shared")
_BATCH, _BOTH = Term("domain, shared, shared"), Term("domain, domain, shared")
_AFFINE, _ALL = Term("domain, shared, domain"), Term("domain, domain, domain")

EXPERIMENT = Experiment(
    title="Moments, statistics and gammas of two domains",
    source="Wu & Johnson 2021, section 5.2, table 5",
    about=(
        "A net of three convolutions learns Fashion-MNIST (the packaged subset), half of whose "
        "images, in training as in the test, have a fifth of their contrast. Its Batch Norm keeps "
        "three things for both domains together or for each by itself: the moments that it "
        "normalises by in training, the moving averages, and gamma and beta, in this order in the "
        "names. The paper does it with the five levels of a detector's feature pyramid."
    ),
    recipe="few_labels",
    keys={
        "minibatches": "iid",
        "norm": "batch_norm",
        "norm_momentum": 0.97,
        "batch_size": 128,
        "learning_rate": 0.05,
        "num_steps": 400,
        "eval_every_steps": 100,
    },
    arms=tuple(
        Arm(", ".join(kept), {"model": f"zoo.evidence.domains:{'_'.join(kept)}"})
        for kept in itertools.product(("shared", "domain"), repeat=3)
    ),
    claims=(
        Claim(
            "Averages by domain do not fit moments of both domains.",
            "39.1 AP of one kind, 2.1 AP so (table 5)",
            _SAME,
            _POPULATION,
        ),
        Claim(
            "Shared averages do not fit moments by domain.",
            "39.1 AP of one kind, 34.1 AP so",
            _BOTH,
            _BATCH,
        ),
        Claim(
            "Nor do they with a gamma and beta for each domain.",
            "39.2 AP of one kind, 35.5 AP so",
            _ALL,
            _AFFINE,
        ),
        Claim(
            "Where both are of one kind, which kind matters little: within 3 points.",
            "39.1 AP both ways",
            _BOTH,
            _SAME,
            within=0.03,
        ),
        Claim(
            "Nor does a gamma and beta for each domain, within 2 points.",
            "39.2 and 39.1 AP",
            _ALL,
            _BOTH,
            within=0.02,
        ),
    ),
    scales={
        "smoke": Scale({"num_steps": 4, "eval_every_steps": 4, "batch_size": 16}, 2, "1 min"),
        "default": Scale({}, 3, "30 min of training, beside other work"),
        "full": Scale({"dataset": "cifar10", "num_steps": 20_000}, 3, "not run"),
    },
)
