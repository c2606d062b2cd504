"""The facts about a checkpoint that are known before its file is opened."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Preprocessing = Literal["caffe", "raw", "tf", "unit"]
HashKind = Literal["sha256", "md5"]

#: Bytes beside the parameters in an HDF5 file: names, headers, alignment. Those of
#: keras.applications have 0.4 to 1.2 MB.
_OVERHEAD_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One checkpoint: where its file is, how to recognise it, and what model it belongs to.

    Attributes:
        name: `architecture.tag`, such as "resnet50.keras_imagenet".
        file: Name of the file: in a mirror's folder, or among the files of this package.
        url: Where its publisher has it; None for a file of this package.
        hash_kind: "sha256", or "md5" where the publisher gives no other. MD5 notices every
            accident, but not a forger.
        hash: The file's hash, in hexadecimal digits.
        bytes: Size of the file; None if its publisher does not say.
        parameters: Number of parameters in the file.
        top1: Accuracy in percent on the data set's validation or test images; None if unknown.
        top1_source: Who measured that, and how.
        dataset: What it was trained on.
        input_shape: Shape of an image, `(H, W, C)`.
        preprocessing: What the images must go through first; see `zoo.weights.preprocessing`.
        num_classes: Number of classes; None for features without a top.
        class_names: Their names, where they are known.
        norm: The `norm` of the model. Weights of "batch_norm" fit "batch_renorm", too.
        norm_options: Arguments of the normalization layers without which the outputs are not
            those of the publisher's model, such as `{"epsilon": 1.001e-5}`.
        licence: Licence of the weights.
        origin: Where they come from: a publisher, or a recipe of this package.
    """

    name: str
    file: str
    url: str | None = None
    hash_kind: HashKind = "sha256"
    hash: str
    bytes: int | None = None
    parameters: int
    top1: float | None = None
    top1_source: str = ""
    dataset: str
    input_shape: tuple[int, int, int]
    preprocessing: Preprocessing
    num_classes: int | None
    class_names: tuple[str, ...] = ()
    norm: Literal["batch_norm", "skip_init"] = "batch_norm"
    norm_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    licence: str
    origin: str

    @property
    def architecture(self) -> str:
        """The model that the weights are for."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """What `zoo.create_model(architecture, weights=tag)` takes."""
        return self.name.partition(".")[2]

    @property
    def max_bytes(self) -> int:
        """More than this is not the file: a server that never ends is stopped here."""
        return self.bytes or self.parameters * 4 + _OVERHEAD_BYTES

    @property
    def cache_name(self) -> str:
        """Name of the file in the cache: one for each content, so that no version hides another."""
        return f"{self.name}-{self.hash[:8]}.h5"
