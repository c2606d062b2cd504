"""Batch Renormalization for minibatches of several domains."""

import keras

from keras_renorm.layers.batch_renormalization import BatchRenormalization
from keras_renorm.layers.domain_batch_normalization import DomainBatchNormalization
from keras_renorm.layers.domain_layer import DomainLayer
from keras_renorm.layers.limits import RenormLimits


@keras.saving.register_keras_serializable("keras_renorm")
@DomainBatchNormalization.register
class DomainBatchRenormalization(DomainLayer, BatchRenormalization):
    """Batch Renormalization with the moments and statistics of each example's own domain.

    ```
    training:   y_i = gamma * ((x_i - mu_B[k]) / sigma_B[k] * r[k] + d[k]) + beta      k = domain_i
                r[k] = clip(sigma_B[k] / sigma[k], 1 / r_max, r_max)
                d[k] = clip((mu_B[k] - mu[k]) / sigma[k], -d_max, d_max)
                mu[k]    += (1 - momentum) * (mu_B[k] - mu[k])
                sigma[k] += (1 - momentum) * (sigma_B[k] - sigma[k])
    inference:  y_i = gamma * (x_i - mu[k]) / sigma[k] + beta
    ```

    Domains and the three kinds work as in `DomainBatchNormalization`, limits as in
    `BatchRenormalization`. r and d compare the minibatch with the population statistics, with
    row k where these are kept by domain, even if the batch statistics are shared.

    A minibatch of several domains holds fewer examples of each, so its moments are noisier than the
    number of examples tells. r and d correct for that. Where population statistics are kept by
    domain, each domain has its own r_max and d_max, which follow the updates of its statistics.
    Otherwise r and d would pull a rare or new domain towards its initial statistics.

    Args:
        num_domains: Number of domains D, at least 1.
        **kwargs: The arguments of `DomainBatchNormalization` and `BatchRenormalization`.

    Call arguments:
        inputs: Floating-point tensor `[B, ..., C, ...]` of rank 2 or more.
        training: Whether to use and to update with the moments of the minibatch.
        mask: Optional boolean tensor with the inputs' shape but for the last dimension.
        domain: Ids in [0, D), one for all examples or a tensor `[B]` with one for each. An id out
            of range is an error in eager calls and in TensorFlow's graphs. In a program that XLA or
            PyTorch compiles it is none: the output of its example is NaN.

    Returns:
        Tensor of the inputs' shape in the layer's compute dtype.

    Raises:
        TypeError: If an argument has the wrong type, or `domain` does not hold integers.
        ValueError: If an argument is out of range, is missing or does not fit the inputs.

    Example:
        >>> layer = keras_renorm.layers.DomainBatchRenormalization(2, r_max=3.0, d_max=5.0)
        >>> x = np.random.normal(size=(8, 4)) + np.repeat([[0.0], [100.0]], 4, axis=0)
        >>> y = layer(x, domain=np.repeat([0, 1], 4), training=True)
        >>> layer.current_limits(domain=1)
        RenormLimits(r_max=3.0, d_max=5.0)

    Source: Ioffe 2017, Algorithm 1; Wu & Johnson 2021, section 5.
    """

    def current_limits(self, domain: int | None = None) -> RenormLimits:
        """The limits of a domain's next minibatch, as numbers; see `BatchRenormalization`.

        Args:
            domain: The domain. Leave it out where the limits are the same for all domains.

        Raises:
            ValueError: If there is no such domain, or the limits differ and `domain` is missing.
        """
        limits = [self._limits.numbers(k) for k in range(self._domains.num_domains)]
        if domain is not None:
            return limits[int(self._domains.ids(domain, keras.KerasTensor((1, 1)), self.name))]
        if len(set(limits)) > 1:
            raise ValueError(
                f"The limits of the layer {self.name!r} differ between its domains, received "
                f"domain=None. Write `layer.current_limits(k)` for those of domain k."
            )
        return limits[0]
