"""Trains the critic of CrossQ: temporal differences without a target network.

    python examples/crossq_critic.py

The current and the next states and actions pass the critic together, as one minibatch. So one set
of moments normalises both sides of the Bellman equation. Batch Renorm keeps the critic in training
close to the one in inference, which the actor asks. The system here is linear, so its true values
are known. Source: Bhatt et al. 2024, https://arxiv.org/abs/1902.05605.
"""

import argparse

import keras
import numpy as np

import keras_renorm

DISCOUNT, NOISE = 0.9, 0.1
A = np.array([[0.95, 0.2], [-0.1, 0.9]])  # the next state is A s + B a + noise
B = np.array([[0.0], [0.3]])
POLICY = np.array([[-0.5, -0.8]])  # the action is POLICY s, and noise where it explores


def true_values(states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The discounted sums of -|s|^2 - |a|^2 that follow from states and actions."""
    p, loop = np.zeros((2, 2)), A + B @ POLICY
    for _ in range(500):  # of the value, -s p s - constant
        p = np.eye(2) + POLICY.T @ POLICY + DISCOUNT * loop.T @ p @ loop
    constant = DISCOUNT * NOISE**2 * np.trace(p) / (1 - DISCOUNT)
    following = states @ A.T + actions @ B.T
    costs = (states**2).sum(1) + (actions**2).sum(1)
    return -costs - DISCOUNT * np.einsum("ni,ij,nj->n", following, p, following) - constant


def make_critic() -> keras.Model:
    """The value of a state and an action."""
    layers: list[keras.layers.Layer] = [keras.Input((3,))]
    for _ in range(2):
        layers.append(keras_renorm.layers.BatchRenormalization())
        layers.append(keras.layers.Dense(128, activation="relu"))
    return keras.Sequential(
        [*layers, keras_renorm.layers.BatchRenormalization(), keras.layers.Dense(1)]
    )


def bellman_error(rewards: keras.KerasTensor, values: keras.KerasTensor) -> keras.KerasTensor:
    """The squared error of the first half of the values; the second half are those that follow."""
    now, following = keras.ops.split(values, 2)
    target = keras.ops.split(rewards, 2)[0] + DISCOUNT * keras.ops.stop_gradient(following)
    return keras.ops.square(now - target)


def main() -> None:
    """Trains from a replay buffer, and prints how far the critic is from the true values."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--batch_size", type=int, default=128)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)

    # The replay buffer: what an exploring policy has seen.
    states = rng.normal(size=(20_000, 2))
    actions = states @ POLICY.T + rng.normal(size=(20_000, 1))
    rewards = -(states**2).sum(1) - (actions**2).sum(1)
    following = states @ A.T + actions @ B.T + NOISE * rng.normal(size=states.shape)

    critic = make_critic()
    critic.compile(keras.optimizers.Adam(0.001), bellman_error)
    for _ in range(arguments.steps):
        rows = rng.integers(len(states), size=arguments.batch_size)
        now = np.concatenate([states[rows], actions[rows]], axis=1)
        then = np.concatenate([following[rows], following[rows] @ POLICY.T], axis=1)
        both = np.concatenate([now, then]).astype("float32")
        critic.train_on_batch(both, np.tile(rewards[rows, None], (2, 1)).astype("float32"))

    test = rng.normal(size=(1_000, 3))
    truth = true_values(test[:, :2], test[:, 2:])
    found = critic.predict(test.astype("float32"), batch_size=1_000, verbose=0)[:, 0]
    print(f"values {truth.mean():.1f} +- {truth.std():.1f}", end=", ")
    print(f"root mean square error {np.sqrt(np.mean((found - truth) ** 2)):.2f}")
    gap = keras_renorm.diagnostics.train_inference_gap(critic, both)
    print(f"output in training against inference: {gap.output:.2f}")


if __name__ == "__main__":
    main()
