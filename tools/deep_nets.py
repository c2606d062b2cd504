"""Which very deep residual nets train: Batch Norm, SkipInit, and a plain sum of skip and branch.

Trains pre-activation residual nets of 200 and 1,000 blocks on images of the packaged
Fashion-MNIST subset, averaged down to 7x7, once with Batch Normalization, once with each initial
value of SkipInit's alpha, and once with nothing in the place of the norm. A net with alpha = 1
doubles the variance of its activations in every block, and so fails.

    python tools/deep_nets.py --json=deep_nets.json

De & Smith 2020, table 1, has the same at depths of 16, 100 and 1,000 layers, on CIFAR-10.
"""

import argparse
import pathlib
import time
from typing import Any

import keras
import numpy as np
from benchmarking import machine, write_json

import zoo
from zoo.data import datasets

#: What stands in the branches, and `create_model`'s arguments for it.
CONTENDERS: dict[str, dict[str, Any]] = {
    # A few hundred steps: at the default momentum the moving statistics would still be the initial.
    "BN": {"norm": "batch_norm", "norm_options": {"momentum": 0.9}},
    "SkipInit, alpha = 0": {"norm": "skip_init"},
    "SkipInit, alpha = 1/sqrt(d)": {
        "norm": "skip_init",
        "norm_options": {"initial_value": "inverse_sqrt_depth"},
    },
    "SkipInit, alpha = 1": {"norm": "skip_init", "norm_options": {"initial_value": 1.0}},
}
WIDENING = 1
POOL = 4


class StopAtNaN(keras.callbacks.Callback):
    """Ends the training where the loss is not finite."""

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Looks at the mean loss so far."""
        if not np.isfinite((logs or {})["loss"]):
            self.model.stop_training = True


def images_of(split: datasets.Split) -> tuple[Any, Any]:
    """Images `[N, 7, 7, 1]` of deviation 1 and labels of the packaged set."""
    data = datasets.load(datasets.PACKAGED, split)
    size = data.images.shape[1] // POOL
    cells = data.images.reshape(-1, size, POOL, size, POOL, 1).astype(np.float32)
    small = cells.mean(axis=(2, 4))
    return (small - small.mean()) / small.std(), data.labels


def train(blocks: int, options: dict[str, Any], args: argparse.Namespace) -> dict[str, float]:
    """Trains one net; returns its accuracy on the test images and what it took."""
    keras.utils.set_random_seed(args.seed)
    # Each of the three stages has a third of the blocks; depth D = 6n + 4 layers are 3n blocks.
    depth = 6 * -(-blocks // 3) + 4
    begin = time.perf_counter()
    model = zoo.create_model(
        f"wide_resnet_{depth}_{WIDENING}",
        input_shape=(7, 7, 1),
        classifier_activation=None,
        dropout_rate=0.0,
        **options,
    )
    model.compile(
        keras.optimizers.SGD(args.learning_rate, momentum=0.9, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    images, labels = images_of("train")
    count = args.steps * args.batch_size
    order = np.random.default_rng(args.seed).permutation(np.arange(count) % len(labels))
    history = model.fit(
        images[order],
        labels[order],
        batch_size=args.batch_size,
        shuffle=False,
        callbacks=[StopAtNaN()],
    )
    test_images, test_labels = images_of("test")
    _, accuracy = model.evaluate(test_images, test_labels, batch_size=500, verbose=0)
    return {
        "blocks": 3 * ((depth - 4) // 6),
        "train loss": history.history["loss"][-1],
        "test accuracy, %": 100 * accuracy,
        "seconds": time.perf_counter() - begin,
    }


def main() -> None:
    """Trains all nets and prints a line for each as it ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path, help="a new file for the results")
    args = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    for blocks in args.blocks:
        for name in args.contenders:
            print(f"{blocks} blocks, {name}", flush=True)
            result = train(blocks, CONTENDERS[name], args)
            results.setdefault(str(blocks), {})[name] = result
            print(", ".join(f"{key} {value:.4g}" for key, value in result.items()), flush=True)
    settings = {key: value for key, value in vars(args).items() if isinstance(value, int | float)}
    write_json(args.json, {"machine": machine(), "settings": settings} | results)


if __name__ == "__main__":
    main()
