"""A training step as a pure function of JAX, with Keras's stateless calls.

    KERAS_BACKEND=jax python examples/jax_training_step.py

The norm's moving statistics, and what its limits depend on, are part of the state that goes in and
comes out. Nothing else has to be done for them.
"""

import argparse
import os
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np

import keras_renorm

State = tuple[Any, Any]


def make_model() -> keras.Model:
    """A perceptron with Batch Renorm."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(32, use_bias=False),
            keras_renorm.layers.BatchRenormalization(),
            keras.layers.ReLU(),
            keras.layers.Dense(4),
        ]
    )


def main() -> None:
    """Trains on minibatches that hold two labels each, and prints the accuracy in inference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500)
    steps = parser.parse_args().steps
    keras.utils.set_random_seed(0)
    model = make_model()

    def loss(trainable: Any, others: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
        logits, others = model.stateless_call(trainable, others, x, training=True)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=-1)
        return -jnp.mean(picked), others

    @jax.jit
    def step(state: State, x: jax.Array, y: jax.Array) -> tuple[State, jax.Array]:
        trainable, others = state
        (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, others, x, y)
        trainable = [w - 0.1 * gradient for w, gradient in zip(trainable, gradients, strict=True)]
        return (trainable, others), value

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 8))

    def drawn(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        noise = rng.normal(size=(len(labels), 8))
        return (centres[labels] + noise).astype("float32"), labels

    state: State = (
        [v.value for v in model.trainable_variables],
        [v.value for v in model.non_trainable_variables],
    )
    for _ in range(steps):
        labels = rng.choice(rng.permutation(4)[:2], size=32)
        state, value = step(state, *drawn(labels))
    x, y = drawn(rng.integers(4, size=1000))
    logits, _ = model.stateless_call(*state, x, training=False)
    accuracy = float(np.mean(np.argmax(logits, axis=-1) == y))
    print(f"loss of the last minibatch {float(value):.3f}, accuracy in inference {accuracy:.3f}")


if __name__ == "__main__":
    main()
