"""The copy that PyTorch's compiler does not see into; `backends_test.py` runs this under it."""

import sys

import torch

from keras_renorm.ops.backends.torch import derivatives

PINNING = "keras_renorm.ops.backends.torch.pinning"


def test_the_first_program_that_is_compiled_registers_it():
    x = torch.arange(3.0)
    assert derivatives.pinned(x) is x
    assert PINNING not in sys.modules
    compiled = torch.compile(lambda x: 2 * derivatives.pinned(x), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), 2 * x)
    assert PINNING in sys.modules


def test_copies_in_transforms():
    from keras_renorm.ops.backends.torch import pinning

    x = torch.arange(6.0).reshape(2, 3)
    for copy in (pinning.copied(x), torch.vmap(pinning.copied, 1, 1)(x)):
        torch.testing.assert_close(copy, x, rtol=0, atol=0)
        assert copy.data_ptr() != x.data_ptr()
    torch.library.opcheck(pinning.copied, (x,), test_utils="test_faketensor")
