"""Images, and the minibatches made of them: each a pure function of a seed and a step."""

from zoo.data.augment import pad_crop_flip
from zoo.data.dataset import Dataset, DatasetError
from zoo.data.datasets import load
from zoo.data.folders import FolderOptions
from zoo.data.opening import open_split
from zoo.data.pipeline import evaluation_batches, training_batches
from zoo.data.preparation import Augmentation, Preparation
from zoo.data.samplers import FewLabelsSampler, Sampler, ShuffledSampler
from zoo.data.sources import Source

__all__ = [
    "Augmentation",
    "Dataset",
    "DatasetError",
    "FewLabelsSampler",
    "FolderOptions",
    "Preparation",
    "Sampler",
    "ShuffledSampler",
    "Source",
    "evaluation_batches",
    "load",
    "open_split",
    "pad_crop_flip",
    "training_batches",
]
