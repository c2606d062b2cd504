"""Errors of weights. Messages say what was expected, what was received and what to do."""

from zoo.errors import UserError


class WeightsError(UserError):
    """Weights are not available, or do not fit the model. Nothing was loaded."""


class DownloadError(WeightsError):
    """A file did not arrive. No file has its final name."""


class WrongHashError(DownloadError):
    """A downloaded or cached file is not the published one."""


class CacheError(WeightsError):
    """The cache folder cannot be written: no permission, a full disk."""


class MismatchError(WeightsError):
    """The file's weights do not fit the model's layers."""
