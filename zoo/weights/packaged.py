"""Checkpoints that `zoo.train` made, with their files in `zoo/weights/files`.

`tools/make_checkpoint_record.py` prints such an entry. A `_batch_norm` is the twin of the one
without: all else of its training is the same.
"""

from zoo.weights.record import Record

_DIGITS = tuple("0123456789")
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

PACKAGED: tuple[Record, ...] = (
    Record(
        name="mlp_sigmoid.mnist",
        file="mlp_sigmoid.mnist.weights.h5",
        hash="a6791e8f2846383ae698026456bbe68901f6025865386ce7d1d25a6e45456258",
        bytes=442240,
        parameters=100610,
        top1=98.01,
        top1_source="10,000 images of mnist, test",
        dataset="mnist",
        input_shape=(28, 28, 1),
        preprocessing="unit",
        num_classes=10,
        class_names=_DIGITS,
        licence="Apache-2.0",
        origin="zoo.train --config=mlp_sigmoid",
    ),
    Record(
        name="mlp_sigmoid.mnist_batch_norm",
        file="mlp_sigmoid.mnist_batch_norm.weights.h5",
        hash="570b64a2035bc5076278d0f3a75276077b23cdcc1bacab376e6b93327c3adf1a",
        bytes=436464,
        parameters=100610,
        top1=98.24,
        top1_source="10,000 images of mnist, test",
        dataset="mnist",
        input_shape=(28, 28, 1),
        preprocessing="unit",
        num_classes=10,
        class_names=_DIGITS,
        licence="Apache-2.0",
        origin="zoo.train --config=mlp_sigmoid --config.norm=batch_norm",
    ),
    Record(
        name="resnet20.cifar10",
        file="resnet20.cifar10.weights.h5",
        hash="3c515ca18e2d5b4632ff3d27ba4d255bb077e90b11394ccef4563c6a24cbbd3f",
        bytes=1278968,
        parameters=271098,
        top1=90.83,
        top1_source="10,000 images of cifar10, test",
        dataset="cifar10",
        input_shape=(32, 32, 3),
        preprocessing="unit",
        num_classes=10,
        class_names=_CIFAR10,
        licence="Apache-2.0",
        origin="zoo.train --config=resnet20_cifar10",
    ),
    Record(
        name="resnet20.fashion_mnist",
        file="resnet20.fashion_mnist.weights.h5",
        hash="92835ef304c587e1e07d1f028522178ee0c9b73bd012ae2be37544377fe15a18",
        bytes=1261512,
        parameters=270829,
        top1=93.57,
        top1_source="10,000 images of fashion_mnist, test",
        dataset="fashion_mnist",
        input_shape=(28, 28, 1),
        preprocessing="unit",
        num_classes=10,
        class_names=_CLOTHES,
        licence="Apache-2.0",
        origin="zoo.train --config=resnet20 --config.dataset=fashion_mnist",
    ),
)
