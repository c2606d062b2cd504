"""A net that learns images of two domains at once, normalised in any of eight ways."""

import itertools
import warnings
from typing import Any, NamedTuple

import keras

from keras_renorm import layers
from zoo.models.head import Head

#: Channels of the three convolutions, each of which halves the image.
CHANNELS = (32, 64, 64)
#: Contrast of the images of the second domain, about a grey of 0.5.
CONTRAST = 0.2


@keras.saving.register_keras_serializable("keras_renorm.evidence")
class TwoDomains(keras.layers.Layer):
    """Puts each image in one of two domains: as it is, or with a fifth of its contrast.

    The second domain has the images whose pixels, whole numbers to 255, have an odd sum: half of
    them, whatever they show, and the same ones in each pass.

    Call arguments:
        images: `[B, H, W, C]`, from 0 to 1.

    Returns:
        The images as their domains have them, and the domains' ids, int32 `[B]`.
    """

    def call(self, images: Any) -> tuple[Any, Any]:
        """Returns images and ids."""
        sums = keras.ops.sum(keras.ops.round(255.0 * images), axis=(1, 2, 3))
        domain = keras.ops.cast(sums % 2, "int32")
        faded = 0.5 + CONTRAST * (images - 0.5)
        return keras.ops.where(domain[:, None, None, None] == 1, faded, images), domain


@keras.saving.register_keras_serializable("keras_renorm.evidence")
class DomainNormalization(layers.DomainBatchNormalization):
    """One that may break the layer's rule without a warning, to show what that costs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*breaks a rule", category=UserWarning)
            super().__init__(*args, **kwargs)


class Kept(NamedTuple):
    """What a net's normalisation keeps by "domain", and what "shared".

    Called as a `--config.model` of zoo.train, it makes the net.
    """

    batch_statistics: str
    population_statistics: str
    affine: str

    def __call__(
        self, *, num_classes: int, input_shape: Any, norm: str, norm_options: dict[str, Any]
    ) -> keras.Model:
        """Returns a net of three convolutions, from images to probabilities."""
        del norm
        images = keras.Input(input_shape)
        x, domain = TwoDomains()(images)
        for channels in CHANNELS:
            x = keras.layers.Conv2D(channels, 3, strides=2, padding="same", use_bias=False)(x)
            layer = DomainNormalization(2, **self._asdict(), activation="relu", **norm_options)
            x = layer(x, domain=domain)
        return keras.Model(images, Head(num_classes=num_classes)(x))


#: All of them, in the order of the paper's table.
ALL = {"_".join(kept): Kept(*kept) for kept in itertools.product(("shared", "domain"), repeat=3)}


def __getattr__(name: str) -> Kept:
    """Makes `domain_domain_shared` and the like names of this module, for `--config.model`."""
    if name not in ALL:
        raise AttributeError(name)
    return ALL[name]
