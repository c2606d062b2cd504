"""One worker of `multi_worker_test.py`: trains a small network and writes its weights.

`python multi_worker.py FOLDER INDEX SIZES`: SIZES, as JSON, are the workers' parts of each batch.
"""

import json
import pathlib
import sys
import time

import keras
import numpy as np
import tensorflow as tf

import keras_renorm

RAMP = {
    "r_max": keras_renorm.schedules.LinearRamp(1.0, 3.0, start_step=2, end_step=6),
    "d_max": keras_renorm.schedules.LinearRamp(0.0, 5.0, start_step=2, end_step=6),
}


def network():
    keras.utils.set_random_seed(1)
    kinds = keras_renorm.layers
    inputs = keras.Input((4, 4, 3))
    hidden = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
    hidden = kinds.BatchRenormalization(synchronized=True, activation="relu", **RAMP)(hidden)
    hidden, order = kinds.CrossReplicaShuffle(seed=4)(hidden)
    hidden = keras.layers.Dense(5)(keras.layers.Flatten()(hidden))
    hidden = kinds.BatchNormalization(synchronized=True, activation="relu")(hidden)
    hidden = kinds.CrossReplicaUnshuffle()(hidden, order)
    return keras.Model(inputs, keras.layers.Dense(1)(hidden))


def main():
    folder, index, sizes = pathlib.Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    several = len(sizes) > 1
    strategy = (
        tf.distribute.MultiWorkerMirroredStrategy() if several else tf.distribute.get_strategy()
    )
    with strategy.scope():
        model = network()
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        optimizer.build(model.trainable_variables)

    def step(x, target):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x, training=True) - target)) / sum(sizes)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    train = tf.function(lambda x, target: strategy.run(step, args=(x, target)))
    values = np.random.default_rng(0)
    first = sum(sizes[:index])
    mine = slice(first, first + sizes[index])
    for _ in range(8):
        x = values.normal(1.0, 2.0, (sum(sizes), 4, 4, 3)).astype("f4")
        target = values.normal(size=(sum(sizes), 1)).astype("f4")
        train(tf.constant(x[mine]), tf.constant(target[mine]))
    weights = {w.path: w.numpy() for w in model.variables if w.name != "draw_count"}
    with strategy.scope():
        local = keras_renorm.layers.BatchNormalization(momentum=0.0)
        local.build((None, 2))
    strategy.run(lambda: local(tf.fill((3, 2), 1.0 + index), training=True))
    weights["read outside"] = local.moving_mean.numpy()
    inside = strategy.run(lambda: local(tf.zeros((1, 2))))
    weights["used inside"] = -inside.numpy() * np.sqrt(local.moving_variance.numpy() + 1e-3)
    np.savez(folder / f"{index}.npz", **weights)
    (folder / f"{index}.done").touch()
    # A worker that leaves now may tear down a collective that another is still in.
    while not all((folder / f"{i}.done").exists() for i in range(len(sizes))):
        time.sleep(0.05)


if __name__ == "__main__":
    main()
