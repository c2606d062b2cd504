"""The library's operators under PyTorch; `backends_test.py` runs this under it."""

import pytest
import torch

from keras_renorm.ops.backends.torch import operators
from keras_renorm.ops.native import layout, loader


@pytest.fixture(autouse=True)
def registered():
    operators.register()


def test_the_threads_are_those_of_pytorch():
    assert operators.openmp() or not torch.backends.openmp.is_available()


@pytest.mark.parametrize("ghost_size", [0, 3])
def test_pytorch_finds_the_operators_well_made(make, ghost_size):
    """Their schemas, and the shapes and strides that they promise to a tracer."""
    x, dy, vectors = make((8, 5, 6), 2)
    limits = torch.tensor(1.5), torch.tensor(0.5)
    checks = ("test_schema", "test_faketensor")
    for given in (x, x.permute(0, 2, 1).contiguous().permute(0, 2, 1), x[:, ::2]):
        mask = torch.ones(8, given.shape[1], 1, dtype=torch.bool)
        parameters, six = torch.stack(vectors), torch.stack([*vectors, *vectors[:2]])
        statistics = torch.ones(layout.STATISTICS, 3 if ghost_size else 1, 6)
        gradient = dy[:, : given.shape[1]]
        attributes = {"axis": 2, "relu": True}
        cut = attributes | {"ghost_size": ghost_size}
        more = {"epsilon": 1e-3, "momentum": 0.9, "by_stddev": True}
        for name, arguments, keywords in (
            ("forward", (given, *vectors, *limits, mask), cut | more),
            ("backward", (gradient, given, statistics, mask), cut),
            ("moments", (given, mask), {"axis": 2}),
            ("normalize", (given, parameters), attributes),
            ("gradient_sums", (gradient, given, parameters, mask), attributes),
            ("input_gradient", (gradient, given, six, mask), attributes),
        ):
            operator = getattr(torch.ops.keras_renorm, name).default
            torch.library.opcheck(operator, arguments, keywords, test_utils=checks)


def test_all_calls_have_their_numbers():
    """c_calls.cc takes them by number."""
    assert loader.HANDLERS[:2] == ("forward", "backward")
    assert len(loader.HANDLERS) == 6
