from keras_renorm.ops.backends.tensorflow import stablehlo
from keras_renorm.ops.backends.tensorflow.stablehlo import DYNAMIC, Quotient, Type


def test_types():
    assert str(Type("f32", (2, 3))) == "tensor<2x3xf32>"
    assert str(Type("i1", (DYNAMIC, 1))) == "tensor<?x1xi1>"
    assert str(Type("f64", ())) == "tensor<f64>"


def test_a_call_of_known_shapes():
    text = stablehlo.custom_call(
        "target", (Type("f32", (4,)),), (Type("f32", (4,)),), (("axis", 1), ("relu", False))
    )
    assert "module @keras_renorm {" in text
    assert 'call_target_name = "target", api_version = 4 : i32' in text
    assert "backend_config = {axis = 1 : i64, relu = false}" in text
    assert "indices_of_shape_operands" not in text


def test_a_number_keeps_its_bits():
    text = stablehlo.custom_call("t", (), (Type("f32", ()),), (("epsilon", 0.1),))
    written = text.split("epsilon = ")[1].split(" : f64")[0]
    assert float(written) == 0.1


def test_an_unknown_dimension_is_passed_as_a_shape():
    x = Type("f32", (DYNAMIC, 3))
    text = stablehlo.custom_call("t", (x,), (x, Type("f32", (9, 3))), (("axis", 1),))
    assert "jax.uses_shape_polymorphism = true" in text
    assert '"stablehlo.get_dimension_size"(%arg0) {dimension = 0 : i64}' in text
    assert "%shape1 = stablehlo.constant dense<[9, 3]> : tensor<2xi32>" in text
    assert "indices_of_shape_operands = dense<[1, 2]> : tensor<2xi64>" in text


def test_an_unknown_number_of_ghosts_is_computed():
    x, ghosts = Type("f32", (DYNAMIC, 3)), Type("f32", (9, Quotient(4), 3))
    assert str(ghosts) == "tensor<9x?x3xf32>"
    text = stablehlo.custom_call("t", (x,), (ghosts,), ())
    assert '%shape0_1ns = "stablehlo.get_dimension_size"(%arg0) {dimension = 0 : i64}' in text
    assert "%shape0_1d = stablehlo.constant dense<4>" in text
    assert "%shape0_1q = stablehlo.divide %shape0_1n, %shape0_1d" in text
    assert "%shape0_1m = stablehlo.remainder %shape0_1n, %shape0_1d" in text
    assert "%shape0_1 = stablehlo.add %shape0_1q, %shape0_1r" in text  # 1 more for a remainder
