"""Higher learning rates with Batch Norm: Batch Normalization, section 4.2."""

from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale

_RATE = 0.002


def _arm(norm: str, times: int, model: str = "mlp") -> Arm:
    title = {"none": "no norm", "batch_norm": "BN"}[norm]
    unit = ", sigmoid" if model == "mlp_sigmoid" else ""
    keys = {"norm": norm, "learning_rate": round(times * _RATE, 6), "model": model}
    return Arm(f"{title} x{times}{unit}", keys)


EXPERIMENT = Experiment(
    title="Learning rates times 5 and times 30",
    source="Ioffe & Szegedy 2015, section 4.2",
    about=(
        "A perceptron of three layers learns Fashion-MNIST (the packaged subset) without a norm "
        "and with Batch Norm, at a learning rate, at 5 and at 30 times that, with ReLU and with "
        "sigmoids. The schedule and all else are the same. `steps to target` is the first "
        "evaluation at 82 %, or the length of the run. The paper trains Inception on ImageNet, to "
        "72.2 %."
    ),
    recipe="few_labels",
    keys={"minibatches": "iid", "eval_every_steps": 25, "num_steps": 2000},
    arms=(
        *(_arm(norm, times) for norm in ("none", "batch_norm") for times in (1, 5, 30)),
        _arm("none", 5, "mlp_sigmoid"),
        _arm("batch_norm", 5, "mlp_sigmoid"),
    ),
    claims=(
        Claim(
            "At the same rate Batch Norm reaches the accuracy in fewer steps.",
            "13.3M steps instead of 31.0M to 72.2 % (figure 3)",
            Term("no norm x1", "steps_to_target"),
            Term("BN x1", "steps_to_target"),
        ),
        Claim(
            "Five times the rate reaches it in still fewer.",
            "2.1M steps (figure 3)",
            Term("BN x1", "steps_to_target"),
            Term("BN x5", "steps_to_target"),
        ),
        Claim(
            "With Batch Norm, 30 times the rate ends above the baseline rate.",
            "74.8 against 72.7 % (figure 3)",
            Term("BN x30"),
            Term("BN x1"),
        ),
        Claim(
            "Without it, 30 times the rate does not train.",
            "the parameters reach machine infinity at 5 times the rate (section 4.2.2)",
            Term("BN x30"),
            Term("no norm x30"),
            by=0.3,
        ),
        Claim(
            "With sigmoids a net without Batch Norm stays near chance.",
            "69.8 % with, below 1/1000 without (section 4.2.2)",
            Term("BN x5, sigmoid"),
            Term("no norm x5, sigmoid"),
            by=0.3,
        ),
    ),
    scales={
        "smoke": Scale({"num_steps": 10, "eval_every_steps": 5}, 2, "seconds"),
        "default": Scale({}, 5, "6 min of training, beside other work"),
        "full": Scale({"dataset": "fashion_mnist", "num_steps": 50_000}, 5, "not run"),
    },
    columns=("accuracy", "best_accuracy", "steps_to_target"),
    target=0.82,
)
