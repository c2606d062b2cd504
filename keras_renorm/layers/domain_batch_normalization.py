"""Batch Normalization for minibatches of several domains."""

import abc

import keras

from keras_renorm.layers.batch_normalization import BatchNormalization
from keras_renorm.layers.domain_layer import DomainLayer


@keras.saving.register_keras_serializable("keras_renorm")
class DomainBatchNormalization(DomainLayer, BatchNormalization, metaclass=abc.ABCMeta):
    """Normalises each example with the moments of its own domain.

    ```
    training:   y_i = gamma * (x_i - mu_B[k]) / sqrt(var_B[k] + epsilon) + beta        k = domain_i
                moving_mean[k]     += (1 - momentum) * (mu_B[k] - moving_mean[k])
                moving_variance[k] += (1 - momentum) * (var_B[k] - moving_variance[k])
    inference:  y_i = gamma * (x_i - moving_mean[k]) / sqrt(moving_variance[k] + epsilon) + beta
    ```

    mu_B[k] and var_B[k] are the moments of the minibatch's examples of domain k. Use the layer for
    a net that sees data of several kinds: the levels of a feature pyramid, real and synthetic
    images, clean and adversarial images, source and target.

    You can keep three things by domain or share them: batch statistics, population statistics, and
    gamma and beta. The paper's AP for detection with one head on five feature levels:

    | batch statistics | population statistics | affine | |
    |---|---|---|---|
    | shared | shared | shared | 39.1 |
    | shared | domain | shared | 2.1 |
    | domain | shared | shared | 34.1 |
    | domain | domain | shared | 39.1, the default |
    | domain | shared | domain | 35.5 |
    | domain | domain | domain | 39.2 |

    Keep both kinds of statistics by domain, or share both. Otherwise the net sees in inference what
    it did not see in training, and the constructor warns. A gamma and beta per domain gain 0.1 AP
    for D times the parameters, so the default shares them.

    A domain that is absent from the minibatch keeps its statistics. Masks, types, precision and
    replicas work as in `BatchNormalization`. Replicas that are not synchronized keep their own
    statistics, and the layer reads the mean. A domain's rows do not change on replicas that it does
    not reach.

    Args:
        num_domains: Number of domains D, at least 1.
        batch_statistics: "domain": training normalises an example with the moments of its domain's
            examples in the minibatch. "shared": with the moments of the whole minibatch.
        population_statistics: "domain": `moving_mean` and `moving_variance` are `[D, C]`, and row k
            follows the moments of domain k's examples, even where the batch statistics are shared.
            "shared": they are `[C]` and follow the moments that training used. These are the mean
            over the domains, weighted by the numbers of positions, where each has its own.
        affine: "domain": gamma and beta are `[D, C]`. "shared": they are `[C]`.
        **kwargs: The arguments of `BatchNormalization`. `axis` may not be 0, the examples' own.

    Call arguments:
        inputs: Floating-point tensor `[B, ..., C, ...]` of rank 2 or more.
        training: Whether to use and to update with the moments of the minibatch.
        mask: Optional boolean tensor with the inputs' shape but for the last dimension.
        domain: Ids in [0, D): an integer or integer scalar for all examples, or an integer tensor
            `[B]` with an id for each example. In a functional model `domain` is an input,
            `keras.Input((), dtype="int32")`. A Sequential model cannot hand it over. With one id
            the layer costs as much as `BatchNormalization`, with an id per example D times as much
            in training. An id out of range is an error in eager calls and in TensorFlow's graphs.
            Programs that XLA or PyTorch compiles cannot stop: there the example's output is NaN,
            and the example changes no statistic.

    Returns:
        Tensor of the inputs' shape in the layer's compute dtype.

    Raises:
        TypeError: If an argument has the wrong type, or `domain` does not hold integers.
        ValueError: If an argument is out of range, is missing or does not fit the inputs.

    Example:
        >>> layer = keras_renorm.layers.DomainBatchNormalization(2)
        >>> x = np.random.normal(size=(8, 4)) + np.repeat([[0.0], [100.0]], 4, axis=0)
        >>> y = np.asarray(layer(x, domain=np.repeat([0, 1], 4), training=True))
        >>> print(abs(y[:4].mean()).round(2), abs(y[4:].mean()).round(2))
        0.0 0.0

    Source: Wu & Johnson 2021, section 5 and table 5.
    """
