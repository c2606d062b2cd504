import numpy as np
import pytest

EPSILON = 1e-3


@pytest.fixture
def specification():
    """The class of what the limits that adapt must be."""
    return Specification


class Specification:
    """The rule in float64, by docs/default_limits.md, with moments `[G, C]` of every ghost."""

    def __init__(self, channels, momentum):
        self.alpha, self.seen = 1 - momentum, 0.0
        self.mu, self.sigma = np.zeros(channels), np.full(channels, np.sqrt(1 + EPSILON))
        # Averages of z and e over ghosts, of their squares, and of the variances among ghosts.
        self.averages, self.squares, self.among = np.zeros((3, 2, channels))
        self.ghosts = 1

    def lags_and_noises(self):
        if self.ghosts == 1:
            return self.averages**2, self.squares - self.averages**2
        return 0.25 * (self.squares - self.among / self.ghosts), self.among

    def limits(self):
        means = (np.mean(rows, axis=1) for rows in self.lags_and_noises())
        lags, noises = (np.maximum(mean, 0) for mean in means)
        shut = min(1, 0.05 * noises.sum() / max(lags.sum(), 1e-12))
        return 1 + 3 * np.sqrt(noises[1]) * shut, 3 * np.sqrt(noises[0]) * shut

    def advance(self, mu, sigma):
        mu, sigma = np.atleast_2d(mu, sigma)
        self.ghosts = len(mu)
        both = np.stack([(mu - self.mu) / self.sigma, sigma / self.sigma - 1])
        mean = both.mean(1)
        among = both.var(1, ddof=1) if self.ghosts > 1 else np.zeros_like(mean)
        self.seen += self.alpha * (1 - self.seen)
        step = self.alpha / self.seen
        self.averages += step * (mean - self.averages)
        self.squares += step * (mean**2 - self.squares)
        self.among += step * (among - self.among)
        self.mu = self.mu + step * (mu.mean(0) - self.mu)
        self.sigma = self.sigma + step * (sigma.mean(0) - self.sigma)
