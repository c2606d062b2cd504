"""Trains a GAN whose step calls the discriminator three times, with ramps that go by steps.

    python examples/gan.py

Real and generated points pass the discriminator apart. Batch norm then normalises each kind by
itself, and hides from the discriminator how the two differ. Batch Renorm normalises both by the
same moving statistics. By itself a ramp of its limits counts calls, and a step makes three of them
here. The callback `CountSteps` lets it count the optimizer's steps.
"""

import argparse
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_renorm
from keras_renorm.schedules import LinearRamp

NOISE, MODES, SPREAD = 8, 8, 0.05


def drawn(count: int) -> np.ndarray:
    """Points around eight places on a circle."""
    rng = np.random.default_rng(0)
    angles = rng.integers(MODES, size=count) * 2 * np.pi / MODES
    places = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (places + rng.normal(0, SPREAD, (count, 2))).astype("float32")


def hidden(steps: int) -> list[keras.layers.Layer]:
    """A hidden layer, with limits that open over the first half of the steps."""
    norm = keras_renorm.layers.BatchRenormalization(
        r_max=LinearRamp(1, 3, start_step=0, end_step=steps // 2),
        d_max=LinearRamp(0, 5, start_step=0, end_step=steps // 2),
    )
    return [keras.layers.Dense(64, use_bias=False), norm, keras.layers.LeakyReLU(0.2)]


def make_generator(steps: int) -> keras.Model:
    """Turns noise into points."""
    layers = [keras.Input((NOISE,)), *hidden(steps), *hidden(steps), keras.layers.Dense(2)]
    return keras.Sequential(layers)


def make_discriminator(steps: int) -> keras.Model:
    """Tells real points from others. As in DCGAN its first layer has no norm."""
    first = [keras.layers.Dense(64), keras.layers.LeakyReLU(0.2)]
    return keras.Sequential([keras.Input((2,)), *first, *hidden(steps), keras.layers.Dense(1)])


class GAN(keras.Model):
    """A generator and a discriminator; each step trains both."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.generator = make_generator(steps)
        self.discriminator = make_discriminator(steps)
        self.generator_optimizer = keras.optimizers.Adam(0.001, beta_1=0.5)
        self.discriminator_optimizer = keras.optimizers.Adam(0.001, beta_1=0.5)
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)

    def train_step(self, real: tf.Tensor) -> dict[str, Any]:
        """One step of the discriminator, then one of the generator."""
        noise = tf.random.normal((tf.shape(real)[0], NOISE))
        with tf.GradientTape(persistent=True) as tape:
            fake = self.generator(noise, training=True)
            on_real = self.discriminator(real, training=True)
            on_fake = self.discriminator(tf.stop_gradient(fake), training=True)
            told = self.bce(tf.ones_like(on_real), on_real)
            told += self.bce(tf.zeros_like(on_fake), on_fake)
        weights = self.discriminator.trainable_variables
        self.discriminator_optimizer.apply(tape.gradient(told, weights), weights)
        with tape:
            on_fake = self.discriminator(fake, training=True)
            fooled = self.bce(tf.ones_like(on_fake), on_fake)
        weights = self.generator.trainable_variables
        self.generator_optimizer.apply(tape.gradient(fooled, weights), weights)
        return {"discriminator": told, "generator": fooled}


def main() -> None:
    """Trains, and prints where the generator's points lie and what the ramps have counted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=4_000)
    steps = parser.parse_args().steps
    keras.utils.set_random_seed(0)
    gan = GAN(steps)
    gan.compile()
    counter = keras_renorm.callbacks.CountSteps(optimizer=gan.discriminator_optimizer)
    gan.fit(drawn(64 * steps), batch_size=64, callbacks=[counter], verbose=2)

    made = gan.generator.predict(keras.random.normal((2_000, NOISE)), verbose=0)
    places = np.exp(2j * np.pi * np.arange(MODES) / MODES)
    far = np.abs((made @ [1, 1j])[:, None] - places)
    near = far.min(axis=1) < 4 * SPREAD
    reached = len(set(far.argmin(axis=1)[near]))
    print(f"{100 * near.mean():.0f} % of the points lie at {reached} of the {MODES} places")
    norm = gan.discriminator.layers[3]
    print(f"{steps} steps, {int(norm.update_count)} counted, {norm.current_limits()}")


if __name__ == "__main__":
    main()
