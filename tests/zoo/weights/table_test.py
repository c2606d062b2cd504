import io

import pytest
from rich.console import Console

from zoo.errors import UserError
from zoo.weights.table import print_tables


def printed(width, pattern):
    console = Console(file=io.StringIO(), width=width)
    print_tables(console, pattern)
    return console.file.getvalue()


def test_a_narrow_terminal_gets_fewer_columns():
    out = printed(50, "resnet50.keras_imagenet")
    heading = out.splitlines()[1]
    assert "top-1" in heading
    assert "params" not in heading
    assert "A terminal of 170 columns shows params, MB, input," in out
    assert "A terminal of" not in printed(170, "resnet50.keras_imagenet")


def test_a_size_that_nobody_publishes_is_that_of_the_parameters():
    assert " ~242 " in printed(64, "resnet152.keras_imagenet")
    assert " 1.3 " in printed(64, "resnet20.fashion_mnist")


def test_what_matches_nothing_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"match 'resnet5'\. Did you mean 'resnet56'\?"):
        printed(80, "resnet5")
