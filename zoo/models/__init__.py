"""The models: one family of architectures per file, all of them named in `registry.MODELS`."""

from zoo.models.normalization import Normalizer
from zoo.models.registry import create_model, list_models

__all__ = ["Normalizer", "create_model", "list_models"]
