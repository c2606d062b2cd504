"""Times inference of networks with their batch norms, and with these folded away.

    python tools/bench_fold.py --json=fold.json
    python tools/bench_fold.py --networks=resnet50,keras_resnet50 --batch=1 --jit_compile

The contenders are the network with batch norms of this package, with Keras's, and folded by
`keras_renorm.convert.fold`. They take turns in one process, and the medians are of their turns.
"""

import argparse
import pathlib
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarking import machine, print_table, write_json

CONTENDERS = ("ours", "keras", "folded")
# Image sizes of networks of the zoo, or of keras.applications.
NETWORKS = {
    "inception_v3": 299,
    "resnet50": 224,
    "resnet50v2": 224,
    "keras_inception_v3": 299,
    "keras_resnet50": 224,
}


def network(name: str) -> Any:
    """Returns a network with 1000 logits and random weights."""
    import keras

    import zoo

    shape = (NETWORKS[name],) * 2 + (3,)
    if not name.startswith("keras_"):
        return zoo.create_model(
            name, input_shape=shape, num_classes=1000, classifier_activation=None
        )
    kinds = {"keras_inception_v3": "InceptionV3", "keras_resnet50": "ResNet50"}
    make = getattr(keras.applications, kinds[name])
    return make(weights=None, input_shape=shape, classifier_activation=None)


def contenders(name: str, images: Any) -> dict[str, Any]:
    """Returns the contending models; all of them compute the same."""
    from keras_renorm import convert, layers

    ours = convert.to_batch_normalization(network(name))
    norms = [x for x in ours._flatten_layers() if isinstance(x, layers.BatchNormalization)]
    for norm in norms:
        # The statistics become those of the images, so that outputs are of order 1.
        norm.momentum = 0.0
    ours(images, training=True)
    return {"ours": ours, "keras": convert.to_keras(ours), "folded": convert.fold(ours)}


def inference(model: Any, images: Any, jit_compile: bool) -> Callable[[], Any]:
    """Returns a compiled inference of `images`, warm."""
    import tensorflow as tf

    function = tf.function(
        lambda x: model(x, training=False), jit_compile=jit_compile, autograph=False
    )
    for _ in range(2):
        function(images)
    return lambda: function(images).numpy()


def measure(name: str, batch: int, rounds: int, jit_compile: bool) -> dict[str, float]:
    """Returns each contender's median time in milliseconds, and how far the folded one is off."""
    import numpy as np
    import tensorflow as tf

    size = NETWORKS[name]
    images = tf.random.normal((batch, size, size, 3))
    models = contenders(name, images)
    calls = {key: inference(model, images, jit_compile) for key, model in models.items()}
    expected = calls["ours"]()
    error = float(np.max(np.abs(calls["folded"]() - expected)) / np.max(np.abs(expected)))
    times: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    for _ in range(rounds):
        for contender in random.sample(CONTENDERS, len(CONTENDERS)):
            start = time.perf_counter()
            calls[contender]()
            times[contender].append(time.perf_counter() - start)
    medians = {contender: 1e3 * statistics.median(values) for contender, values in times.items()}
    return medians | {"ours / folded": medians["ours"] / medians["folded"], "error": error}


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default="inception_v3,resnet50")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--jit_compile", action="store_true")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    unknown = set(arguments.networks.split(",")) - set(NETWORKS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    if arguments.batch < 1 or arguments.rounds < 1:
        parser.error("--batch and --rounds must be at least 1")
    if arguments.json is not None and arguments.json.exists():
        parser.error(f"{arguments.json} exists; name another file")
    return arguments


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    arguments = parse()
    results = {}
    for name in arguments.networks.split(","):
        label = f"{name} {arguments.batch}x{NETWORKS[name]}x{NETWORKS[name]}"
        results[label] = measure(name, arguments.batch, arguments.rounds, arguments.jit_compile)
        print(label, {key: float(f"{value:.3g}") for key, value in results[label].items()})
    print_table("ms an inference", (*CONTENDERS, "ours / folded"), results)
    document = {"machine": machine(), "jit_compile": arguments.jit_compile, "results": results}
    write_json(arguments.json, document)


if __name__ == "__main__":
    main()
