"""Which very deep residual nets train: Batch Norm, SkipInit, and a plain sum of skip and branch.

Trains pre-activation residual nets of 200 and 1,000 blocks on images of the packaged
Fashion-MNIST subset, averaged down to 7x7, once with Batch Normalization and once with each initial
value of SkipInit's alpha: 0, 1/sqrt(d) and 1, which is a plain sum. A net with alpha = 1 doubles
the variance of its activations in every block, and so fails.

    python tools/deep_nets.py --json=deep_nets.json
    python tools/deep_nets.py --contenders BN --learning_rate=0.1 --json=batch_norm.json

With the first command's learning rate of 0.01, 1,002 blocks with Batch Normalization are still at
chance after 200 steps, so the second gives it ten times as much.

After a few hundred steps the moving averages of a net with thousands of batch norms need not fit
its weights. So the test accuracy is also taken with the statistics of each minibatch of test
images.

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
from keras_renorm import layers, statistics
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
#: Steps over which a loss or an accuracy of the training is a mean.
EVERY = 20


class Watch(keras.callbacks.Callback):
    """Prints the means of every few steps, and ends the training where the loss is not finite.

    Attributes:
        rows: Loss and accuracy, means over `EVERY` steps each, and the last over what is left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Looks at the means since they were last printed."""
        row, steps = dict(logs or {}), batch + 1
        self.model.stop_training = not np.isfinite(row["loss"])
        if self.model.stop_training or steps % EVERY == 0 or steps == self.params["steps"]:
            self.rows.append(row)
            print(f"  step {steps}: loss {row['loss']:.4g}, accuracy {row['accuracy']:.3f}")
            self.model.reset_metrics()


def images_of(split: datasets.Split) -> tuple[Any, Any]:
    """Images `[N, 7, 7, 1]` of deviation 1 and labels of the packaged set."""
    data = datasets.load(datasets.PACKAGED, split)
    size = data.images.shape[1] // POOL
    cells = data.images.reshape(-1, size, POOL, size, POOL, 1).astype(np.float32)
    small = cells.mean(axis=(2, 4))
    return (small - small.mean()) / small.std(), data.labels


def compiled(blocks: int, options: dict[str, Any], args: argparse.Namespace) -> keras.Model:
    """A net of so many blocks, or up to two more: each of the three stages has a third of them."""
    depth = 6 * -(-blocks // 3) + 4  # D = 6n + 4 layers are 3n blocks.
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
    return model


def train(blocks: int, options: dict[str, Any], args: argparse.Namespace) -> dict[str, float]:
    """Trains one net; returns its accuracy on the test images and what it took."""
    keras.utils.set_random_seed(args.seed)
    begin = time.perf_counter()
    model = compiled(blocks, options, args)
    images, labels = images_of("train")
    count = args.steps * args.batch_size
    order = np.random.default_rng(args.seed).permutation(np.arange(count) % len(labels))
    # TensorFlow traces a training step again if its first trace made variables, and a trace is most
    # of the time here. So all are made before: the optimizer's, and the metrics' by an evaluation.
    model.optimizer.build(model.trainable_variables)
    untrained = test_accuracy(model)
    watch = Watch()
    model.fit(
        images[order],
        labels[order],
        batch_size=args.batch_size,
        shuffle=False,
        callbacks=[watch],
        verbose=0,
    )
    result = {
        "blocks": sum(isinstance(layer, keras.layers.Add) for layer in model.layers),
        "steps": int(model.optimizer.iterations),
        "first loss": watch.rows[0]["loss"],
        "last loss": watch.rows[-1]["loss"],
        "training accuracy, %": 100 * watch.rows[-1]["accuracy"],
        "untrained test accuracy, %": untrained,
        "test accuracy, %": test_accuracy(model),
    }
    if any(isinstance(layer, layers.BatchNormalization) for layer in model.layers):
        with statistics.batch_statistics(model):
            result["test accuracy of minibatches' statistics, %"] = test_accuracy(model)
    return result | {"seconds": time.perf_counter() - begin}


def test_accuracy(model: keras.Model) -> float:
    """The share of the test images that are classified right, in percent."""
    images, labels = images_of("test")
    return 100 * model.evaluate(images, labels, batch_size=500, verbose=0)[1]


def skip_graph_rewriting() -> None:
    """Makes TensorFlow run the graphs as they are.

    The time to rewrite a graph grows faster than the net: with 400 blocks it takes two fifths of
    the first step, and makes no later step faster.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


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
    skip_graph_rewriting()
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
