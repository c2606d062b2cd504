"""RandAugment: Keras's layers, drawn by the image's seed instead of a state."""

from typing import Any

import keras
import tensorflow as tf


class _Seeds(keras.random.SeedGenerator):
    """Seeds that follow from one seed, for Keras's random functions. It has no variable."""

    def __init__(self) -> None:
        self._seed: Any = None
        self._given = 0

    def begin(self, seed: Any) -> None:
        """Begins anew with a seed, integers `[2]`."""
        self._seed, self._given = tf.cast(seed, tf.int64), 0

    def next(self, ordered: bool = True) -> Any:
        """Returns a seed, int64 `[2]`, another at each call."""
        del ordered
        self._given += 1
        # Keras's own seeds lie in this range.
        return tf.random.fold_in(self._seed, self._given, alg="philox") % (2**31 - 2)


class Solarize:
    """Inverts the pixels above a threshold, which lies at most `255 * strength` below white.

    Keras's `Solarization` draws it from 0 to `255 * strength`: a low strength inverts nearly all.

    Args:
        strength: From 0, which changes nothing, to 1.
    """

    def __init__(self, strength: float) -> None:
        self._lowest = 255 * (1 - strength)
        self.generator: Any = None

    def __call__(self, images: Any, training: bool = True) -> Any:
        """Returns the changed images.

        Args:
            images: Pixels in [0, 255].
            training: Ignored, as Keras's layers take it.
        """
        del training
        seed = self.generator.next()
        threshold = tf.random.stateless_uniform([], seed, self._lowest, 255.0)
        return tf.where(images > threshold, 255 - images, images)


class RandAugment:
    """Changes an image by some operations, drawn from eleven.

    They are those of `keras.layers.RandAugment`: shear, translation, rotation, brightness, colour,
    contrast, sharpness, posterization, solarization, automatic contrast and equalization, computed
    by Keras's layers except for solarization. Their strength is drawn, too, up to the given one.
    Posterization keeps 8 bits below strength 0.13, from there on 7 or fewer, and at strength 1 from
    4 to 7. The last two have no strength. That layer draws once for all images of a call, and
    computes all eleven for each. Here each image has its own draws, and only these are computed.

    Args:
        strength: From 0 to 1.
        num_ops: How many operations, one after the other.

    Source: Cubuk et al. 2019, RandAugment.
    """

    def __init__(self, strength: float, num_ops: int = 2) -> None:
        kinds = keras.layers
        pixels = {"value_range": (0, 255)}
        self._num_ops = num_ops
        self._seeds = _Seeds()
        self._layers: list[Any] = [
            kinds.RandomShear(strength, strength),
            kinds.RandomTranslation(strength, strength),
            kinds.RandomRotation(strength),
            kinds.RandomBrightness(strength, **pixels),
            kinds.RandomColorDegeneration(strength, **pixels),
            kinds.RandomContrast(strength, **pixels),
            # At 0.5 this changes nothing; below it blurs.
            kinds.RandomSharpness((0.5 - strength / 2, 0.5 + strength / 2), **pixels),
            # Keras never draws the upper bound.
            kinds.RandomPosterization((8 - round(4 * strength), 8), **pixels),
            Solarize(strength),
            kinds.AutoContrast(**pixels),
            kinds.Equalization(**pixels),
        ]
        for layer in self._layers:
            layer.generator = self._seeds

    def __call__(self, image: Any, seed: Any) -> Any:
        """Returns the changed image.

        Args:
            image: Pixels in [0, 255], float32 `[H, W, C]`.
            seed: Integers `[2]`.
        """
        for number in range(self._num_ops):
            own = tf.random.fold_in(seed, number, alg="philox")
            chosen = tf.random.stateless_uniform([], own, 0, len(self._layers), tf.int32)
            image = self._changed(image, chosen, own)
        return tf.clip_by_value(image, 0.0, 255.0)

    def _changed(self, image: Any, chosen: Any, seed: Any) -> Any:
        def branch(layer: Any) -> Any:
            def changed() -> Any:
                self._seeds.begin(seed)
                return tf.ensure_shape(layer(image[None], training=True)[0], image.shape)

            return changed

        return tf.switch_case(chosen, [branch(layer) for layer in self._layers])
