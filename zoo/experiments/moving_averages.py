"""Training by moving averages alone: Batch Renormalization, section 3."""

from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale

_MEASURES = ("kernel_norm",)
_OWN = {"model": "zoo.evidence.moving_averages:mlp", "norm": "batch_norm"}


def _arms(rate: float) -> tuple[Arm, ...]:
    keys = {"learning_rate": rate}
    return (
        Arm(f"Batch Norm, rate {rate}", keys | {"norm": "batch_norm"}, _MEASURES),
        Arm(f"Batch Renorm, rate {rate}", keys | {"norm": "batch_renorm"}, _MEASURES),
        Arm(f"moving averages, rate {rate}", keys | _OWN, _MEASURES),
    )


EXPERIMENT = Experiment(
    title="Training by moving averages alone",
    source="Ioffe & Szegedy 2015, section 2, and Ioffe 2017, section 3",
    about=(
        "A perceptron of three layers learns Fashion-MNIST (the packaged subset) with Batch Norm, "
        "with Batch Renorm, and with a layer that normalises by its moving averages in training, "
        "too, through which no gradient passes. `kernel norm` is the Euclidean norm of the hidden "
        "kernels at the end."
    ),
    recipe="few_labels",
    keys={"minibatches": "iid", "num_steps": 2000, "eval_every_steps": 100},
    arms=(*_arms(0.02), *_arms(0.1)),
    claims=(
        Claim(
            "By moving averages the weights grow beyond Batch Norm's.",
            "the model blows up (2015, section 2)",
            Term("moving averages, rate 0.1", "kernel_norm"),
            Term("Batch Norm, rate 0.1", "kernel_norm"),
        ),
        Claim(
            "They grow beyond Batch Renorm's as well, whose output is the same.",
            "its gradient is that of Batch Norm, scaled (2017, section 3)",
            Term("moving averages, rate 0.1", "kernel_norm"),
            Term("Batch Renorm, rate 0.1", "kernel_norm"),
        ),
        Claim(
            "Training by moving averages ends behind Batch Renorm.",
            "the model blows up (2015, section 2)",
            Term("Batch Renorm, rate 0.1"),
            Term("moving averages, rate 0.1"),
        ),
    ),
    scales={
        "smoke": Scale({"num_steps": 10, "eval_every_steps": 5}, 2, "seconds"),
        "default": Scale({}, 5, "4 min of training, beside other work"),
        "full": Scale({"num_steps": 30_000, "dataset": "fashion_mnist"}, 5, "not run"),
    },
    columns=("accuracy", "kernel_norm"),
)
