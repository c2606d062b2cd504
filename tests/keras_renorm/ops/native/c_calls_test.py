"""Wrong calls of the C interface: each returns an error and touches no memory."""

import array
import ctypes
import re

import numpy as np
import pytest

from keras_renorm.ops.native import loader

pytestmark = pytest.mark.skipif(
    not loader.library_path().is_file(), reason="the native library is not built"
)

ELEMENTS = {"float32": 0, "float64": 1, "float16": 2, "bool": 4}
FORWARD, BACKWARD, MOMENTS, NORMALIZE, GRADIENT_SUMS, INPUT_GRADIENT = range(6)
CHANNELS = 5


@pytest.fixture(scope="module")
def function():
    prototype = ctypes.CFUNCTYPE(
        *[ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p, *[ctypes.c_int64] * 5],
        *[ctypes.c_bool, ctypes.c_double, ctypes.c_double, ctypes.c_bool],
    )
    return prototype(("keras_renorm_call", loader.load().handle))


def described(tensor):
    """A tensor's address, element, rank and sizes; or words that a test has made."""
    if not isinstance(tensor, np.ndarray):
        return tensor
    return tensor.ctypes.data, ELEMENTS[tensor.dtype.name], tensor.ndim, *tensor.shape


@pytest.fixture
def call(function):
    def call(number, operands, results, *, axis=1, ghost_size=0, counts=None, words=None):
        given = array.array("q")
        for tensor in (*operands, *results):
            given.extend(described(tensor))
        address = given.buffer_info()[0] if words is None else words
        inputs, outputs = counts or (len(operands), len(results))
        return function(
            number, address, inputs, outputs, 2, axis, ghost_size, False, 1e-3, 0.9, False
        )

    return call


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


X = np.arange(4.0 * CHANNELS, dtype="float32").reshape(4, CHANNELS)


def operands(number, x=X):
    """Right operands of a call, and its results."""
    vector, like_x = zeros(CHANNELS), zeros(4, CHANNELS)
    statistics, scalar = zeros(9, 1, CHANNELS), np.array(1, "float32")
    return {
        FORWARD: (
            [x, *[vector] * 4, scalar, scalar],
            [like_x, statistics, zeros(CHANNELS), zeros(CHANNELS), zeros()],
        ),
        BACKWARD: ([x, x, statistics], [like_x, zeros(CHANNELS), zeros(CHANNELS)]),
        MOMENTS: ([x], [zeros(4, CHANNELS, dtype="float64")]),
        NORMALIZE: ([x, zeros(4, CHANNELS)], [like_x]),
        GRADIENT_SUMS: ([x, x, zeros(4, CHANNELS)], [zeros(2, CHANNELS, dtype="float64")]),
        INPUT_GRADIENT: ([x, x, zeros(6, CHANNELS)], [like_x]),
    }[number]


@pytest.mark.parametrize("number", range(6))
def test_right_calls(call, number):
    assert call(number, *operands(number)) is None


def test_the_result_of_a_right_call(call):
    result = zeros(4, CHANNELS, dtype="float64")
    assert call(MOMENTS, [X], [result]) is None
    count, rest = np.full(CHANNELS, 4), np.zeros(CHANNELS)
    np.testing.assert_allclose(result, [count, X.mean(0), X.var(0), rest], rtol=1e-6)


@pytest.mark.parametrize("number", range(6))
def test_counts_of_operands_and_results(call, number):
    inputs, outputs = map(len, operands(number))
    weighted = number != NORMALIZE
    wrong_inputs = {-1, 0, inputs - 1, inputs + 1 + weighted, 2**40}
    wrong = [(i, outputs) for i in wrong_inputs]
    wrong += [(inputs, o) for o in (-1, 0, outputs - 1, outputs + 1, 2**62)]
    for counts in wrong:
        message = call(number, *operands(number), counts=counts).decode()
        takes = f"it takes {inputs}{', or one more,' if weighted else ''} and returns {outputs}"
        assert message.startswith(f"keras_renorm: {loader.HANDLERS[number]} has {counts[0]} ope")
        assert message.endswith(takes)


@pytest.mark.parametrize("number", [-1, 6, 2**31 - 1])
def test_numbers_of_no_call(call, number):
    assert call(number, *operands(MOMENTS)) == f"keras_renorm: there is no call {number}".encode()


def test_no_words(call):
    assert b"the operands' description is at the address 0" in call(MOMENTS, [X], [X], words=0)


@pytest.mark.parametrize("number", range(6))
def test_a_tensor_without_memory(call, number):
    inputs, outputs = operands(number)
    for i in range(len(inputs) + len(outputs)):
        tensors = [*inputs, *outputs]
        tensors[i] = 0, *described(tensors[i])[1:]
        problem = call(number, tensors[: len(inputs)], tensors[len(inputs) :])
        assert problem == b"keras_renorm: a tensor at the address 0"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((0, -1), "a tensor of rank -1"),
        ((0, 65, *[1] * 65), "a tensor of rank 65"),
        ((0, 2**62), f"a tensor of rank {2**62}"),
        ((0, 2, -4, 5), "a size of -4"),
        ((0, 2, 2**62, 5), f"a size of {2**62}"),
        ((0, 3, 2**31, 2**31, 5), f"a size of {2**31}"),
        ((0, 3, 0, 2**40, 2**40), f"a size of {2**40}"),
        ((0, 0), "axis 1 of a tensor of rank 0"),
        ((0, 1, 4), "axis 1 of a tensor of rank 1"),
        ((4, 2, 4, 5), "the input is not a float type"),
        ((-1, 2, 4, 5), "the input is not a float type"),
        ((6, 2, 4, 5), "the input is not a float type"),
        ((2**32, 2, 4, 5), "the input is not a float type"),
    ],
)
def test_what_x_may_not_be(call, words, problem):
    x = X.ctypes.data, *words
    result = zeros(4, CHANNELS, dtype="float64")
    assert call(MOMENTS, [x], [result]) == f"keras_renorm: {problem}".encode()
    assert not result.any()


def test_an_empty_batch_with_other_channels_has_the_cause_and_the_cure(call):
    """TensorFlow's oneDNN convolution gives it the channels of its input."""
    inputs, outputs = operands(FORWARD, zeros(0, 3))
    problem = call(FORWARD, inputs, [zeros(0, 3), zeros(9, 1, 3), *outputs[2:]]).decode()
    assert f"an empty batch has 3 channels, not {CHANNELS}. TensorFlow's oneDNN" in problem
    assert "set TF_ENABLE_ONEDNN_OPTS=0" in problem


@pytest.mark.parametrize("axis", [-1, 2, 2**62])
def test_an_axis_that_x_does_not_have(call, axis):
    problem = call(MOMENTS, *operands(MOMENTS), axis=axis)
    assert problem == f"keras_renorm: axis {axis} of a tensor of rank 2".encode()


@pytest.mark.parametrize("number", range(6))
def test_every_operand_and_result_has_the_number_of_values_that_goes_with_x(call, number):
    inputs, outputs = operands(number)
    for i in range(len(inputs) + len(outputs)):
        for wrong in (zeros(3), zeros(CHANNELS, dtype="float16"), zeros(1, 0)):
            tensors = [*inputs, *outputs]
            tensors[i] = wrong
            assert call(number, tensors[: len(inputs)], tensors[len(inputs) :]) is not None


@pytest.mark.parametrize("wrong", [zeros(3, 1), zeros(4, 1, dtype="float64"), zeros(0, 1)])
def test_weights_that_do_not_fit(call, wrong):
    problem = call(MOMENTS, [X, wrong], operands(MOMENTS)[1]).decode()
    assert re.search("neither booleans nor float32|a mask of [03] values for 4 positions", problem)


@pytest.mark.parametrize("number", [MOMENTS, NORMALIZE, GRADIENT_SUMS, INPUT_GRADIENT])
def test_ghost_batches_where_there_are_none(call, number):
    problem = call(number, *operands(number), ghost_size=2)
    assert problem == f"keras_renorm: {loader.HANDLERS[number]} knows no ghost batches".encode()


def test_ghost_batches_of_less_than_no_rows(call):
    assert b"ghost batches of -1 rows" in call(BACKWARD, *operands(BACKWARD), ghost_size=-1)
