"""Fine-tunes a net of keras.applications at batch 2, with Batch Renorm in the place of batch norm.

    python examples/fine_tune_at_batch_2.py [--weights=imagenet]

Two pictures at a time are all that fits where pictures are large. Batch norm would normalise each
by the other. The images here are drawn, so that the script runs without a download.
"""

import argparse

import keras
import numpy as np

from keras_renorm import callbacks, convert, diagnostics

SIZE, CLASSES = 64, 3


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images in [-1, 1] of stripes in three directions, and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count)
    rows, columns = np.mgrid[:SIZE, :SIZE] / 4.0
    directions = np.stack([rows, columns, rows + columns])
    waves = np.sin(directions[labels] + rng.uniform(0, 6, (count, 1, 1)))
    noise = rng.normal(0, 0.3, (count, SIZE, SIZE, 3))
    return np.clip(waves[..., None] + noise, -1, 1).astype("float32"), labels


def make_model(weights: str | None) -> keras.Model:
    """A MobileNetV2 with a fresh head; its norms are Batch Renorm with its own statistics."""
    backbone = keras.applications.MobileNetV2(
        (SIZE, SIZE, 3), alpha=0.35, include_top=False, pooling="avg", weights=weights
    )
    backbone = convert.to_batch_renormalization(backbone)
    images = keras.Input((SIZE, SIZE, 3))
    return keras.Model(images, keras.layers.Dense(CLASSES)(backbone(images)))


def main() -> None:
    """Trains, and prints what the limits did and how far training is from inference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", choices=["imagenet"], help="download these; else random ones")
    parser.add_argument("--images", type=int, default=240)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    images, labels = drawn(arguments.images, seed=0)
    test = drawn(60, seed=1)
    model = make_model(arguments.weights)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = callbacks.RenormHistory(images[:2])
    model.fit(
        images, labels, batch_size=2, epochs=3, validation_data=test, callbacks=[history], verbose=2
    )
    gap = diagnostics.train_inference_gap(model, images[:2])
    print(f"output in training against inference: {gap.output:.2f}")


if __name__ == "__main__":
    main()
