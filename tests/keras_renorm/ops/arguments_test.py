import math

import keras
import numpy as np
import pytest

from keras_renorm.ops import arguments

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="float64 under TensorFlow"
)


def test_numbers_of_numpy_pass():
    assert arguments.real("momentum", np.float32(0.5), low=0, high=1) == 0.5
    assert arguments.axis(np.int64(-1), rank=4) == 3
    assert arguments.positive("epsilon", np.float64(1e-5)) == 1e-5


@pytest.mark.parametrize("value", [True, "1", None, [1.0], np.complex64(1)])
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match="`momentum` must be a number, received"):
        arguments.real("momentum", value, low=0)


def test_ranges_are_spelt_out():
    with pytest.raises(ValueError, match=r"`a` must be in \[0, 1\], received a=2"):
        arguments.real("a", 2, low=0, high=1)
    with pytest.raises(ValueError, match="`a` must be at least 1, received a=nan"):
        arguments.real("a", math.nan, low=1)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan])
def test_epsilon(value):
    with pytest.raises(ValueError, match="`epsilon` must be finite and greater than 0"):
        arguments.positive("epsilon", value)


def test_a_number_too_large_for_a_float_is_named():
    with pytest.raises(ValueError, match="`r_max` is too large for a float"):
        arguments.real("r_max", 10**400, low=1)


@pytest.mark.parametrize("value", [True, 2.0, "2", None, np.bool_(True)])
def test_what_is_no_integer_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"`steps` must be an integer, received .* of type"):
        arguments.integer("steps", value)


def test_integers_have_a_least_value_or_none():
    assert arguments.integer("unit", np.int8(-3)) == -3
    assert type(arguments.integer("steps", np.int64(0), low=0)) is int
    with pytest.raises(ValueError, match="`steps` must be at least 0, received steps=-1"):
        arguments.integer("steps", -1, low=0)
    with pytest.raises(ValueError, match="`depth` must be at least 1, received depth=0"):
        arguments.optional_integer("depth", 0, low=1)
    assert arguments.optional_integer("depth", 2, low=1) == 2
    assert arguments.optional_integer("depth", None, low=1) is None


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_what_is_no_truth_value_is_a_type_error(value):
    with pytest.raises(TypeError, match="`center` must be True or False, received"):
        arguments.flag("center", value)


def test_unknown_dimensions_of_a_mask_pass():
    arguments.mask_shape((None, 7), (4, 7, 3), layer=True)
    arguments.mask_shape((4, 1, 1), (None, None, 3), layer=False)


@pytest.mark.parametrize("shape", [(4,), (4, 6), (4, 7, 3), (4, 7, 1)])
def test_masks_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"`mask` must have .* that is \(4, 7\)"):
        arguments.mask_shape(shape, (4, 7, 3), layer=True)


@pytest.mark.parametrize("shape", [(), (2,), (3, 1)])
def test_vectors_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"`beta` must be a vector .* of shape \(3,\)"):
        arguments.channels("beta", shape, 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number", [1.1, 3, np.float32(1.5), np.float64(1.1), np.int64(4)])
@needs_tensorflow
def test_a_limit_is_the_number_to_the_last_bit_of_the_type(number, dtype):
    result = arguments.limit("r_max", number, dtype)
    assert result.dtype == dtype
    assert result.shape == ()
    assert result.numpy() == np.dtype(dtype).type(number)


@needs_tensorflow
def test_scalar_tensors_are_limits_whatever_they_hold():
    for value in (
        keras.ops.convert_to_tensor(0.5),
        np.array(0.5),
        keras.Variable(0.5),
        keras.ops.convert_to_tensor(0.5, "float64"),
    ):
        assert float(arguments.limit("r_max", value, "float64")) == 0.5
    assert float(arguments.limit("r_max", keras.ops.convert_to_tensor(2), "float32")) == 2


@pytest.mark.parametrize("value", ["3", None, True, [1.0], np.ones(1), np.ones((2, 1)), 1j])
@needs_tensorflow
def test_what_is_no_scalar_is_a_type_error(value):
    with pytest.raises(TypeError, match="`d_max` must be a number or a scalar tensor, received "):
        arguments.limit("d_max", value, "float32")


def test_inputs_that_are_not_floating_point():
    with pytest.raises(TypeError, match="`x` must be floating point, received dtype int32"):
        arguments.inputs(np.ones((2, 3), "int32"), -1, None)


def test_inputs_in_their_canonical_form():
    x, axis, mask = arguments.inputs(np.ones((2, 3, 4), "float32"), -2, np.ones((2, 1, 1), "int32"))
    assert keras.backend.standardize_dtype(x.dtype) == "float32"
    assert axis == 1
    assert keras.backend.standardize_dtype(mask.dtype) == "bool"
    assert arguments.inputs(x, 0, None)[1:] == (0, None)
    with pytest.raises(ValueError, match=r"`mask` must have the inputs' rank"):
        arguments.inputs(x, 0, np.ones((2, 3), bool))
