"""Minibatches of few labels: Batch Renormalization, section 4.3."""

from zoo.evidence.claims import Claim, Term
from zoo.evidence.experiment import Arm, Experiment, Scale

_FEW = {"minibatches": "few_labels", "labels_per_batch": 2}
_IID = {"minibatches": "iid"}
_PAIRS = {"minibatches": "few_labels", "labels_per_batch": 5, "batch_size": 10}
_HALVES = {"model": "zoo.evidence.dealing:halves", "virtual_batch_size": 5}
_BATCH_NORM, _RENORM = {"norm": "batch_norm"}, {"norm": "batch_renorm"}

EXPERIMENT = Experiment(
    title="Minibatches of two labels",
    source="Ioffe 2017, section 4.3",
    about=(
        "A perceptron of three layers learns Fashion-MNIST (the packaged subset) from minibatches "
        "of 60 images, either drawn at random or 30 of each of two labels. The paper trains "
        "Inception-v3 on ImageNet with 16 labels of two images, and Batch Norm over halves that "
        "have one of each pair; here those are five labels of two images, and halves of five."
    ),
    recipe="few_labels",
    keys={"eval_every_steps": 100},
    arms=(
        Arm("Batch Norm, i.i.d.", _BATCH_NORM | _IID, ("minibatch", "gap")),
        Arm("Batch Renorm, i.i.d.", _RENORM | _IID, ("minibatch", "gap")),
        Arm("Batch Norm, two labels", _BATCH_NORM | _FEW, ("minibatch", "gap", "precise")),
        Arm("Batch Renorm, two labels", _RENORM | _FEW, ("minibatch", "gap", "precise")),
        Arm("Batch Norm, five pairs", _BATCH_NORM | _PAIRS, ("minibatch", "gap")),
        Arm("Batch Norm, halves of pairs", _BATCH_NORM | _PAIRS | _HALVES, ("minibatch", "gap")),
        Arm("Batch Renorm, five pairs", _RENORM | _PAIRS, ("minibatch", "gap")),
    ),
    claims=(
        Claim(
            "Batch Norm loses accuracy where minibatches are not i.i.d.",
            "78.3 % i.i.d., 67.0 % not (section 4.3)",
            Term("Batch Norm, i.i.d."),
            Term("Batch Norm, two labels"),
        ),
        Claim(
            "There, Batch Renorm is ahead of Batch Norm.",
            "78.5 against 67.0 % (section 4.3)",
            Term("Batch Renorm, two labels"),
            Term("Batch Norm, two labels"),
        ),
        Claim(
            "Batch Renorm loses nothing by it, within 3 points.",
            "78.5 % both ways (section 4.3)",
            Term("Batch Renorm, two labels"),
            Term("Batch Renorm, i.i.d."),
            within=0.03,
        ),
        Claim(
            "With i.i.d. minibatches the two are equal, within 1 point.",
            "78.5 against 78.3 % (section 4.1)",
            Term("Batch Renorm, i.i.d."),
            Term("Batch Norm, i.i.d."),
            within=0.01,
        ),
        Claim(
            "The net that Batch Norm broke is good where it may see such minibatches at inference.",
            "76.5 % with the statistics of minibatches, 67.0 % without (section 4.3)",
            Term("Batch Norm, two labels", "minibatch"),
            Term("Batch Norm, two labels"),
        ),
        Claim(
            "Batch Renorm's outputs in training are nearer to those in inference.",
            "the aim of the method (section 3)",
            Term("Batch Norm, two labels", "gap"),
            Term("Batch Renorm, two labels", "gap"),
        ),
        Claim(
            "Pairs in one minibatch cost Batch Norm more than the smaller halves that part them.",
            "77.4 % with halves, 67.0 % without (section 4.3)",
            Term("Batch Norm, halves of pairs"),
            Term("Batch Norm, five pairs"),
        ),
        Claim(
            "With pairs Batch Renorm is ahead of Batch Norm.",
            "78.5 against 67.0 % (section 4.3)",
            Term("Batch Renorm, five pairs"),
            Term("Batch Norm, five pairs"),
        ),
    ),
    scales={
        "smoke": Scale({"num_steps": 30, "eval_every_steps": 15}, 2, "seconds"),
        "default": Scale({}, 5, "17 min of training, beside other work"),
        "full": Scale({"num_steps": 30_000, "dataset": "fashion_mnist"}, 5, "not run"),
    },
    columns=("accuracy", "minibatch", "precise", "gap"),
)
