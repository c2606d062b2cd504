"""What can go wrong with weights. Messages say what was expected, what was got, what to do."""

from zoo.errors import UserError


class WeightsError(UserError):
    """Weights cannot be had, or do not fit the model; nothing was loaded."""


class DownloadError(WeightsError):
    """A file did not arrive; nothing stands at its final name."""


class WrongHashError(DownloadError):
    """What arrived, or what lies in the cache, is not what was published."""


class CacheError(WeightsError):
    """The cache folder cannot be written: no permission, a full disk."""


class MismatchError(WeightsError):
    """The file's weights do not fit the model's layers."""
