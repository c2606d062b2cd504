"""The sigmoid net on MNIST: Batch Normalization, section 4.1."""

from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale

EXPERIMENT = Experiment(
    title="A sigmoid net on MNIST",
    source="Ioffe & Szegedy 2015, section 4.1, figure 1a",
    about=(
        "Three layers of 100 sigmoids learn MNIST from minibatches of 60, with and without Batch "
        "Norm, as in the paper, which trains 50,000 steps on binary images. `steps to target` is "
        "the first evaluation at 95 %, or the length of the run."
    ),
    recipe="few_labels",
    keys={
        "model": "mlp_sigmoid",
        "dataset": "mnist",
        "minibatches": "iid",
        "learning_rate": 0.02,
        "learning_rate_schedule": "constant",
        "num_steps": 5000,
        "eval_every_steps": 100,
    },
    arms=(
        Arm("with Batch Norm", {"norm": "batch_norm"}),
        Arm("without", {"norm": "none"}),
    ),
    claims=(
        Claim(
            "Batch Norm has the higher test accuracy.",
            "figure 1a",
            Term("with Batch Norm"),
            Term("without"),
        ),
        Claim(
            "Batch Norm reaches 95 % in fewer steps.",
            "figure 1a",
            Term("without", "steps_to_target"),
            Term("with Batch Norm", "steps_to_target"),
        ),
    ),
    scales={
        "smoke": Scale(
            {"num_steps": 10, "eval_every_steps": 5, "dataset": "fashion_mnist_subset"},
            2,
            "seconds",
        ),
        "default": Scale({}, 5, "3 min of training, beside other work"),
        "full": Scale({"num_steps": 50_000}, 5, "not run"),
    },
    columns=("accuracy", "steps_to_target"),
    target=0.95,
)
