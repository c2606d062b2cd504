import keras
import pytest


def _vector_jacobian(function, arguments, dy):
    """The output of `function` and its gradients in `arguments`, by the backend's own autodiff."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        y, pull_back = jax.vjp(jax.jit(function), *arguments)
        return y, pull_back(dy)
    if backend == "torch":
        import torch

        tensors = [_torch(a).requires_grad_() for a in arguments]
        y = function(*tensors)
        return y.detach(), torch.autograd.grad(y, tensors, _torch(dy))
    import tensorflow as tf

    tensors = [tf.constant(a) for a in arguments]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        y = function(*tensors)
    return y, tape.gradient(y, tensors, output_gradients=tf.constant(dy))


def _torch(array):
    """A tensor of PyTorch's; it does not take NumPy's bfloat16."""
    return keras.ops.convert_to_tensor(array).clone()


@pytest.fixture
def vector_jacobian():
    return _vector_jacobian
