"""PyTorch's fused kernel as a lowering; `backends_test.py` runs this under PyTorch."""

import itertools

import keras
import numpy as np
import pytest
import torch

from keras_renorm import ops
from keras_renorm.ops.steps import lowerings

LIMITS = (1.5, 0.5)
TOLERANCES = {"float64": 1e-13, "float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
SHAPES = [((16, 5), 1), ((4, 7, 5), 2), ((3, 5, 6, 20), 3), ((2, 3, 4, 3, 5), 4)]
OTHER_AXES = [((4, 6, 5), 1), ((2, 4, 5, 3), 1), ((3, 4, 2, 3), 2), ((5, 8), 0)]


@pytest.fixture(autouse=True)
def lowering(monkeypatch):
    monkeypatch.setenv(lowerings.VARIABLE, "fused")


@pytest.fixture
def vectors(rng):
    """gamma, beta, moving mean and moving variance of a number of channels."""

    def make(channels):
        return [*rng.normal(1.0, 0.5, (3, channels)), rng.uniform(0.5, 9.0, channels)]

    return make


def normalize(x, gamma, beta, mean, variance, *, axis, **options):
    limits = {"r_max": LIMITS[0], "d_max": LIMITS[1]}
    given = map(torch.as_tensor, (mean, variance, gamma, beta))
    return ops.batch_renormalization(x, *given, axis=axis, **limits, **options)


def close(actual, desired, tolerance):
    actual = actual.detach().to(torch.float64).numpy()
    np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * np.abs(desired).max())


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", sorted(TOLERANCES))
@pytest.mark.parametrize(("shape", "axis"), SHAPES + OTHER_AXES)
def test_agrees_with_float64(rng, float64, vectors, shape, axis, dtype, relu):
    x, dy = (torch.as_tensor(v).to(getattr(torch, dtype)) for v in rng.normal(size=(2, *shape)))
    given = [torch.as_tensor(v).to(torch.promote_types(x.dtype, torch.float32))
             for v in vectors(shape[axis])]  # fmt: skip
    sources = [tensor.requires_grad_() for tensor in (x, *given[:2])]
    y, batch = normalize(*sources, *given[2:], axis=axis, relu=relu)
    gradients = torch.autograd.grad(y, sources, dy)
    assert y.dtype == gradients[0].dtype == x.dtype
    arrays = [v.detach().to(torch.float64).numpy() for v in (x, dy, *given)]
    expected = float64(*arrays[:2], arrays[2:], LIMITS, axis=axis, relu=relu)
    tolerance = TOLERANCES[dtype]
    close(y, expected["y"], tolerance)
    for gradient, name in zip(gradients, ("dx", "dgamma", "dbeta"), strict=True):
        close(gradient, expected[name], 4 * tolerance)
    wide = TOLERANCES["float64" if dtype == "float64" else "float32"]
    close(batch.mean, expected["mean"][0], wide)
    close(batch.variance, expected["variance"][0], 4 * wide)
    np.testing.assert_array_equal(batch.count, expected["count"][0])
    assert not batch.mean.requires_grad


@pytest.mark.parametrize("lowering", ["fused", "composite", ""])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((3, 2), 0), ((3, 2), 1), ((1, 4, 5), 1), ((2, 4, 3), 1), ((2, 1, 3), 2), ((4, 2, 1, 3), 0)],
)
def test_the_order_in_memory_of_inputs_and_gradients_does_not_matter(
    rng, monkeypatch, vectors, shape, axis, lowering
):
    """Whatever order a layer before or after gives them; PyTorch's kernel for images mistook it."""
    monkeypatch.setenv(lowerings.VARIABLE, lowering)
    x, dy = torch.as_tensor(rng.normal(size=(2, *shape)), dtype=torch.float32)
    given = [torch.as_tensor(v, dtype=torch.float32) for v in vectors(shape[axis])]

    def gradients(x, dy):
        sources = [x.detach().requires_grad_(), *(v.requires_grad_() for v in given[:2])]
        y, _ = normalize(*sources, *given[2:], axis=axis)
        return torch.autograd.grad(y, sources, dy)

    def ordered(tensor, order):
        back = [order.index(place) for place in range(tensor.ndim)]
        return tensor.permute(order).contiguous().permute(back)

    desired = gradients(x, dy)
    orders = list(itertools.permutations(range(len(shape))))
    for one, other in itertools.product(orders, orders):
        for found, value in zip(
            gradients(ordered(x, one), ordered(dy, other)), desired, strict=True
        ):
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axis", "tolerance"), [((32, 56, 56, 4), 3, 5e-4), ((32, 4, 56, 56), 1, 1e-5)]
)
def test_large_means(rng, float64, vectors, shape, axis, tolerance):
    x, dy = (torch.as_tensor(v, dtype=torch.float32) for v in rng.normal(size=(2, *shape)))
    given = [np.float32(v) for v in vectors(4)]
    x = (x + 1e6).requires_grad_()
    y, batch = normalize(x, *given, axis=axis)
    (dx,) = torch.autograd.grad(y, x, dy)
    expected = float64(x.detach(), dy, given, LIMITS, axis=axis)
    np.testing.assert_allclose(batch.variance, expected["variance"][0], rtol=1e-5)
    mean = (batch.mean.double() + batch.mean_remainder.double()).numpy()
    np.testing.assert_allclose(mean - 1e6, expected["mean"][0] - 1e6, rtol=0, atol=1e-5)
    close(y, expected["y"], tolerance)
    close(dx, expected["dx"], tolerance)


@pytest.mark.parametrize("lowering", ["fused", "composite"])
def test_a_variance_that_overflows_updates_nothing(rng, monkeypatch, lowering):
    from keras_renorm.layers import BatchRenormalization

    monkeypatch.setenv(lowerings.VARIABLE, lowering)
    layer = BatchRenormalization(momentum=0.5)
    layer(torch.as_tensor(rng.normal(size=(8, 3)) * 1e25, dtype=torch.float32), training=True)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.moving_mean), [0, 0, 0])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.moving_variance), [1, 1, 1])


def test_channels_without_variance_and_with_nan():
    x = torch.tensor([[3.0, 1.0, 1.0], [3.0, float("nan"), 2.0], [3.0, 1.0, 6.0]])
    y, batch = normalize(x, *np.float32([[1] * 3, [0] * 3, [0] * 3, [1] * 3]), axis=1)
    assert batch.variance[0] == 0
    assert batch.mean[0] == 3
    assert torch.isnan(y[:, 1]).all()
    assert torch.isfinite(y[:, [0, 2]]).all()
    np.testing.assert_allclose(batch.variance[2], np.var([1, 2, 6]), rtol=1e-6)


def test_where_it_fits(monkeypatch, chosen):
    x = torch.zeros(4, 3)
    settings = {"axis": 1, "epsilon": 1e-3}
    assert ops.lowering().name == "fused"
    assert chosen(x, weighted=False, **settings) == "fused"
    assert chosen(x[:2], weighted=False, **settings) == "fused"
    for rows in (0, 1):
        assert chosen(x[:rows], weighted=False, **settings) == "composite"
    assert chosen(x, weighted=True, **settings) == "composite"
    assert chosen(x, weighted=False, ghosts=True, **settings) == "composite"
    monkeypatch.setenv(lowerings.VARIABLE, "composite")
    assert chosen(x, weighted=False, **settings) == "composite"


def test_one_row_is_normalised_as_in_plain_operations(monkeypatch):
    """The kernel would refuse it; the variance is 0."""
    x = torch.tensor([[1.0, 5.0]])
    given = np.float32([[1, 1], [0, 0], [0, 0], [1, 1]])
    y, batch = normalize(x, *given, axis=1)
    np.testing.assert_array_equal(batch.variance, [0, 0])
    monkeypatch.setenv(lowerings.VARIABLE, "composite")
    np.testing.assert_array_equal(y, normalize(x, *given, axis=1)[0])


@pytest.fixture
def both(rng, vectors, monkeypatch):
    """Runs a function of `(x, gamma)` by the fused kernel and in plain operations, in float64."""
    x = torch.as_tensor(rng.normal(1.0, 2.0, (6, 3, 4)))
    gamma, *rest = map(torch.as_tensor, vectors(4))

    def run(function):
        def output(x, gamma):
            return normalize(x, gamma, *rest, axis=2)[0]

        found = []
        for name in ("fused", "composite"):
            monkeypatch.setenv(lowerings.VARIABLE, name)
            found.append(function(output, x, gamma))
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)

    return run


def test_second_derivatives(both):
    def penalty(output, x, gamma):
        x, gamma = x.clone().requires_grad_(), gamma.clone().requires_grad_()
        (dx,) = torch.autograd.grad((output(x, gamma) ** 3).sum(), x, create_graph=True)
        return torch.autograd.grad((dx**2).sum(), [x, gamma])

    both(penalty)


@pytest.mark.filterwarnings("ignore:.*jit.script. is deprecated")  # PyTorch's own use of it
def test_forward_derivatives(both):
    def jvp(output, x, gamma):
        return torch.func.jvp(output, (x, gamma), (torch.cos(x), torch.sin(gamma)))

    both(jvp)


def test_function_transforms(both):
    def per_example(output, x, gamma):
        def loss(gamma, x):
            return (output(x, gamma) ** 3).sum()

        return torch.func.vmap(torch.func.grad(loss), (None, 0))(gamma, torch.stack([x, 2 * x]))

    both(per_example)


@pytest.mark.slow
def test_compiled_graphs(both):
    """One graph for all sizes of a batch, with its gradient."""

    def compiled(output, x, gamma):
        torch.compiler.reset()
        function = torch.compile(output, backend="aot_eager", fullgraph=True)
        found = []
        for rows in (6, 4, 3):
            part = x[:rows].clone().requires_grad_()
            y = function(part, gamma)
            found += [y.detach(), *torch.autograd.grad((y**3).sum(), part)]
        return found

    both(compiled)


@pytest.mark.slow
def test_a_net_trains_as_with_keras_layer(rng):
    """Batch norm is the same formula in both; a net of channels first and one of channels last."""
    from keras_renorm.layers import BatchNormalization

    for axis, layout in ((1, "channels_first"), (-1, "channels_last")):
        images = rng.normal(2.0, 3.0, (32, 6, 6, 6)).astype("float32")
        targets = rng.normal(size=(32, 3)).astype("float32")
        histories = []
        for norm in (BatchNormalization, keras.layers.BatchNormalization):
            keras.utils.set_random_seed(0)
            model = keras.Sequential(
                [
                    keras.Input((6, 6, 6)),
                    keras.layers.Conv2D(4, 3, data_format=layout),
                    norm(axis),
                    keras.layers.ReLU(),
                    keras.layers.Flatten(),
                    keras.layers.Dense(3),
                ]
            )
            model.compile(keras.optimizers.SGD(0.01), "mse")
            history = model.fit(images, targets, 8, epochs=3, shuffle=False, verbose=0)
            histories.append(history.history["loss"] + [model.evaluate(images, targets, verbose=0)])
        np.testing.assert_allclose(*histories, rtol=1e-3)
