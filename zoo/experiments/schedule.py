"""How fast the limits open: Batch Renormalization, sections 3 and 4.1."""

from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale

_UNLIMITED = 1e6

EXPERIMENT = Experiment(
    title="How the limits open",
    source="Ioffe 2017, sections 3 and 4.1",
    about=(
        "A perceptron of three layers learns Fashion-MNIST (the packaged subset) from minibatches "
        "of 60 images of two labels, with Batch Renorm's default limits, with limits of 3 and 5 "
        "that open in other ways, with none, and at another momentum. The paper opens r_max from 4 "
        "to 31 % and d_max from 4 to 19 % of the training."
    ),
    recipe="few_labels",
    keys={"num_steps": 2000, "eval_every_steps": 100, "norm": "batch_renorm"},
    arms=(
        Arm("default", {}),
        Arm("the paper's ramps", {"r_max_ramp": "0.04,0.31", "d_max_ramp": "0.04,0.19"}),
        Arm("slow ramps", {"r_max_ramp": "0.04,0.9", "d_max_ramp": "0.04,0.9"}),
        Arm("fast ramps", {"r_max_ramp": "0.01,0.05", "d_max_ramp": "0.01,0.05"}),
        Arm("3 and 5 throughout", {"r_max": 3.0, "d_max": 5.0}),
        Arm("no limits", {"r_max": _UNLIMITED, "d_max": _UNLIMITED}),
        Arm("default, momentum 0.9", {"norm_momentum": 0.9}),
        Arm(
            "the paper's ramps, momentum 0.9",
            {"r_max_ramp": "0.04,0.31", "d_max_ramp": "0.04,0.19", "norm_momentum": 0.9},
        ),
    ),
    claims=(
        Claim(
            "The paper's ramps are ahead of no limits from the first step.",
            "limits that open slowly were important for stability (section 4.1)",
            Term("the paper's ramps"),
            Term("no limits"),
        ),
        Claim(
            "The paper's ramps are ahead of ramps that open at once.",
            "as above",
            Term("the paper's ramps"),
            Term("fast ramps"),
        ),
        Claim(
            "The default needs no number of steps and is as good as the paper's ramps, or better.",
            "not in the paper",
            Term("default"),
            Term("the paper's ramps"),
            by=-0.005,
        ),
    ),
    scales={
        "smoke": Scale({"num_steps": 40, "eval_every_steps": 20}, 2, "seconds"),
        "default": Scale({}, 5, "9 min of training, beside other work"),
        "full": Scale({"num_steps": 30_000, "dataset": "fashion_mnist"}, 5, "not run"),
    },
)
