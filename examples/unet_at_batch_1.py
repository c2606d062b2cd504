"""Trains a small U-Net with one image at a time.

    python examples/unet_at_batch_1.py

Segmentation nets see one large image per step. Batch norm then takes the moments of that image in
training, and of all images in inference. Batch Renorm brings the two together.
"""

import argparse
from collections.abc import Callable

import keras
import numpy as np

import keras_renorm

SIZE = 32


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of a bright disc, each with a brightness of its own, and the disc's mask."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    centre, radius = rng.uniform(8, 24, (count, 2, 1, 1)), rng.uniform(4, 8, (count, 1, 1))
    masks = np.hypot(rows - centre[:, 0], columns - centre[:, 1]) < radius
    light = rng.uniform(0, 2, (count, 1, 1))
    images = light + masks + rng.normal(0, 0.3, masks.shape)
    return images[..., None].astype("float32"), masks[..., None].astype("float32")


def make_model(norm: Callable[[], keras.layers.Layer]) -> keras.Model:
    """A U-Net of three levels; `norm()` makes each of its norms."""

    def block(x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        return keras.layers.ReLU()(norm()(x))

    inputs = keras.Input((SIZE, SIZE, 1))
    fine = block(inputs, 8)
    middle = block(keras.layers.MaxPooling2D()(fine), 16)
    coarse = block(keras.layers.MaxPooling2D()(middle), 32)
    x = keras.layers.Concatenate()([keras.layers.UpSampling2D()(coarse), middle])
    x = keras.layers.Concatenate()([keras.layers.UpSampling2D()(block(x, 16)), fine])
    return keras.Model(inputs, keras.layers.Conv2D(1, 1)(block(x, 8)))


def score(norm: Callable[[], keras.layers.Layer], steps: int) -> float:
    """Trains with one image at a time; returns the share of right pixels in inference."""
    keras.utils.set_random_seed(0)
    model = make_model(norm)
    model.compile(
        keras.optimizers.Adam(0.003),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
    )
    model.fit(*drawn(steps, seed=0), batch_size=1, verbose=0)
    return model.evaluate(*drawn(100, seed=1), batch_size=1, verbose=0)[1]


def main() -> None:
    """Trains with both norms and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    steps = parser.parse_args().steps
    for norm in (keras.layers.BatchNormalization, keras_renorm.layers.BatchRenormalization):
        print(f"{norm.__name__}: {100 * score(norm, steps):.1f} % of the pixels are right")


if __name__ == "__main__":
    main()
