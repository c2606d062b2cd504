"""A process group of PyTorch's; `backends_test.py` runs this. Checks of layers in several
processes are in tests/keras_renorm/layers/process_checks.py."""

import numpy as np
import pytest
import torch
from torch import distributed

from keras_renorm import ops
from keras_renorm.ops.backends.torch.backend import BACKEND
from keras_renorm.ops.backends.torch.collective import Processes


@pytest.fixture
def group(tmp_path):
    """A group of this process alone."""
    meeting = f"file://{tmp_path}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_nobody_without_a_group():
    assert BACKEND.replicas() is None
    assert ops.Replicas.running() is None


@pytest.mark.usefixtures("group")
def test_nobody_in_a_group_of_one():
    assert BACKEND.replicas() is None


@pytest.mark.usefixtures("group")
def test_what_is_reduced_keeps_its_values_and_takes_no_gradient():
    value = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    for operation in ("SUM", "MEAN"):
        found = Processes().all_reduce(operation, value)
        np.testing.assert_array_equal(found, value.detach())
        assert found.is_contiguous()
        assert not found.requires_grad
    assert (Processes().size, int(Processes().index)) == (1, 0)


def test_draws_depend_on_the_seed_alone():
    def draw(*seed, count=5):
        return Processes().uniform(torch.tensor(count), torch.tensor(seed))

    np.testing.assert_array_equal(draw(3, -4), draw(3, -4))
    np.testing.assert_array_equal(draw(3, -4), draw(3, -4, count=9)[:5])
    assert not np.array_equal(draw(3, -4), draw(-4, 3))
    many = draw(1, 2, count=10_000)
    assert many.dtype == torch.float32
    assert 0 <= many.min() < 0.01 < 0.99 < many.max() < 1
    np.testing.assert_allclose(many.mean(), 0.5, atol=0.02)
