"""Trains by `model.fit` on several devices, with the moments of the whole minibatch.

    python examples/mirrored_fit.py

Each replica gets its part of a minibatch. With `synchronized=True` the norms take the moments of
all parts, so the number of devices changes a run by rounding only. The script trains on two devices
and on one, and compares the weights. Without two GPUs, two logical CPU devices take their place.
"""

import argparse

import keras
import numpy as np
import tensorflow as tf

import keras_renorm

BATCH = 8  # of all replicas together


def make_model() -> keras.Model:
    """A small net; made anew, it begins with the same weights."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(16, 3, use_bias=False),
            keras_renorm.layers.BatchRenormalization(synchronized=True),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )


def drawn(count: int) -> tf.data.Dataset:
    """Minibatches of noisy images whose class is a colour; the last one may not be smaller."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=count)
    colours = rng.normal(size=(4, 3))[labels]
    images = colours[:, None, None] + rng.normal(size=(count, 16, 16, 3))
    data = tf.data.Dataset.from_tensor_slices((images.astype("float32"), labels))
    return data.batch(BATCH, drop_remainder=True)


def train(strategy: tf.distribute.Strategy, images: int) -> keras.Model:
    """Trains the net under a strategy; all that it needs is made in its scope."""
    with strategy.scope():
        model = make_model()
        model.compile(
            keras.optimizers.SGD(0.05),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    print(f"on {strategy.num_replicas_in_sync} device(s)")
    model.fit(drawn(images), epochs=2, shuffle=False, verbose=2)
    return model


def main() -> None:
    """Trains twice and prints the greatest difference of the weights and statistics."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=512)
    images = parser.parse_args().images
    kind = "GPU" if len(tf.config.list_physical_devices("GPU")) > 1 else "CPU"
    if kind == "CPU":  # before anything else runs
        logical = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], logical
        )
    several = train(tf.distribute.MirroredStrategy([f"{kind}:0", f"{kind}:1"]), images)
    single = train(tf.distribute.OneDeviceStrategy(f"{kind}:0"), images)
    pairs = zip(several.get_weights(), single.get_weights(), strict=True)
    print(f"greatest difference: {max(np.abs(a - b).max() for a, b in pairs):.1e}")


if __name__ == "__main__":
    main()
