"""Batch Renormalization for minibatches of several domains."""

from typing import Any

import keras

from keras_renorm import ops
from keras_renorm.layers.batch_renormalization import BatchRenormalization, RenormLimits
from keras_renorm.layers.domain_batch_normalization import DomainBatchNormalization
from keras_renorm.ops import arguments
from keras_renorm.ops.arguments import limit
from keras_renorm.schedules import Schedule
from keras_renorm.typing import Tensor


@keras.saving.register_keras_serializable("keras_renorm")
class DomainBatchRenormalization(DomainBatchNormalization, BatchRenormalization):
    """Batch Renormalization with the moments and statistics of each example's own domain.

    ```
    training:   y_i = gamma * ((x_i - mu_B[k]) / sigma_B[k] * r[k] + d[k]) + beta      k = domain_i
                r[k] = clip(sigma_B[k] / sigma[k], 1 / r_max, r_max)
                d[k] = clip((mu_B[k] - mu[k]) / sigma[k], -d_max, d_max)
                mu[k]    += (1 - momentum) * (mu_B[k] - mu[k])
                sigma[k] += (1 - momentum) * (sigma_B[k] - sigma[k])
    inference:  y_i = gamma * (x_i - mu[k]) / sigma[k] + beta
    ```

    What `DomainBatchNormalization` says of domains and the three kinds, and `BatchRenormalization`
    of limits, holds here. r and d are taken against the population statistics: against their row
    k where they are kept by domain, also where the batch statistics are shared.

    A minibatch of several domains holds fewer examples of each, so that its moments are noisier
    than their number tells; r and d are for that. Where population statistics are kept by domain
    the schedules of r_max and d_max count by domain, too, each the updates of its own statistics:
    a domain that is rare, or is new, would otherwise be corrected towards statistics that are
    still those of the initializers.

    Args:
        num_domains: Number of domains D, at least 1.
        **kwargs: The arguments of `DomainBatchNormalization` and `BatchRenormalization`.

    Call arguments:
        inputs: Floating-point tensor `[B, ..., C, ...]` of rank 2 or more.
        training: Whether to use and to update with the moments of the minibatch.
        mask: Optional boolean tensor with the inputs' shape but for the last dimension.
        domain: Ids in [0, D), one for all examples or a tensor `[B]` with one for each.

    Returns:
        Tensor of the inputs' shape in the layer's compute dtype.

    Raises:
        TypeError: If an argument has the wrong type, or `domain` does not hold integers.
        ValueError: If an argument is out of range or missing or does not fit the inputs.

    Example:
        >>> layer = keras_renorm.layers.DomainBatchRenormalization(2, r_max=3.0, d_max=5.0)
        >>> x = np.random.normal(size=(8, 4)) + np.repeat([[0.0], [100.0]], 4, axis=0)
        >>> y = layer(x, domain=np.repeat([0, 1], 4), training=True)

    Source: Ioffe 2017, Algorithm 1; Wu & Johnson 2021, section 5.
    """

    def current_limits(self, domain: int | None = None) -> RenormLimits:
        """The limits of a domain's next minibatch, as numbers; see `BatchRenormalization`.

        Args:
            domain: The domain; may be left out where the limits are the same for all.

        Raises:
            ValueError: If `domain` is not one, or is needed and missing.
        """
        values = self._limits()
        limits = [self._limits_of(k, values) for k in range(self.num_domains)]
        if domain is not None:
            return limits[int(self._ids(domain, keras.KerasTensor((1, 1))))]
        if len(set(limits)) > 1:
            raise ValueError(
                f"The limits of the layer {self.name!r} differ between its domains, received "
                f"domain=None. Write `layer.current_limits(k)` for those of domain k."
            )
        return limits[0]

    def _limits_of(self, domain: int, limits: dict[str, Tensor]) -> RenormLimits:
        return RenormLimits(
            **{
                name: self._number(
                    name, value[domain] if len(getattr(value, "shape", ())) else value
                )
                for name, value in limits.items()
            }
        )

    def _limits(self) -> dict[str, Tensor]:
        """The limits; of schedules `[D]`, where each domain counts for itself."""
        if not self._counts_by_domain():
            return super()._limits()
        counts = keras.ops.unstack(keras.ops.convert_to_tensor(self.update_count), self.num_domains)
        dtype = arguments.wide(self.compute_dtype)
        return {
            name: keras.ops.stack([limit(name, value(count), dtype) for count in counts])
            if isinstance(value, Schedule)
            else value
            for name, value in {"r_max": self.r_max, "d_max": self.d_max}.items()
        }

    def _update(self, batch: ops.Moments) -> None:
        super()._update(batch)
        if self._counts_by_domain():
            # It has counted one for all, if any domain had an update.
            updated = keras.ops.any(ops.has_update(batch), axis=1)
            without = keras.ops.logical_and(keras.ops.any(updated), keras.ops.logical_not(updated))
            self.update_count.assign_sub(keras.ops.cast(without, self.update_count.dtype))

    def _counts_by_domain(self) -> bool:
        return self.update_count is not None and len(self.update_count.shape) == 1

    def _with_own_counter(self, values: list[Any]) -> list[Any]:
        if self.update_count is None and len(values) == self._own_count() + 1:
            return values[:-1]
        return super()._with_own_counter(values)
