"""The library's calls under PyTorch; `backends_test.py` runs this under it."""

import concurrent.futures
import itertools
import os
import signal

import numpy as np
import pytest
import torch

from keras_renorm.ops.backends.tensorflow import calls as tensorflow_calls
from keras_renorm.ops.backends.torch import calls as torch_calls
from keras_renorm.ops.backends.torch import operators as torch_operators
from keras_renorm.ops.maths.operands import Affine, Arguments, Constants, Settings

TOLERANCES = {"float64": 1e-13, "float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
LIMITS = (1.5, 0.5)
EPSILON = 1e-3


def lying(tensor, order):
    """The same values, their axes in this order in memory."""
    return tensor.permute(order).contiguous().permute(np.argsort(order).tolist())


def step(x, dy, vectors, weights=None, **settings):
    limits = (torch.tensor(value, dtype=vectors[0].dtype) for value in LIMITS)
    settings = Settings(**settings, epsilon=EPSILON)
    arguments, constants = Arguments(x, *vectors[:2]), Constants(*vectors[2:], *limits, weights)
    forward = torch_calls.forward(arguments, constants, settings)
    return *forward, *torch_calls.backward(dy, x, forward.statistics, weights, settings)


def array(tensor):
    return tensor.to(torch.float64).numpy()


def close(actual, desired, tolerance):
    desired = array(desired) if isinstance(desired, torch.Tensor) else desired
    np.testing.assert_allclose(
        array(actual), desired, rtol=0, atol=tolerance * (np.abs(desired).max() + 1)
    )


@pytest.mark.parametrize("dtype", sorted(TOLERANCES))
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("weighing", [None, "mask", "weights"])
@pytest.mark.parametrize("ghost_size", [None, 3])
@pytest.mark.parametrize(("shape", "axis"), [((7, 5), 1), ((8, 6, 5, 20), 3), ((6, 3, 50), 1)])
def test_agrees_with_float64(float64, rng, make, shape, axis, ghost_size, weighing, relu, dtype):
    x, dy, vectors = make(shape, axis, dtype)
    sizes = [1 if i == axis else size for i, size in enumerate(shape)]
    weights = {
        None: None,
        "mask": torch.as_tensor(rng.random(sizes) < 0.7),
        "weights": torch.as_tensor(rng.integers(0, 3, sizes), dtype=torch.float32),
    }[weighing]
    settings = {"axis": axis, "relu": relu, "ghost_size": ghost_size}
    y, statistics, _, _, _, dx, dgamma, dbeta = step(x, dy, vectors, weights, **settings)
    assert y.dtype == dx.dtype == x.dtype
    given = [array(value) for value in (x, dy, *vectors)]
    weights = weights if weights is None else array(weights)
    expected = float64(*given[:2], given[2:], LIMITS, weights=weights, **settings)
    tolerance = TOLERANCES[dtype]
    wide = TOLERANCES["float64" if dtype == "float64" else "float32"]
    close(y, expected["y"], tolerance)
    close(statistics[0], expected["mean"], wide)
    close(statistics[2], expected["variance"], 4 * wide)
    for gradient, name in ((dx, "dx"), (dgamma, "dgamma"), (dbeta, "dbeta")):
        close(gradient, expected[name], 4 * (wide if gradient is not dx else tolerance))


ORDERS = [order for order in itertools.permutations(range(4)) if order != (0, 1, 2, 3)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ghost_size", [None, 2])
def test_axes_in_any_order_in_memory(rng, make, order, ghost_size):
    """The numbers of a contiguous input, and an output that lies as the input does."""
    x, dy, vectors = make((5, 3, 4, 6), 1)
    mask = torch.as_tensor(rng.random((5, 1, 4, 6)) < 0.8)
    settings = {"axis": 1, "relu": True, "ghost_size": ghost_size}
    expected = step(x, dy, vectors, mask, **settings)
    moved = lying(x, order)
    for gradient in (dy, lying(dy, order), lying(dy, order[::-1])):
        found = step(moved, gradient, vectors, mask, **settings)
        for actual, desired in zip(found, expected, strict=True):
            close(actual, desired, 2e-6)
        if ghost_size is None:
            assert found[0].stride() == found[5].stride() == moved.stride()


def test_inputs_with_gaps_and_expanded_ones(make):
    x, dy, vectors = make((6, 8, 10), 2)
    for given in (x[:, ::2], x[:, 1:5], x[:1].expand(6, 8, 10), x.flip(0)):
        gradient = dy[:, : given.shape[1]]
        found = step(given, gradient, vectors, axis=2)
        expected = step(given.clone(memory_format=torch.contiguous_format), gradient.contiguous(),
                        vectors, axis=2)  # fmt: skip
        for actual, desired in zip(found, expected, strict=True):
            torch.testing.assert_close(actual, desired)


def test_the_same_bits_as_under_tensorflow(make):
    import tensorflow as tf

    x, dy, vectors = make((64, 300), 1)
    settings = {"axis": 1, "ghost_size": 24, "relu": True, "momentum": 0.9, "by_stddev": True}
    ours = step(x, dy, vectors, **settings)
    settings = Settings(**settings, epsilon=EPSILON)
    tensors = [tf.constant(value.numpy()) for value in (x, *vectors)]
    arguments, constants = (
        Arguments(*tensors[:3]),
        Constants(*tensors[3:], *map(tf.constant, LIMITS)),
    )
    theirs = tensorflow_calls.forward(arguments, constants, settings)
    gradients = tensorflow_calls.backward(dy.numpy(), tensors[0], theirs[1], None, settings)
    theirs = *theirs, *gradients
    for actual, desired in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(actual, desired)


@pytest.fixture
def threads():
    """Sets the number of PyTorch's threads, and restores it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(params=["OpenMP", "its own"])
def pool(request):
    """Calls by the threads of PyTorch's OpenMP, and by the library's."""
    library = torch_operators.register()
    if request.param == "its own":
        library.handle.keras_renorm_use_openmp(None)
    yield
    library.handle.keras_renorm_use_openmp(torch_operators.openmp())


@pytest.mark.usefixtures("pool")
def test_the_same_bits_on_any_number_of_threads(make, threads):
    case = make((64, 9, 9, 96), 3)
    threads(1)
    expected = step(*case, axis=3)
    for number in (2, 3, 8):
        threads(number)
        for actual, desired in zip(step(*case, axis=3), expected, strict=True):
            np.testing.assert_array_equal(actual, desired)


@pytest.mark.usefixtures("pool")
def test_calls_from_ten_threads_at_once(make):
    case = make((64, 9, 9, 96), 3)
    expected = step(*case, axis=3)
    with concurrent.futures.ThreadPoolExecutor(10) as executor:
        futures = [executor.submit(step, *case, axis=3) for _ in range(60)]
        for future in futures:
            for actual, desired in zip(future.result(timeout=100), expected, strict=True):
                np.testing.assert_array_equal(actual, desired)


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (3, 0, 5), (3, 0)])
def test_next_to_nothing(make, shape):
    x, dy, vectors = make(shape, 1)
    y, statistics, mean, _, updated, dx, dgamma, _ = step(x, dy, vectors, axis=1)
    assert y.shape == dx.shape == x.shape
    assert mean.shape == dgamma.shape == (shape[1],)
    if x.numel() == 0:
        assert not updated
        assert not statistics[3].any()


def test_normalize_and_the_sums_of_the_gradient(rng, make):
    x, dy, vectors = make((8, 5, 6, 7), 1)
    mean, scale, offset = (array(vector) for vector in (vectors[2], vectors[0], vectors[1]))
    mask = torch.as_tensor(rng.random((8, 1, 6, 7)) < 0.7)
    zero = torch.zeros(5)
    given = Affine(vectors[2], zero, vectors[0], vectors[1])

    def wide(vector):
        return vector[:, None, None]

    affine = (array(x) - wide(mean)) * wide(scale) + wide(offset)
    moved = lying(x, (0, 2, 3, 1))
    for relu in (False, True):
        y = torch_calls.normalize(moved, given, Settings(1, relu=relu))
        assert y.stride() == moved.stride()
        close(y, np.maximum(affine, 0) if relu else affine, 1e-6)
        sums = torch_calls.gradient_sums(dy, moved, given, mask, Settings(1, relu=relu))
        counts = array(mask) * ((affine > 0) | (not relu)) * array(dy)
        for actual, factor in zip(sums, (1, array(x) - wide(mean)), strict=True):
            assert actual.dtype == torch.float32
            close(actual, (counts * factor).sum((0, 2, 3)), 1e-5)
    close(torch_calls.relu_gradient(dy, y), array(dy) * (array(y) > 0), 0)


def test_what_the_library_refuses(make):
    x, dy, vectors = make((8, 5), 1)
    with pytest.raises(RuntimeError, match="keras_renorm: gamma has 4 values, not 5"):
        step(x, dy, [vectors[0][:4], *vectors[1:]], axis=1)
    with pytest.raises(RuntimeError, match="beta is not of the type that goes with x"):
        step(x, dy, [vectors[0], vectors[1].double(), *vectors[2:]], axis=1)


def test_which_inputs_it_takes():
    assert torch_calls.takes(torch.zeros(3))
    assert not torch_calls.takes(torch.zeros(3, device="meta"))
    assert not torch_calls.takes(torch.zeros(3, dtype=torch.int32))
    assert not torch_calls.takes(torch.zeros(3, dtype=torch.complex64))


def test_a_tracer_that_runs_the_operators_keeps_them(make):
    from torch.fx.experimental.proxy_tensor import make_fx

    x, dy, vectors = make((8, 5), 1)
    graph = make_fx(lambda x: step(x, dy, vectors, axis=1)[0])(x)
    other = 2 * x + 1
    torch.testing.assert_close(graph(other), step(other, dy, vectors, axis=1)[0])


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_calls_in_a_forked_process(make):
    """There GNU's OpenMP waits for threads that are not there."""
    case = make((64, 9, 9, 96), 3)
    expected = step(*case, axis=3)
    process = os.fork()
    if process == 0:
        status = 1
        try:
            signal.alarm(60)
            for actual, desired in zip(step(*case, axis=3), expected, strict=True):
                np.testing.assert_array_equal(actual, desired)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def test_a_call_on_few_values_leaves_the_callers_threads_as_they_are():
    """Fewer than PyTorch's work on it. OpenMP would end the others, and start them again."""
    # Without GNU's OpenMP the library has threads of its own, which may begin here.
    if torch_operators.openmp() is None or not os.path.isdir("/proc/self/task"):
        return
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    try:
        large, x = torch.zeros(1 << 20), torch.randn(2048, 64)
        affine = Affine(torch.zeros(64), torch.zeros(64), torch.ones(64), torch.zeros(64))
        large.add_(1)
        threads = set(os.listdir("/proc/self/task"))
        begun = set()
        for _ in range(5):
            torch_calls.normalize(x, affine, Settings(axis=1, epsilon=EPSILON))
            large.add_(1)
            begun |= set(os.listdir("/proc/self/task")) - threads
        assert not begun
    finally:
        torch.set_num_threads(before)
