"""Normalisation of minibatches that hold examples of several domains.

D is the number of domains. A statistic or parameter of shape `[D, C]` has a row for each domain.
All domains share a vector of shape `[C]`. `domain` is one id for all examples, an `int` or a scalar
integer tensor, or a vector `[B]` with an id per example, along axis 0 of `x`. An example whose id
is not in [0, D) has the output NaN and changes no statistic. Compiled programs cannot raise, and no
other output is sure to be noticed.
"""

from typing import Any, Literal, NamedTuple

import keras

from keras_renorm.ops import arguments
from keras_renorm.ops.backends.replicas import Replicas
from keras_renorm.ops.maths.masks import without_masked_gradients
from keras_renorm.ops.maths.moments import Moments, moments
from keras_renorm.ops.maths.moving import Moving, has_update, update_moving
from keras_renorm.ops.maths.sums import at_least, channel_shape
from keras_renorm.ops.renorm import batch_renormalization
from keras_renorm.ops.renorm import inference_step as _inference_step
from keras_renorm.ops.steps.step import Trained
from keras_renorm.typing import Tensor

Kind = Literal["shared", "domain"]


class Parameters(NamedTuple):
    """What the normalisation of an example needs beside its minibatch.

    Attributes:
        mean: `[D, C]` or `[C]`, population mean.
        variance: `[D, C]` or `[C]`, population variance.
        gamma: `[D, C]`, `[C]` or None for 1.
        beta: `[D, C]`, `[C]` or None for 0.
        r_max: Number, scalar tensor or `[D]`.
        d_max: Number, scalar tensor or `[D]`.
    """

    mean: Tensor
    variance: Tensor
    gamma: Tensor | None = None
    beta: Tensor | None = None
    r_max: float | Tensor = 1.0
    d_max: float | Tensor = 0.0

    @property
    def by_domain(self) -> bool:
        """Whether any parameter has a row for each domain."""
        return any(_has_rows(name, value) for name, value in self._asdict().items())

    def of(self, domain: int | Tensor) -> "Parameters":
        """The parameters of one domain."""
        rows = self._asdict().items()
        return Parameters(*(_row(v, domain) if _has_rows(name, v) else v for name, v in rows))


def inference_step(
    x: Tensor,
    moving_mean: Tensor,
    moving_variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    domain: int | Tensor,
    num_domains: int,
    epsilon: float,
    axis: int,
    mask: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Normalises each example with the population statistics of its domain.

    ```
    y_i = gamma_k * (x_i - mean_k) / sqrt(variance_k + epsilon) + beta_k        k = domain_i
    ```

    Args:
        x: Tensor `[B, ..., C, ...]`, floating point.
        moving_mean: `[D, C]` or `[C]`, a constant for the gradient.
        moving_variance: `[D, C]` or `[C]`, a constant for the gradient.
        gamma: Optional scale `[D, C]` or `[C]`; None is 1.
        beta: Optional offset `[D, C]` or `[C]`; None is 0.
        domain: See the module.
        num_domains: D.
        epsilon: Added to the variances.
        axis: The axis of the channels, not 0.
        mask: Optional boolean tensor of `x`'s rank that broadcasts against `x`. Positions where it
            is False enter no gradient.
        relu: Whether to take the positive part.

    Returns:
        The output, in the dtype and shape of `x`, in one pass over `x`, or two with a mask.
    """
    parameters = Parameters(moving_mean, moving_variance, gamma, beta)
    if parameters.by_domain and not _is_scalar(domain):
        axis %= len(x.shape)

        def output(x: Tensor) -> Tensor:
            return _normalize_examples(x, domain, parameters, num_domains, epsilon, axis)

        y = without_masked_gradients(mask, output, x)
    else:
        own = parameters.of(domain)
        y = _inference_step(x, *own[:4], epsilon=epsilon, axis=axis, mask=mask)
        y = y if isinstance(domain, int) else y + _blot(domain, num_domains, y)
    return keras.ops.relu(y) if relu else y


def train(
    x: Tensor,
    moving_mean: Tensor,
    moving_variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    domain: int | Tensor,
    num_domains: int,
    batch_statistics: Kind,
    momentum: float,
    by_stddev: bool = False,
    r_max: float | Tensor = 1.0,
    d_max: float | Tensor = 0.0,
    epsilon: float,
    axis: int,
    mask: Tensor | None = None,
    relu: bool = False,
    synchronized: bool = False,
) -> Trained:
    """Normalises each example with minibatch moments, corrected towards population statistics.

    This is `ops.renorm.train`, where an example's minibatch is the examples of its domain if
    `batch_statistics` is "domain", and all examples if it is "shared". One id for all examples
    costs as much as that function. A vector of ids costs a masked call for each domain, or one call
    if nothing is kept by domain.

    Args:
        x: Tensor `[B, ..., C, ...]`, floating point.
        moving_mean: `[D, C]` or `[C]`, before this step's update.
        moving_variance: `[D, C]` or `[C]`, before this step's update.
        gamma: Optional scale `[D, C]` or `[C]`; None is 1.
        beta: Optional offset `[D, C]` or `[C]`; None is 0.
        domain: See the module.
        num_domains: D.
        batch_statistics: "domain" or "shared".
        momentum: As in `ops.training_step`.
        by_stddev: As in `ops.training_step`.
        r_max: Number, scalar tensor or `[D]`.
        d_max: Number, scalar tensor or `[D]`.
        epsilon: Added to the variances.
        axis: The axis of the channels, not 0.
        mask: Optional boolean tensor of `x`'s rank that broadcasts against `x`.
        relu: Whether to take the positive part.
        synchronized: Whether the minibatch is that of all replicas together. Replicas may have
            examples of different domains. Each masked call takes a collective.

    Returns:
        What the step gives. The moments have the shape of the population statistics. In `[D, C]`,
        row k has those of domain k's examples, with count 0 where there are none. `[C]` holds those
        that the output used, or their mean over the domains, weighted by the numbers of positions.
        Where population statistics are kept by domain, `updated` is `[D]`: whether each domain had
        an update.
    """
    if _is_scalar(domain) and synchronized and Replicas.running() is not None:
        domain = keras.ops.broadcast_to(domain, (keras.ops.shape(x)[0],))
    parameters = Parameters(moving_mean, moving_variance, gamma, beta, r_max, d_max)
    options = {"epsilon": epsilon, "axis": axis, "relu": relu, "synchronized": synchronized}
    call = _Call(x, domain, parameters, num_domains, mask, options)
    shared = batch_statistics == "shared"
    if _is_scalar(domain):
        y, batch = call.of_one_domain()
    elif parameters.by_domain or not shared:
        y, batch = call.of_each_domain(shared)
    else:
        y, batch = call.of_all()
    average: dict[str, Any] = {"momentum": momentum, "by_stddev": by_stddev, "epsilon": epsilon}

    def moving() -> Moving:
        found = update_moving(moving_mean, moving_variance, batch, **average)
        updated = keras.ops.any(has_update(batch), axis=-1)
        return found._replace(updated=keras.ops.cast(updated, found.mean.dtype))

    return Trained(y, lambda: batch, moving)


class _Call(NamedTuple):
    """A call of `train`, and the ways to compute it."""

    x: Tensor
    domain: Any
    parameters: Parameters
    num_domains: int
    mask: Tensor | None
    options: dict[str, Any]

    def of_one_domain(self) -> tuple[Tensor, Moments]:
        """All examples are of one domain, so its moments are the minibatch's."""
        y, batch = self._step(self.parameters.of(self.domain), self.mask)
        if not isinstance(self.domain, int):
            y = y + _blot(self.domain, self.num_domains, y)
        own = keras.ops.equal(keras.ops.arange(self.num_domains), self.domain)
        own = keras.ops.expand_dims(own, 1) if self._has_rows() else keras.ops.any(own)
        return y, Moments(*(keras.ops.where(own, value, 0) for value in batch))

    def of_all(self) -> tuple[Tensor, Moments]:
        """Nothing is kept by domain."""
        y, batch = self._step(self.parameters, self._valid())
        return y + _blot(self.domain, self.num_domains, y), batch

    def of_each_domain(self, shared: bool) -> tuple[Tensor, Moments]:
        """A masked call for each domain; each example takes its domain's output."""
        x, valid, rows = self.x, self._valid(), self._has_rows()
        y, found = keras.ops.zeros_like(x) + _blot(self.domain, self.num_domains, x), []
        for k in range(self.num_domains):
            own = _by_example(self.domain == k, x)
            mine = _both(self.mask, own)
            part, batch = self._step(self.parameters.of(k), valid if shared else mine)
            y = keras.ops.where(own, part, y)
            if shared and rows:  # these moments are of all examples, row k's of domain k alone
                batch = _moments(x, mine, self.options)
            found.append(batch)
        if shared and not rows:
            return y, found[0]
        stacked = Moments(*(keras.ops.stack(values) for values in zip(*found, strict=True)))
        return y, stacked if rows else _mean(stacked)

    def _step(self, parameters: Parameters, mask: Tensor | None) -> tuple[Tensor, Moments]:
        *vectors, r_max, d_max = parameters
        options = {"r_max": r_max, "d_max": d_max, "mask": mask, **self.options}
        return batch_renormalization(self.x, *vectors, **options)

    def _valid(self) -> Tensor:
        return narrowed(self.mask, among(self.domain, self.num_domains), self.x)

    def _has_rows(self) -> bool:
        return _has_rows("mean", self.parameters.mean)


def _moments(x: Tensor, mask: Tensor, options: dict[str, Any]) -> Moments:
    batch = moments(keras.ops.stop_gradient(x), options["axis"], mask)
    replicas = Replicas.running() if options["synchronized"] else None
    return batch if replicas is None else replicas.merge(batch)


def _mean(rows: Moments) -> Moments:
    """The mean of the rows of moments `[D, C]`, weighted by their counts."""
    count = keras.ops.sum(rows.count, axis=0)
    weights = rows.count / at_least(1, count)
    mean, variance, remainder = (
        keras.ops.sum(weights * value, axis=0)
        for value in (rows.mean, rows.variance, rows.mean_remainder)
    )
    return Moments(mean, variance, count, remainder)


def _normalize_examples(
    x: Tensor,
    domain: Tensor,
    parameters: Parameters,
    num_domains: int,
    epsilon: float,
    axis: int,
) -> Tensor:
    """The output with a row of parameters for each example."""
    dtype = arguments.wide(x.dtype)
    one = keras.ops.ones((x.shape[axis],), dtype)
    gamma = one if parameters.gamma is None else keras.ops.cast(parameters.gamma, dtype)
    beta = 0 * one if parameters.beta is None else keras.ops.cast(parameters.beta, dtype)
    mean = keras.ops.cast(parameters.mean, dtype)
    scale = gamma / keras.ops.sqrt(keras.ops.cast(parameters.variance, dtype) + epsilon)
    mean, scale, beta = (_for_examples(value, domain, x, axis) for value in (mean, scale, beta))
    centred = keras.ops.cast(x, dtype) - mean
    beta = beta + _blot(domain, num_domains, centred)
    return keras.ops.cast(centred * scale + beta, x.dtype)


def _for_examples(value: Tensor, domain: Tensor, x: Tensor, axis: int) -> Tensor:
    """`[C]`, or each example's row of `[D, C]`, to broadcast against `x`.

    An id out of range takes row 0, as a gather would be undefined.
    """
    shape = list(channel_shape(x, axis))
    if len(value.shape) == 2:
        valid = among(domain, value.shape[0])
        value = keras.ops.take(value, keras.ops.where(valid, domain, 0), axis=0)
        shape[0], shape[axis] = -1, value.shape[1]
    return keras.ops.reshape(value, shape)


def _has_rows(name: str, value: Any) -> bool:
    rank = len(getattr(value, "shape", ()))
    return rank == (1 if name in ("r_max", "d_max") else 2)


def _row(rows: Tensor, domain: int | Tensor) -> Tensor:
    """Row `domain`, or zeros if there is none."""
    rows = keras.ops.convert_to_tensor(rows)
    if isinstance(domain, int):
        return rows[domain]
    # Selected, not gathered: the gradient of a gather is sparse.
    own = keras.ops.equal(keras.ops.arange(rows.shape[0]), domain)
    own = keras.ops.reshape(own, (-1, *(1 for _ in rows.shape[1:])))
    return keras.ops.sum(keras.ops.where(own, rows, keras.ops.zeros_like(rows)), axis=0)


def _is_scalar(domain: int | Tensor) -> bool:
    return isinstance(domain, int) or len(domain.shape) == 0


def among(domain: Tensor, num_domains: int) -> Tensor:
    """Whether each id is in [0, D)."""
    return keras.ops.logical_and(domain >= 0, domain < num_domains)


def _by_example(values: Tensor, x: Tensor) -> Tensor:
    """Reshapes a value per example, `[B]`, to broadcast against `x`. A scalar stays.

    This fails unless there are as many values as examples. Broadcasting would hide that.
    """
    if len(values.shape) == 0:
        return values
    return keras.ops.reshape(values, (keras.ops.shape(x)[0], *(1 for _ in x.shape[1:])))


def narrowed(mask: Tensor | None, chosen: Tensor, x: Tensor) -> Tensor:
    """A mask of `x` without the examples for which `chosen`, `[B]`, is False."""
    return _both(mask, _by_example(chosen, x))


def _both(mask: Tensor | None, other: Tensor) -> Tensor:
    if mask is None:
        return other
    return keras.ops.logical_and(keras.ops.cast(mask, "bool"), other)


def _blot(domain: Tensor, num_domains: int, y: Tensor) -> Tensor:
    """A summand for `y`, or for its offset: NaN where the id is out of range, else 0."""
    # A root: TensorFlow's search for NaNs takes a NaN among the graph's constants for an error.
    blot = keras.ops.sqrt(keras.ops.cast(among(domain, num_domains), "float32") - 1)
    return _by_example(keras.ops.cast(blot, y.dtype), y)
