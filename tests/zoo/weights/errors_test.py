import pytest

from zoo.errors import UserError
from zoo.weights import errors


@pytest.mark.parametrize(
    ("kind", "parent"),
    [
        (errors.WeightsError, UserError),
        (errors.DownloadError, errors.WeightsError),
        (errors.WrongHashError, errors.DownloadError),
        (errors.CacheError, errors.WeightsError),
        (errors.MismatchError, errors.WeightsError),
    ],
)
def test_what_goes_wrong_with_weights_the_user_can_mend(kind, parent):
    assert issubclass(kind, parent)
