"""Inputs for the calls and operators of the library under PyTorch."""

import pytest


@pytest.fixture
def make(rng):
    """x, dy, and gamma, beta, moving mean and moving variance."""
    torch = pytest.importorskip("torch")

    def case(shape, axis, dtype="float32", offset=0.0):
        dtype = getattr(torch, dtype)
        wide = torch.promote_types(dtype, torch.float32)
        channels = shape[axis]
        x, dy = (torch.as_tensor(rng.normal(at, 2.0, shape)).to(dtype) for at in (offset, 0.0))
        vectors = [*rng.normal(1.0, 0.5, (2, channels)), rng.normal(offset, 1.0, channels)]
        vectors.append(rng.uniform(0.5, 9.0, channels))
        return x, dy, [torch.as_tensor(vector, dtype=wide) for vector in vectors]

    return case
