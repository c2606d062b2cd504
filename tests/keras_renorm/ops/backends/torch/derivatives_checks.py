"""Derivatives of the library's calls; `backends_test.py` runs this under PyTorch."""

import functools

import keras
import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from keras_renorm import ops
from keras_renorm.layers import BatchRenormalization
from keras_renorm.ops.steps import lowerings

pytestmark = pytest.mark.slow

CASES = {
    "a step": {},
    "with a ReLU": {"relu": True},
    "masked": {"mask": True},
    "ghost batches": {"virtual_batch_size": 4, "mask": True},
    "inference": {"inference": True},
    "inference with a ReLU": {"inference": True, "relu": True},
    "another axis": {"axis": 1},
    "channels last in memory": {"axis": 1, "order": (0, 2, 3, 1)},
    "channels first in memory": {"order": (0, 3, 1, 2)},
}


@pytest.fixture(params=sorted(CASES))
def case(request, rng):
    """`output(x, gamma, beta)`, and x, gamma and beta, in float64."""
    options = {"axis": 3, "mask": None, **CASES[request.param]}
    inference, order = options.pop("inference", False), options.pop("order", range(4))
    channels = (6, 3, 4, 5)[options["axis"]]
    x = torch.as_tensor(rng.normal(1.0, 2.0, (6, 3, 4, 5)))
    x = x.permute(*order).contiguous().permute(np.argsort(order).tolist())
    mean, gamma, beta = map(torch.as_tensor, rng.normal(1.0, 0.5, (3, channels)))
    variance = torch.as_tensor(rng.uniform(0.5, 9.0, channels))
    if options["mask"]:
        options["mask"] = torch.as_tensor(rng.random((6, 3, 4, 1)) < 0.7)

    def output(x, gamma, beta):
        given = x, mean, variance, gamma, beta
        if inference:
            return ops.inference_step(*given, **options)
        return ops.batch_renormalization(*given, r_max=1.5, d_max=0.5, **options)[0]

    return output, x, gamma, beta


@pytest.fixture
def both(case, monkeypatch):
    """Holds a function of `(output, x, gamma, beta)` by the library to plain operations."""

    def run(function):
        found = []
        for name in ("native", "composite"):
            monkeypatch.setenv(lowerings.VARIABLE, name)
            found.append(function(*case))
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)

    return run


def leaves(*tensors):
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def test_the_first_one_is_a_call(case, monkeypatch):
    monkeypatch.setenv(lowerings.VARIABLE, "native")
    output, *sources = case
    sources = leaves(*sources)
    y = output(*sources)
    with torch.profiler.profile() as profile:
        torch.autograd.grad((y**3).sum(), sources)
    names = {event.key for event in profile.key_averages()}
    assert names & {"keras_renorm::backward", "keras_renorm::gradient_sums"}
    assert "aten::mean" not in names


def test_first_derivatives(both):
    def gradients(output, *sources):
        sources = leaves(*sources)
        return torch.autograd.grad((output(*sources) ** 3).sum(), sources)

    both(gradients)


def test_second_derivatives(both):
    def penalty(output, *sources):
        sources = leaves(*sources)
        first = torch.autograd.grad((output(*sources) ** 3).sum(), sources, create_graph=True)
        return torch.autograd.grad(sum((value**2).sum() for value in first), sources)

    both(penalty)


def test_second_derivatives_after_the_statistics_moved(rng, monkeypatch):
    """A layer's moving statistics change in place between forward and backward."""
    inputs = torch.as_tensor(rng.normal(3.0, 2.0, (8, 4)), dtype=torch.float32)
    found = []
    for name in ("native", "composite"):
        monkeypatch.setenv(lowerings.VARIABLE, name)
        layer = BatchRenormalization(momentum=0.5, r_max=1.5, d_max=0.5)
        (x,) = leaves(inputs)
        (dx,) = torch.autograd.grad((layer(x, training=True) ** 3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad((dx**2).sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*jit.script. is deprecated")  # PyTorch's own use of it
def test_forward_derivatives(both):
    def jvp(output, x, gamma, beta):
        tangents = torch.cos(x), torch.sin(gamma), beta
        with forward_ad.dual_level():
            dual = output(forward_ad.make_dual(x, tangents[0]), gamma, beta)
            of_x = forward_ad.unpack_dual(dual).tangent
        return of_x, *torch.func.jvp(output, (x, gamma, beta), tangents)

    both(jvp)


@pytest.mark.filterwarnings("ignore:.*jit.script. is deprecated")
def test_transforms_of_transforms(both):
    def hessian(output, x, gamma, beta):
        def loss(gamma):
            return (output(x, gamma, beta) ** 3).sum()

        return torch.func.jacfwd(torch.func.grad(loss))(gamma), torch.func.hessian(loss)(gamma)

    both(hessian)


def test_many_examples(both):
    def per_example(output, x, gamma, beta):
        def loss(gamma, x):
            return (output(x, gamma, beta) ** 3).sum()

        several = torch.stack([x, 2 * x, x + 1])
        gradients = torch.func.vmap(torch.func.grad(loss), (None, 0))(gamma, several)
        moved = torch.func.vmap(output, (2, None, None), out_dims=1)(
            several.movedim(0, 2), gamma, beta
        )
        return gradients, moved

    both(per_example)


def test_a_gradient_of_one_source_alone(both):
    def some(output, x, gamma, beta):
        (own,) = leaves(gamma)
        y = output(x, own, beta)
        return torch.autograd.grad(y.sum(), own)

    both(some)


def test_nothing_of_the_size_of_the_input_is_kept_but_the_input(monkeypatch):
    monkeypatch.setenv(lowerings.VARIABLE, "native")
    kept = []
    x = torch.randn(32, 8, 8, 16, requires_grad=True)
    gamma = torch.ones(16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.batch_renormalization(x, torch.zeros(16), torch.ones(16), gamma, relu=True)
    large = [tensor for tensor in kept if tensor.numel() > 9 * 16]
    assert [tensor.data_ptr() for tensor in large] == [x.data_ptr()]


def test_a_net_trains_as_in_plain_operations(rng, monkeypatch):
    images = rng.normal(2.0, 3.0, (32, 6, 6, 3)).astype("float32")
    targets = rng.normal(size=(32, 3)).astype("float32")
    found = []
    for name in ("native", "composite"):
        monkeypatch.setenv(lowerings.VARIABLE, name)
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((6, 6, 3)),
                keras.layers.Conv2D(4, 3),
                BatchRenormalization(activation="relu", virtual_batch_size=4),
                keras.layers.Conv2D(5, 3),
                BatchRenormalization(),
                keras.layers.Flatten(),
                keras.layers.Dense(3),
            ]
        )
        model.compile(keras.optimizers.SGD(0.01), "mse")
        history = model.fit(images, targets, 8, epochs=3, shuffle=False, verbose=0)
        found.append(history.history["loss"] + [model.evaluate(images, targets, verbose=0)])
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*jit.script_method. is deprecated")
@pytest.mark.parametrize("options", [{}, {"virtual_batch_size": 4}], ids=["whole", "ghosts"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_compiled_gradient_is_of_the_statistics_before_the_step(rng, options, masked):
    """PyTorch's partitioner would compute r and d again, when the statistics have moved."""
    inputs = torch.as_tensor(rng.normal(3.0, 2.0, (8, 6, 3)), dtype=torch.float32)
    mask = torch.as_tensor(rng.random((8, 6)) < 0.7) if masked else None
    found = []
    for backend in (None, "aot_eager_decomp_partition"):
        torch.compiler.reset()
        layer = BatchRenormalization(momentum=0.5, r_max=2.0, d_max=1.0, **options)
        layer(inputs)
        (x,) = leaves(inputs)
        function = functools.partial(layer, training=True, mask=mask)
        function = torch.compile(function, backend=backend) if backend else function
        (function(x) ** 3).sum().backward()
        found.append([x.grad, layer.gamma.value.grad, layer.moving_mean.value.detach()])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_moments_compiled_for_any_size(rng, masked):
    """PyTorch 2.13 took the channels' axis, too, for one that is summed over."""

    def found(x, mask):
        return tuple(ops.moments(x, axis=1, mask=mask))

    torch.compiler.reset()
    compiled = torch.compile(found, backend="eager", dynamic=True, fullgraph=True)
    for rows in (2, 5):
        x = torch.as_tensor(rng.normal(3.0, 2.0, (rows, 3, 4)), dtype=torch.float32)
        mask = torch.as_tensor(rng.random((rows, 1, 4)) < 0.7) if masked else None
        torch.testing.assert_close(compiled(x, mask), found(x, mask), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # PyTorch's compiler reads it
@pytest.mark.parametrize("masked", [False, True])
def test_ghosts_compiled_for_any_size(rng, masked):
    layers = [BatchRenormalization(momentum=0.5, virtual_batch_size=2) for _ in range(2)]
    for layer in layers:
        layer.build((None, 6, 3))

    torch.compiler.reset()
    steps = [functools.partial(layer, training=True) for layer in layers]
    steps[1] = torch.compile(steps[1], backend="eager", dynamic=True, fullgraph=True)
    for rows in (8, 5):
        x = torch.as_tensor(rng.normal(3.0, 2.0, (rows, 6, 3)), dtype=torch.float32)
        mask = torch.as_tensor(rng.random((rows, 6)) < 0.7) if masked else None
        outputs = [step(x, mask=mask) for step in steps]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
        moved = [layer.moving_mean.value.detach() for layer in layers]
        torch.testing.assert_close(*moved, rtol=1e-4, atol=1e-5)


def test_constants_are_kept_in_transforms_that_are_compiled():
    def gradients(scale, x):
        def loss(x):
            y, _ = ops.batch_renormalization(x, torch.zeros(3), torch.ones(3), r_max=2.0, d_max=1.0)
            return (scale * y**3).sum()

        return torch.func.vmap(torch.func.grad(loss))(x)

    x = torch.randn(2, 6, 3, dtype=torch.float64)
    torch.compiler.reset()
    compiled = torch.compile(gradients, backend="aot_eager")
    torch.testing.assert_close(compiled(2.0, x), gradients(2.0, x))
