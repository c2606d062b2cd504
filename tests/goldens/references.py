"""Training steps of the layers in float64, from `keras_renorm.ops.reference` alone.

Channels are last. A minibatch falls into groups, its ghost batches or its domains, each with
moments of its own. One group is the whole minibatch.
"""

import numpy as np

from keras_renorm.ops import reference

EPSILON, MOMENTUM = 1e-3, 0.75


def groups(x, mask, *, ghost_size=None, domain=None, num_domains=1):
    """Pairs of a number and the positions, of `x`'s shape, of each group that has rows."""
    valid = np.broadcast_to(True if mask is None else mask[..., None], x.shape)
    rows = np.arange(len(x))
    if domain is not None:
        numbers = np.broadcast_to(domain, rows.shape)
    else:
        numbers = rows // (ghost_size or len(x))
    for number in range(max(num_domains, numbers.max() + 1)):
        own = numbers == number
        yield number, own, valid & own.reshape(-1, *(1,) * (x.ndim - 1))


def training_step(
    x,
    dy,
    state,
    *,
    limits=(1.0, 0.0),
    by_stddev=False,
    mask=None,
    relu=False,
    ghost_size=None,
    domain=None,
):
    """One step: `(results, state)` with the state's `gamma, beta, moving_mean, moving_variance`.

    The moving statistics are `[C]`, or `[D, C]` with a row per domain. `limits` are `(r_max,
    d_max)`, or a list of such, one per domain.
    """
    rows = state["moving_mean"].ndim == 2
    y, dx = np.zeros(x.shape), np.zeros(x.shape)
    dgamma, dbeta = np.zeros(x.shape[-1]), np.zeros(x.shape[-1])
    found = []
    parts = groups(
        x, mask, ghost_size=ghost_size, domain=domain, num_domains=len(state["moving_mean"])
    )
    for number, own, valid in parts:
        if not own.any():
            continue
        row = number if rows else ...
        mu = state["moving_mean"][row]
        sigma = np.sqrt(state["moving_variance"][row] + EPSILON)
        r_max, d_max = limits[number] if isinstance(limits, list) else limits
        step = reference.forward(
            x,
            state["gamma"],
            state["beta"],
            mu,
            sigma,
            r_max=r_max,
            d_max=d_max,
            alpha=1 - MOMENTUM,
            epsilon=EPSILON,
            mask=valid,
        )
        upstream = np.where(step.y > 0, dy, 0) if relu else dy
        gradients = reference.backward(upstream, x, state["gamma"], step, valid)
        y[own] = (np.maximum(step.y, 0) if relu else step.y)[own]
        dx += gradients.dx
        dgamma += gradients.dgamma
        dbeta += gradients.dbeta
        found.append((row, step, valid.sum(tuple(range(x.ndim - 1)))))
    results = {"y": y, "dx": dx, "dgamma": dgamma, "dbeta": dbeta}
    return results, state | _moved(state, found, by_stddev)


def _moved(state, found, by_stddev):
    """The moving statistics after a step: towards the groups' moments, weighted by their counts."""
    mean, variance = state["moving_mean"].copy(), state["moving_variance"].copy()
    for row in dict.fromkeys(row for row, _, _ in found):
        own = [(step, count) for other, step, count in found if other == row]
        total = sum(count for _, count in own)
        if not total.all():
            continue

        def mean_of(name, own=own, total=total):
            return sum(count * value(step, name) for step, count in own) / total

        mean[row] += (1 - MOMENTUM) * (mean_of("mu_b") - mean[row])
        if by_stddev:
            sigma = np.sqrt(variance[row] + EPSILON)
            variance[row] = (sigma + (1 - MOMENTUM) * (mean_of("sigma_b") - sigma)) ** 2 - EPSILON
        else:
            variance[row] = reference.moving_variance(variance[row], mean_of("variance"), MOMENTUM)
    return {"moving_mean": mean, "moving_variance": variance}


def value(step, name):
    return step.sigma_b**2 - EPSILON if name == "variance" else getattr(step, name)


def inference(x, state, *, relu=False, domain=None):
    """The output of inference."""
    mean, variance = state["moving_mean"], state["moving_variance"]
    if mean.ndim == 2:
        rows = np.broadcast_to(domain, len(x))
        mean, variance = (
            v[rows].reshape(len(x), *(1,) * (x.ndim - 2), -1) for v in (mean, variance)
        )
    y = reference.inference(x, state["gamma"], state["beta"], mean, np.sqrt(variance + EPSILON))
    return np.maximum(y, 0) if relu else y
