"""Layers in processes that PyTorch joins by gloo on loopback; `replicas_test.py` runs this."""

import datetime
import functools

import keras
import numpy as np
import pytest
import torch
from torch import distributed

from keras_renorm import layers, ops, statistics
from keras_renorm.ops.native import loader
from keras_renorm.ops.steps import lowerings

SPLITS = [([5, 3], [8, 0]), ([5, 3, 0], [0, 1, 7])]  # for two and for three processes
SECONDS = 150
LOWERINGS = ["native"] * loader.library_path().is_file() + ["composite"]
OPTIONS = {"r_max": 1.5, "d_max": 0.5, "momentum": 0.7, "synchronized": True}
SHARED = {"batch_statistics": "shared", "population_statistics": "shared"}
LAYERS = {
    "bn": lambda: layers.BatchNormalization(momentum=0.7, synchronized=True, activation="relu"),
    "brn": lambda: layers.BatchRenormalization(**OPTIONS),
    "adaptive": lambda: layers.BatchRenormalization(momentum=0.7, synchronized=True),
    "channels first": lambda: layers.BatchRenormalization(axis=1, **OPTIONS),
    "bfloat16": lambda: layers.BatchRenormalization(dtype="mixed_bfloat16", **OPTIONS),
    "domains": lambda: layers.DomainBatchRenormalization(4, **OPTIONS),
    "shared": lambda: layers.DomainBatchNormalization(4, synchronized=True, **SHARED),
}
# Domain 0 is on the first process only, 1 on several, 3 on none.
IDS = np.array([0, 1, 0, 1, 1, 1, 2, 2])


class Share:
    """One process's part of each batch of 8."""

    def __init__(self, rank=0, sizes=(8,)):
        self.rank, self.size = rank, len(sizes)
        self.rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))

    def own(self, array):
        return torch.as_tensor(array[self.rows])


def draw(layer, rng, mean=1.0):
    """Weights by a seed. `keras.utils.set_random_seed` loads TensorFlow."""
    for variable in layer.trainable_variables:
        variable.assign(rng.uniform(mean - 0.5, mean + 0.5, variable.shape))


def array(value):
    return keras.ops.convert_to_numpy(value)


def layer_steps(share, kind, lowering, masked, offset=0.0):
    """Three steps of a layer: outputs and gradients by process, and weights."""
    rng, found = np.random.default_rng(1), {}
    layer = LAYERS[kind]()
    layer.build((None, 4, 4, 4))
    draw(layer, rng)
    domains = {"domain": share.own(IDS)} if kind in ("domains", "shared") else {}
    for number in range(3):
        x, dy = (rng.normal(offset, 1.5, (8, 4, 4, 4)).astype("f4") for offset in (offset, 0.0))
        mask = rng.random((8, 4, 4)) > 0.3
        options = domains | ({"mask": share.own(mask)} if masked else {})
        x = share.own(x).to(getattr(torch, layer.compute_dtype)).requires_grad_()
        for variable in layer.trainable_variables:
            variable.value.grad = None
        y = layer(x, training=True, **options)
        y.backward(share.own(dy).to(y.dtype))
        found[f"{number} y"], found[f"{number} dx"] = (
            value.detach().float().numpy() for value in (y, x.grad)
        )
        for variable in layer.trainable_variables:
            found[f"{number} sum of d{variable.name}"] = variable.value.grad.numpy()
        for variable in layer.non_trainable_variables:
            found[f"{number} same {variable.name}"] = array(variable)
    with statistics.batch_statistics(layer):
        found["minibatch's y"] = array(layer(x, **options).float())
    found["y at inference"] = array(layer(x, **domains).float())
    return found


class Network(keras.Model):
    """Two convolutions with norms, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.steps = [
            keras.layers.Conv2D(4, 3, use_bias=False),
            layers.BatchRenormalization(synchronized=True, activation="relu"),
            keras.layers.Conv2D(5, 1),
            layers.BatchNormalization(synchronized=True),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]

    def call(self, x, training=None):
        for step in self.steps:
            norm = isinstance(step, layers.BatchNormalization)
            x = step(x, training=training) if norm else step(x)
        return x


def network_steps(share):
    """The weights after five steps of stochastic gradient descent, by DistributedDataParallel."""
    rng, network = np.random.default_rng(2), Network()
    network(np.zeros((1, 5, 5, 3), "f4"))
    draw(network, rng, mean=0.0)
    model = network
    if share.size > 1:
        model = torch.nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.SGD([v.value for v in network.trainable_variables], 0.05)
    for _ in range(5):
        x, target = rng.normal(1.0, 2.0, (8, 5, 5, 3)), rng.normal(size=(8, 1))
        y = model(share.own(x.astype("f4")), training=True)
        # DistributedDataParallel takes the mean over the processes.
        loss = share.size * (y - share.own(target.astype("f4"))).square().sum() / 8
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {f"same {i} {v.name}": array(v) for i, v in enumerate(network.variables)}


def shuffled(share):
    """Shuffled and brought back, with gradients; alone, nothing moves."""
    x = np.arange(24, dtype="f4").reshape(8, 3)
    own = share.own(x).requires_grad_()
    moved, order = layers.CrossReplicaShuffle(seed=2**40 + 5)(own, training=True)
    back = layers.CrossReplicaUnshuffle()(moved, order)
    (moved * moved).sum().backward()
    found = {"same order": order.numpy(), "moved": moved.detach().numpy()}
    return found | {"back": back.detach().numpy(), "dx": own.grad.numpy()}


def alone(share):
    """What one process does without the others: no collective may wait for them."""
    layer = layers.BatchNormalization(momentum=0.0)
    layer.build((None, 2))
    layer(torch.full((3, 2), 1.0 + share.rank), training=True)
    found = {"moving mean": layer.moving_mean.numpy()}
    if share.rank == 0:
        layer(torch.zeros(3, 2))
        model = keras.Sequential([keras.Input((2,)), LAYERS["bn"]()])
        statistics.precise(model, np.arange(6, dtype="f4").reshape(3, 2))
        found["precise"] = model.layers[0].moving_mean.numpy()
    return found


def collectives(share, monkeypatch):
    """How many all-reductions a layer takes forwards, backwards and at inference."""
    calls, original = [], distributed.all_reduce
    monkeypatch.setattr(distributed, "all_reduce", lambda *a: (calls.append(a), original(*a)))
    layer, counts = layers.BatchRenormalization(synchronized=True), []
    x = share.own(np.ones((8, 3), "f4")).requires_grad_()
    y = layer(x, training=True)
    counts.append(len(calls))
    y.sum().backward()
    counts.append(len(calls))
    layer(x)
    return {"counts": np.array([*counts, len(calls)])}


def refused():
    """What a second derivative, and one forwards, say."""
    vectors, x = (torch.zeros(3), torch.ones(3)), torch.ones(2, 3, requires_grad=True)
    messages = []

    def output(x):
        return ops.batch_renormalization(x, *vectors, synchronized=True)[0]

    for function in (
        lambda: torch.autograd.grad(output(x).sum(), x, create_graph=True),
        lambda: torch.func.jvp(output, (x,), (x,)),
    ):
        with pytest.raises(ValueError, match="several replicas") as error:
            function()
        messages.append(str(error.value))
    return {"messages": np.array(messages)}


CASES = [
    *((kind, lowering, masked) for kind in LAYERS for lowering in LOWERINGS for masked in (0, 1)),
    *(("brn", lowering, 0, 1e6) for lowering in LOWERINGS),
]


def everything(share):
    """The results of all that is checked, by name."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for kind, lowering, *rest in CASES:
            patch.setenv(lowerings.VARIABLE, lowering)
            found[str((kind, lowering, *rest))] = layer_steps(share, kind, lowering, *rest)
        patch.delenv(lowerings.VARIABLE)
        found["network"], found["shuffled"] = network_steps(share), shuffled(share)
        found["alone"], found["collectives"] = alone(share), collectives(share, patch)
    if share.size > 1:
        found["refused"] = refused()
    return {f"{case}: {name}": a for case, part in found.items() for name, a in part.items()}


def process(rank, folder, splits):
    """One process of the group; writes its results with each split, and waits for the others."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=len(splits[0]),
        timeout=datetime.timedelta(seconds=SECONDS),
    )
    for number, sizes in enumerate(splits):
        np.savez(f"{folder}/{number}-{rank}.npz", **everything(Share(rank, sizes)))
    distributed.barrier()
    distributed.destroy_process_group()


@functools.cache
def single():
    assert ops.Replicas.running() is None
    return everything(Share())


@pytest.fixture(scope="module", params=SPLITS, ids=["two", "three"])
def group(request, tmp_path_factory):
    """The splits, and the folder in which all processes' results with each of them are."""
    folder, splits = tmp_path_factory.mktemp("processes"), request.param
    count = len(splits[0])
    running = torch.multiprocessing.start_processes(
        process, (str(folder), splits), count, join=False, start_method="spawn"
    )
    try:
        for _ in range(count):
            if running.join(timeout=SECONDS):
                break
        else:
            pytest.fail("the processes do not end")
    finally:
        for one in running.processes:
            one.kill()
    return splits, folder


@pytest.fixture(params=[0, 1], ids=["uneven", "empty"])
def several(request, group):
    """The sizes of the processes' parts, and what each of them found."""
    splits, folder = group
    sizes = splits[request.param]
    files = (folder / f"{request.param}-{rank}.npz" for rank in range(len(sizes)))
    return sizes, [dict(np.load(file)) for file in files]


def part(results, case):
    return {k.removeprefix(f"{case}: "): v for k, v in results.items() if k.startswith(f"{case}: ")}


def compare(found, desired, tolerance):
    """Holds processes to a single one: parts joined, sums added up, and what is the same equal."""
    for name, whole in desired.items():
        parts = [one[name] for one in found]
        if "same" in name:
            assert len({value.tobytes() for value in parts}) == 1, name
            joined = parts[0]
        else:
            joined = np.sum(parts, 0) if "sum of" in name else np.concatenate(parts)
        scale = max(1.0, np.abs(whole).max(initial=0))
        np.testing.assert_allclose(joined, whole, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_layer_does_what_it_does_on_the_whole_batch(several, case):
    _, found = several
    own = [part(one, str(case)) for one in found]
    tolerance = {"bfloat16": 1e-2, "adaptive": 5e-6}.get(case[0], 2e-6 if case[3:] else 1e-6)
    compare(own, part(single(), str(case)), tolerance)


def test_training_ends_with_the_weights_of_one_process(several):
    compare([part(one, "network") for one in several[1]], part(single(), "network"), 2e-6)


def test_examples_are_shuffled_and_come_back_with_their_gradients(several):
    sizes, found = several
    own = [part(one, "shuffled") for one in found]
    x = part(single(), "shuffled")["moved"]
    assert len({one["same order"].tobytes() for one in own}) == 1
    assert [len(one["moved"]) for one in own] == list(sizes)
    order, moved = own[0]["same order"], np.concatenate([one["moved"] for one in own])
    assert sorted(order[:, 1]) == list(range(8)) != list(order[:, 1])
    np.testing.assert_array_equal(moved, x[order[:, 1]])
    np.testing.assert_array_equal(np.concatenate([one["back"] for one in own]), x)
    np.testing.assert_array_equal(np.concatenate([one["dx"] for one in own]), 2 * x)


def test_a_process_alone_waits_for_no_other(several):
    own = [part(one, "alone") for one in several[1]]
    for rank, one in enumerate(own):
        np.testing.assert_array_equal(one["moving mean"], [1 + rank] * 2)
    np.testing.assert_allclose(own[0]["precise"], [2, 3], rtol=1e-6)


def test_one_collective_forward_and_one_backward(several):
    for one in several[1]:
        assert list(one["collectives: counts"]) == [1, 2, 2]
    assert list(single()["collectives: counts"]) == [0, 0, 0]


def test_second_derivatives_are_refused(several):
    message = (
        "The gradient of a normalization synchronized over several replicas cannot be "
        "differentiated again. Write synchronized=False where second derivatives are needed."
    )
    for one in several[1]:
        assert list(one["refused: messages"]) == [message] * 2
