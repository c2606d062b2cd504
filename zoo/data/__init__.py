"""Images, and the minibatches made of them: each a pure function of a seed and a step."""

from zoo.data.augment import pad_crop_flip
from zoo.data.datasets import Dataset, DatasetError, load
from zoo.data.pipeline import evaluation_batches, training_batches
from zoo.data.samplers import FewLabelsSampler, Sampler, ShuffledSampler

__all__ = [
    "Dataset",
    "DatasetError",
    "FewLabelsSampler",
    "Sampler",
    "ShuffledSampler",
    "evaluation_batches",
    "load",
    "pad_crop_flip",
    "training_batches",
]
