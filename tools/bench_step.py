"""Times whole steps of the zoo's networks, which differ in nothing but their norms.

    python tools/bench_step.py --json=step.json
    python tools/bench_step.py --networks=resnet20 --contenders=ours,none
    python tools/bench_step.py --mode=inference

A step of training; or of fine-tuning, in which the norms are frozen (`trainable=False`); or of
inference, which is the output of a minibatch.

The contenders are Keras's batch norm and its renorm, Batch Renorm of this package with the paper's
limits and with those that adapt, its batch norm, and no normalisation at all. They take turns in
one process, and the medians are of their turns.
"""

import argparse
import functools
import json
import pathlib
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarking import machine, print_table, write_json

# Name: batch size and image size.
NETWORKS = {"resnet20": (128, 32), "resnet50": (16, 112), "inception_v3": (16, 128)}
CONTENDERS = ("none", "ours", "ours_adaptive", "ours_batch_norm", "keras", "keras_renorm")
MODES = ("training", "fine_tuning", "inference")


def norm(contender: str) -> Any:
    """Returns the `norm` of a model of the zoo.

    Layers of this package take in the nonlinearity that follows; beside the others, and beside
    none, it stays a layer of its own.
    """
    import keras

    return {
        "none": keras.layers.Identity,  # and not "none", with which the convolutions have biases
        "ours": "batch_renorm",
        "ours_adaptive": "batch_renorm",
        "ours_batch_norm": "batch_norm",
        "keras": keras.layers.BatchNormalization,
        "keras_renorm": functools.partial(keras.layers.BatchNormalization, renorm=True),
    }[contender]


def network(name: str, contender: str, size: int) -> Any:
    """Returns a network of the zoo with logits of ten classes."""
    import zoo
    from keras_renorm import schedules

    limits = {"r_max": schedules.PAPER_R_MAX, "d_max": schedules.PAPER_D_MAX}
    return zoo.create_model(
        name,
        num_classes=10,
        input_shape=(size, size, 3),
        norm=norm(contender),
        norm_options=limits if contender == "ours" else None,
        classifier_activation=None,
    )


def step_of(name: str, contender: str, mode: str = "training") -> Callable[[], Any]:
    """Returns a compiled step on random images, warm: of momentum SGD, or of inference."""
    import tensorflow as tf

    batch, size = NETWORKS[name]
    model = network(name, contender, size)
    images = tf.random.normal((batch, size, size, 3))
    if mode == "inference":
        inference = tf.function(functools.partial(model, training=False), autograph=False)
        return warm(functools.partial(inference, images))
    if mode == "fine_tuning":
        freeze(model)
    labels = tf.random.uniform((batch,), maxval=10, dtype=tf.int32)
    return warm(functools.partial(training_step(model), images, labels))


def freeze(model: Any) -> None:
    """Freezes the norms, which have moving statistics."""
    for layer in model.layers:
        if hasattr(layer, "moving_mean"):
            layer.trainable = False


def training_step(model: Any) -> Callable[..., Any]:
    """Returns a compiled step of momentum SGD."""
    import keras
    import tensorflow as tf

    optimizer = keras.optimizers.SGD(1e-6, momentum=0.9)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return step


def warm(step: Callable[[], Any]) -> Callable[[], Any]:
    """Returns the step, run twice, with the wait for its result."""
    for _ in range(2):
        step()
    return lambda: step().numpy()


def measure(name: str, contenders: list[str], mode: str, rounds: int) -> dict[str, float]:
    """Returns each contender's median time of a step, in milliseconds."""
    steps = {contender: step_of(name, contender, mode) for contender in contenders}
    times: dict[str, list[float]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for contender in random.sample(contenders, len(contenders)):
            start = time.perf_counter()
            steps[contender]()
            times[contender].append(time.perf_counter() - start)
    return {contender: 1e3 * statistics.median(values) for contender, values in times.items()}


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--mode", choices=MODES, default="training")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    for given, known in ((arguments.networks, NETWORKS), (arguments.contenders, CONTENDERS)):
        unknown = set(given.split(",")) - set(known)
        if unknown:
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if arguments.json is not None and arguments.json.exists():
        parser.error(f"{arguments.json} exists; name another file")
    return arguments


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    arguments = parse()
    contenders = arguments.contenders.split(",")
    results = {}
    for name in arguments.networks.split(","):
        batch, size = NETWORKS[name]
        label = f"{name} {batch}x{size}x{size}"
        results[label] = measure(name, contenders, arguments.mode, arguments.rounds)
        print(label, json.dumps({key: round(value) for key, value in results[label].items()}))
    print_table(f"ms a step of {arguments.mode}", contenders, results)
    for label, medians in results.items():
        if "ours" in medians:
            ratios = {f"ours / {key}": medians["ours"] / value for key, value in medians.items()}
            print(label, {key: round(value, 2) for key, value in ratios.items()})
    write_json(
        arguments.json, {"machine": machine(), "mode": arguments.mode, "milliseconds": results}
    )


if __name__ == "__main__":
    main()
