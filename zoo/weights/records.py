"""The checkpoints that are known by name."""

import fnmatch
import types
from typing import Any

from zoo.errors import nearest
from zoo.weights.errors import WeightsError
from zoo.weights.packaged import PACKAGED
from zoo.weights.record import Preprocessing, Record

_KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications"

#: Names of the models with a "keras_imagenet": md5 with and without top, bytes likewise,
#: parameters, top-1. URLs and hashes are those in the sources of keras.applications 3.15, top-1
#: those of Keras's documentation (keras.io/api/applications); bytes are those that Keras printed on
#: downloading the files, where such a log is known.
_KERAS_IMAGENET: dict[str, tuple[str, str, int | None, int, int, float]] = {
    "resnet50": (
        "2cb95161c43110f7111970584f804107",
        "4d473c1dd8becc155b73f8504c6f6626",
        102_967_424,
        94_765_736,
        25_636_712,
        74.9,
    ),
    "resnet101": (
        "f1aeb4b969a6efcfb50fad2f0c20cfc5",
        "88cf7a10940856eca736dc7b7e228a21",
        179_648_224,
        171_446_536,
        44_707_176,
        76.4,
    ),
    "resnet152": (
        "100835be76be38e30d865e96f2aaae62",
        "ee4c566cf9a93f14d82f913c2dc6dd0c",
        None,
        234_698_864,
        60_419_944,
        76.6,
    ),
    "resnet50v2": (
        "3ef43a0b657b3be2300d5770ece849e0",
        "fac2f116257151a9d068a22e544a4917",
        None,
        94_668_760,
        25_613_800,
        76.0,
    ),
    "resnet101v2": (
        "6343647c601c52e1368623803854d971",
        "c0ed64b8031c3730f411d2eb4eea35b5",
        None,
        171_317_808,
        44_675_560,
        77.2,
    ),
    "resnet152v2": (
        "a49b44d1979771252814e80f8ec446f9",
        "ed17cf2e0169df9d443503ef94b23b33",
        None,
        234_545_216,
        60_380_648,
        78.0,
    ),
    "inception_v3": (
        "9a0d58056eeedaa3f26cb7ebd46da564",
        "bcbd6486424b2319ff4ef7d526e38f63",
        96_112_376,
        87_910_968,
        23_851_784,
        77.9,
    ),
}

#: Parameters of the classifier on 2,048 features.
_KERAS_TOP = 2_048 * 1_000 + 1_000


def _keras_family(model: str) -> tuple[str, int, Preprocessing, dict[str, Any], str]:
    """Folder, image size, preprocessing, options of the normalization, licence."""
    if model == "inception_v3":
        options = {"epsilon": 1e-3, "scale": False}
        return "inception_v3", 299, "tf", options, "Apache-2.0 (tensorflow/models)"
    epsilon = {"epsilon": 1.001e-5}
    if model.endswith("v2"):
        return "resnet", 224, "tf", epsilon, "BSD-3-Clause (facebook/fb.resnet.torch)"
    return "resnet", 224, "caffe", epsilon, "MIT (KaimingHe/deep-residual-networks)"


def _keras_record(model: str, *, top: bool) -> Record:
    md5, md5_no_top, size, size_no_top, parameters, top1 = _KERAS_IMAGENET[model]
    folder, image_size, preprocessing, norm_options, licence = _keras_family(model)
    file = f"{model}_weights_tf_dim_ordering_tf_kernels{'' if top else '_notop'}.h5"
    return Record(
        name=f"{model}.keras_imagenet{'' if top else '_notop'}",
        file=file,
        url=f"{_KERAS_URL}/{folder}/{file}",
        hash_kind="md5",
        hash=md5 if top else md5_no_top,
        bytes=size if top else size_no_top,
        parameters=parameters if top else parameters - _KERAS_TOP,
        top1=top1 if top else None,
        top1_source="published by Keras" if top else "",
        dataset="imagenet2012",
        input_shape=(image_size, image_size, 3),
        preprocessing=preprocessing,
        num_classes=1_000 if top else None,
        norm_options=types.MappingProxyType(norm_options),
        licence=licence,
        origin="keras.applications",
    )


#: Every checkpoint that is known by name.
RECORDS: dict[str, Record] = {
    record.name: record
    for record in (
        *PACKAGED,
        *(_keras_record(model, top=top) for model in _KERAS_IMAGENET for top in (True, False)),
    )
}


def list_weights(pattern: str = "*") -> list[str]:
    """Returns the names of the checkpoints, sorted.

    Args:
        pattern: Shell pattern that the names must match, such as "resnet50.*".

    Returns:
        Names `architecture.tag`, which `zoo.create_model` takes as `weights`.

    Example:
        >>> zoo.list_weights("inception_v3.*")
        ['inception_v3.keras_imagenet', 'inception_v3.keras_imagenet_notop']
    """
    return sorted(fnmatch.filter(RECORDS, pattern))


def get_record(name: str) -> Record:
    """Returns the record of a checkpoint.

    Args:
        name: One of `list_weights()`.

    Returns:
        Its record.

    Raises:
        WeightsError: If there is none of that name.
    """
    if name in RECORDS:
        return RECORDS[name]
    architecture = str(name).partition(".")[0]
    known = list_weights(f"{architecture}.*")
    allowed = f"For {architecture!r} there are {', '.join(known)}." if known else ""
    raise WeightsError(
        f"There are no weights {name!r}.{nearest(str(name), RECORDS)} "
        f"{allowed or '`python -m zoo.list` lists them all.'}"
    )
