import keras
import numpy as np
import pytest

from zoo.evidence.moving_averages import MovingAverageNormalization, mlp


def test_training_normalises_by_what_the_averages_were_before(rng):
    layer = MovingAverageNormalization(momentum=0.9)
    x = rng.normal(3.0, 2.0, (64, 5)).astype("float32")
    layer.build(x.shape)
    layer.moving_mean.assign(np.full(5, 1.0))
    layer.moving_variance.assign(np.full(5, 4.0))
    y = np.asarray(layer(x, training=True))
    np.testing.assert_allclose(y, (x - 1) / np.sqrt(4 + 1e-3), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.9 + 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 3.6 + 0.1 * x.var(0), rtol=1e-5)


def test_inference_is_batch_norms(rng):
    layer = MovingAverageNormalization(momentum=0.9)
    x = rng.normal(size=(8, 5)).astype("float32")
    layer(x, training=True)
    plain = keras.layers.BatchNormalization()
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    np.testing.assert_allclose(layer(x), plain(x), rtol=1e-5, atol=1e-6)


def test_no_gradient_passes_through_the_statistics(rng):
    """That of y with respect to x is diagonal: examples do not see each other."""
    import tensorflow as tf

    layer = MovingAverageNormalization(momentum=0.9)
    x = tf.constant(rng.normal(size=(6, 1)).astype("float32"))
    layer.build(x.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    jacobian = tape.jacobian(y, x).numpy().reshape(6, 6)
    np.testing.assert_allclose(jacobian, np.eye(6) / np.sqrt(1 + 1e-3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("classes", [3])
def test_the_model_is_mlp_with_such_layers(classes):
    model = mlp(num_classes=classes, input_shape=(4, 4, 1), norm="batch_norm", norm_options={})
    kinds = [type(layer) for layer in model.layers]
    assert kinds.count(MovingAverageNormalization) == 3
    assert model.output_shape == (None, classes)
