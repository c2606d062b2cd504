import pytest

from zoo.errors import UserError, as_user_errors, nearest, reason


def test_nearest_names_the_closest_word_or_nothing():
    assert nearest("batchnorm", ["batch_norm", "none"]) == " Did you mean 'batch_norm'?"
    assert nearest("resnet21", ["resnet32", "resnet20", "resnet44"]) == (
        " Did you mean 'resnet20'?"
    )
    assert nearest("xyz", []) == ""
    assert nearest("xyz", ["batch_norm", "none"]) == ""


def test_the_given_kind_of_exception_becomes_a_user_error_with_its_message():
    with pytest.raises(UserError, match=r"^too small$") as info, as_user_errors(ValueError):
        raise ValueError("too small")
    assert isinstance(info.value.__cause__, ValueError)


def test_another_kind_passes():
    with pytest.raises(KeyError), as_user_errors(ValueError):
        raise KeyError("a defect")


def test_tensorflows_names_of_functions_are_left_out_of_a_message():
    message = "{{function_node __wrapped__Read}} a.jpg; No such file [Op:Read]\nmore"
    assert reason(message) == "a.jpg; No such file"
    assert reason("as it is") == "as it is"
