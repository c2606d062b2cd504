"""Moments of any number of batches, gathered on the host in float64."""

import numpy as np

from keras_renorm.statistics.moving_statistics import MeanVariance


class PopulationMoments:
    """Mean and variance of each channel over batches that come one after the other.

    ```
    n <- n + m         mean <- mean + m/n (mean_B - mean)
    M2 <- M2 + m var_B + (n - m) m/n (mean_B - mean)^2        within <- within + m var_B
    ```

    Source: Chan, Golub & LeVeque 1983, equations 2.1.

    Attributes:
        count: Positions so far; `[C]` after the first batch.
    """

    def __init__(self) -> None:
        self.count = np.zeros(())
        self._mean = np.zeros(())
        self._m2 = np.zeros(())
        self._within = np.zeros(())

    def add(self, count: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> None:
        """Takes in a batch: its positions, mean and biased variance, `[C]` each in float64."""
        total = self.count + count
        share = count / np.maximum(total, 1)
        delta = mean - self._mean
        self._m2 = self._m2 + count * variance + self.count * share * delta**2
        self._mean = self._mean + share * delta
        self._within = self._within + count * variance
        self.count = total

    def total(self) -> MeanVariance:
        """Mean and variance over all positions, each with the same weight.

        ```
        mean = E[mean_B]        variance = E[mean_B^2 + var_B] - E[mean_B]^2
        ```

        Source: Wu & Johnson 2021, section 3.
        """
        return self._mean, self._m2 / np.maximum(self.count, 1)

    def mean_of_batch_variances(self) -> MeanVariance:
        """Mean, and the mean over batches of their variances, weighted by their positions.

        The result is too small by the variance of the batches' means. The factor is (m - 1)/m where
        the m positions of a batch are independent, and smaller where they resemble each other.
        """
        return self._mean, self._within / np.maximum(self.count, 1)
