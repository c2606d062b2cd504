"""Times whole steps of the zoo's networks, which differ in nothing but their norms.

    python tools/bench_step.py --json=step.json
    python tools/bench_step.py --networks=resnet20 --contenders=ours,none
    python tools/bench_step.py --mode=inference
    KERAS_BACKEND=jax python tools/bench_step.py --networks=six_convolutions
    KERAS_BACKEND=jax python tools/bench_step.py --networks=resnet20 --image_size=30

A step is one of training, of fine-tuning with frozen norms (`trainable=False`), or of inference,
the output of a minibatch, under TensorFlow or JAX.

The contenders are Keras's batch norm and its renorm, Batch Renorm of this package with the paper's
limits and with those that adapt, its batch norm, and no normalisation at all. `ours_apart` has its
nonlinearities in layers of their own, as Keras's norms have, and `ours_composite` does without the
native library. They take turns in one process, and the medians are of their turns.
"""

import argparse
import functools
import json
import os
import pathlib
import random
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from benchmarking import machine, print_table, write_json

# Name: batch size and image size.
NETWORKS = {
    "resnet20": (128, 32),
    "resnet50": (16, 112),
    "inception_v3": (16, 128),
    "six_convolutions": (64, 32),
}
CONTENDERS = (
    *("none", "ours", "ours_adaptive", "ours_batch_norm", "ours_apart", "ours_composite"),
    *("keras", "keras_renorm"),
)
MODES = ("training", "fine_tuning", "inference")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def norm(contender: str) -> Any:
    """Returns the `norm` of a model of the zoo.

    Layers of this package compute the nonlinearity that follows. Beside the others, and beside
    none, it stays a layer of its own.
    """
    import keras

    from keras_renorm import layers

    return {
        "none": keras.layers.Identity,  # not "none", which gives the convolutions biases
        "ours": "batch_renorm",
        "ours_adaptive": "batch_renorm",
        "ours_batch_norm": "batch_norm",
        "ours_apart": functools.partial(layers.BatchRenormalization),  # zoo fills in classes only
        "ours_composite": "batch_renorm",
        "keras": keras.layers.BatchNormalization,
        "keras_renorm": functools.partial(keras.layers.BatchNormalization, renorm=True),
    }[contender]


def network(name: str, contender: str, size: int) -> Any:
    """Returns a network of the zoo with logits of ten classes."""
    import zoo
    from keras_renorm import schedules
    from zoo.models.normalization import create_normalizer

    limits = {"r_max": schedules.PAPER_R_MAX, "d_max": schedules.PAPER_D_MAX}
    options = limits if contender == "ours" else None
    if name == "six_convolutions":
        return six_convolutions(create_normalizer(norm(contender), options), size)
    return zoo.create_model(
        name,
        num_classes=10,
        input_shape=(size, size, 3),
        norm=norm(contender),
        norm_options=options,
        classifier_activation=None,
    )


def six_convolutions(normalizer: Any, size: int) -> Any:
    """Returns a plain net, of 16 channels at first and twice as many at each of two halvings."""
    import keras

    x = inputs = keras.Input((size, size, 3))
    for i, (channels, strides) in enumerate([(16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)]):
        x = keras.layers.Conv2D(channels, 3, strides, padding="same", use_bias=False)(x)
        x = normalizer(x, f"convolution_{i}", activation="relu")
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def step_of(name: str, contender: str, mode: str, batch: int, size: int) -> Callable[[], Any]:
    """Returns a compiled step on random images, warm: of momentum SGD, or of inference."""
    import keras

    model = network(name, contender, size)
    if mode == "fine_tuning":
        freeze(model)
    steps = {"tensorflow": of_tensorflow, "jax": of_jax}[keras.backend.backend()]
    forced = {"KERAS_RENORM_LOWERING": "composite"} if contender == "ours_composite" else {}
    with mock.patch.dict(os.environ, forced):
        step: Callable[[], Any] = steps(model, (batch, size, size, 3), mode)
        for _ in range(2):
            step()
    return step


def of_tensorflow(model: Any, shape: tuple[int, ...], mode: str) -> Callable[[], Any]:
    """Returns a step that waits for its result."""
    import tensorflow as tf

    images = tf.random.normal(shape)
    if mode == "inference":
        inference = tf.function(functools.partial(model, training=False), autograph=False)
        return lambda: inference(images).numpy()
    labels = tf.random.uniform(shape[:1], maxval=10, dtype=tf.int32)
    step = training_step(model)
    return lambda: step(images, labels).numpy()


def of_jax(model: Any, shape: tuple[int, ...], mode: str) -> Callable[[], Any]:
    """Returns a step whose variables are handed on from one to the next, as `fit` does it."""
    import jax
    import keras

    images = jax.random.normal(jax.random.key(0), shape)
    labels = jax.random.randint(jax.random.key(1), shape[:1], 0, 10)
    optimizer = keras.optimizers.SGD(1e-6, momentum=0.9)
    optimizer.build(model.trainable_variables)
    groups = model.trainable_variables, model.non_trainable_variables, optimizer.variables
    state = [[variable.value for variable in group] for group in groups]
    if mode == "inference":
        inference = jax.jit(functools.partial(model.stateless_call, training=False))
        return lambda: jax.block_until_ready(inference(*state[:2], images))

    def loss(trained: Any, others: Any) -> Any:
        logits, others = model.stateless_call(trained, others, images, training=True)
        losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return keras.ops.mean(losses), others

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any) -> Any:
        trained, others, velocities = state
        (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(trained, others)
        trained, velocities = optimizer.stateless_apply(velocities, gradients, trained)
        return value, [trained, others, velocities]

    def run() -> None:
        value, state[:] = step(list(state))
        jax.block_until_ready((value, state))

    return run


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


def measure(
    name: str,
    contenders: list[str],
    mode: str,
    shape: tuple[int, int],
    rounds: int,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Returns each contender's median time of a step, in milliseconds."""
    steps = {contender: step_of(name, contender, mode, *shape) for contender in contenders}
    times: dict[str, list[float]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for contender in random.sample(contenders, len(contenders)):
            start = clock()
            steps[contender]()
            times[contender].append(clock() - start)
    return {contender: 1e3 * statistics.median(values) for contender, values in times.items()}


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    for option in ("--batch_size", "--image_size"):
        parser.add_argument(option, type=int, help="by default each network's own")
    parser.add_argument("--mode", choices=MODES, default="training")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="`cpu` counts the process's time on all cores, for a machine with other work",
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    for given, known in ((arguments.networks, NETWORKS), (arguments.contenders, CONTENDERS)):
        unknown = set(given.split(",")) - set(known)
        if unknown:
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for option in ("batch_size", "image_size"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            parser.error(f"--{option} must be 1 or more, received {value}")
    if arguments.json is not None and arguments.json.exists():
        parser.error(f"{arguments.json} exists; name another file")
    return arguments


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    arguments = parse()
    clock = CLOCKS[arguments.clock]
    contenders = arguments.contenders.split(",")
    results = {}
    for name in arguments.networks.split(","):
        batch, size = NETWORKS[name]
        shape = batch, size = arguments.batch_size or batch, arguments.image_size or size
        label = f"{name} {batch}x{size}x{size}"
        results[label] = measure(name, contenders, arguments.mode, shape, arguments.rounds, clock)
        print(label, json.dumps({key: round(value) for key, value in results[label].items()}))
    print_table(f"ms a step of {arguments.mode}", contenders, results)
    for label, medians in results.items():
        if "keras" in medians:
            ratios = {f"{key} / keras": value / medians["keras"] for key, value in medians.items()}
            print(label, {key: round(value, 2) for key, value in ratios.items()})
    settings = {"mode": arguments.mode, "clock": arguments.clock}
    write_json(arguments.json, {"machine": machine(), **settings, "milliseconds": results})


if __name__ == "__main__":
    main()
