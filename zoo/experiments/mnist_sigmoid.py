"""The sigmoid net on MNIST: Batch Normalization, section 4.1."""

from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale

EXPERIMENT = Experiment(
    title="A sigmoid net on MNIST",
    source="Ioffe & Szegedy 2015, section 4.1, figure 1",
    about=(
        "Three layers of 100 sigmoids learn MNIST from minibatches of 60, with and without Batch "
        "Norm, as in the paper, which trains 50,000 steps on binary images. `steps to target` is "
        "the first evaluation at 95 %, or the length of the run. The 15th, 50th and 85th "
        "percentiles of what comes into a sigmoid of the last hidden layer, over the training: "
        "`drift` is how far the median moves, in mean distances of the outer two, and `widening` "
        "the largest such distance over the smallest; means of ten sigmoids from step 250 on."
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
        "checkpoint_every_steps": 250,
        "keep_every_steps": 250,
    },
    arms=(
        Arm("with Batch Norm", {"norm": "batch_norm"}, follows="hidden3_norm"),
        Arm("without", {"norm": "none"}, follows="hidden3_activation"),
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
        Claim(
            "Without Batch Norm the inputs of sigmoids drift further.",
            "figures 1b and 1c",
            Term("without", "drift"),
            Term("with Batch Norm", "drift"),
        ),
        Claim(
            "Without Batch Norm their distribution widens more.",
            "figures 1b and 1c",
            Term("without", "widening"),
            Term("with Batch Norm", "widening"),
        ),
    ),
    scales={
        "smoke": Scale(
            {
                "num_steps": 10,
                "eval_every_steps": 5,
                "checkpoint_every_steps": 5,
                "keep_every_steps": 5,
                "dataset": "fashion_mnist_subset",
            },
            2,
            "seconds",
        ),
        "default": Scale({}, 5, "20 min of training, beside other work"),
        "full": Scale({"num_steps": 50_000}, 5, "not run"),
    },
    columns=("accuracy", "steps_to_target", "drift", "widening"),
    target=0.95,
)
