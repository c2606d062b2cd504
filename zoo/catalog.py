"""What `python -m zoo.list` says of the models, without importing TensorFlow.

The models themselves are in `zoo.models.registry`, which needs TensorFlow and takes seconds to
import; a test compares the two lists.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model in the list.

    Attributes:
        input_shape: Shape of an image if the caller gives none, `(H, W, C)`.
        num_classes: Number of classes if the caller gives none.
        source: What it is, and the paper that it is from.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    source: str


#: Depths and widths to list: of Zagoruyko & Komodakis 2016 and, with width 2, De & Smith 2020. That
#: of width 1 has a checkpoint.
WIDE_RESNETS = ((16, 2), (16, 4), (16, 8), (28, 10), (40, 4), (100, 2), (1000, 2), (16, 1))

#: Widths to list: that of Zhang et al. 2017, and half of it.
SMALL_INCEPTIONS = (48, 96)

_IMAGENET = (224, 224, 3), 1000
_CIFAR = (32, 32, 3), 10

#: Every name of `zoo.list_models()`.
ENTRIES: dict[str, Entry] = {
    "inception_bn": Entry(*_IMAGENET, "Inception of the batch norm paper, Ioffe & Szegedy 2015"),
    "inception_v3": Entry((299, 299, 3), 1000, "Inception-v3, Szegedy et al. 2015"),
    "mlp": Entry(*_CIFAR, "fully connected layers"),
    "mlp_sigmoid": Entry((28, 28, 1), 10, "3 x 100 sigmoid units, Ioffe & Szegedy 2015, 4.1"),
    **{
        f"resnet{depth}": Entry(*_CIFAR, "ResNet for CIFAR, He et al. 2015, 4.2")
        for depth in (20, 32, 44, 56, 110)
    },
    **{
        f"resnet{depth}": Entry(*_IMAGENET, "ResNet, He et al. 2015")
        for depth in (18, 34, 50, 101, 152)
    },
    **{
        f"resnet{depth}v2": Entry(*_IMAGENET, "pre-activation ResNet, He et al. 2016")
        for depth in (50, 101, 152)
    },
    **{
        f"small_inception_{width}": Entry(*_CIFAR, "Inception for small images, Zhang et al. 2017")
        for width in SMALL_INCEPTIONS
    },
    **{
        f"wide_resnet_{depth}_{width}": Entry(
            *_CIFAR, "wide pre-activation ResNet, Zagoruyko & Komodakis 2016"
        )
        for depth, width in WIDE_RESNETS
    },
}
