"""Trains with PyTorch's DistributedDataParallel, the norms synchronized over the processes.

    KERAS_BACKEND=torch python examples/torch_data_parallel.py --processes=2

Each process has two examples. With `synchronized=True` the moments are of all of them, whatever the
number of processes.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch

import keras_renorm

PORT = 29517


def make_model() -> keras.Model:
    """A perceptron whose norm has the moments of all processes."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, use_bias=False),
            keras_renorm.layers.BatchRenormalization(synchronized=True),
            keras.layers.ReLU(),
            keras.layers.Dense(1),
        ]
    )


def train(rank: int, processes: int, steps: int) -> str:
    """Trains on the process's own examples with the gradients of all, and says what came out."""
    keras.utils.set_random_seed(0)
    model = make_model()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.05)
    rng = np.random.default_rng(rank)
    for _ in range(steps):
        x = torch.from_numpy(rng.normal(size=(2, 8)).astype("float32"))
        loss = torch.mean((parallel(x, training=True)[:, 0] - x.sum(1)) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean = model.layers[1].moving_mean.value.detach()
    means = [torch.empty_like(mean) for _ in range(processes)]
    torch.distributed.all_gather(means, mean)
    same = all(torch.equal(other, mean) for other in means)
    return f"loss {loss.item():.3f}, moving statistics equal in all processes: {same}"


def process(rank: int, processes: int, steps: int) -> None:
    """What each process does."""
    store = torch.distributed.TCPStore("127.0.0.1", PORT, processes, is_master=rank == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    # DistributedDataParallel is gone when `train` returns. If it outlives the group, it may wait
    # for ever for the threads of the group, which wait for it.
    found = train(rank, processes, steps)
    torch.distributed.destroy_process_group()
    if rank == 0:
        print(found)


def main() -> None:
    """Starts the processes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    torch.multiprocessing.spawn(
        process, (arguments.processes, arguments.steps), nprocs=arguments.processes
    )


if __name__ == "__main__":
    main()
