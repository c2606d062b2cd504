"""What a paper claims, and the rule of its verdict, written before the runs."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Verdict = Literal["held", "not held", "not decided"]

#: A run's numbers: `Results[arm][metric]` has one for each seed, None where a run has none.
Results = Mapping[str, Mapping[str, Sequence[float | None]]]

# Student's t at 95 %, two-sided, by degrees of freedom; and the normal distribution's quantile.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_NORMAL = 1.959964


class Term(NamedTuple):
    """A number of an arm: its mean over the seeds is one side of a claim.

    Attributes:
        arm: Name of the arm.
        metric: Name of what was measured.
    """

    arm: str
    metric: str = "accuracy"


class Finding(NamedTuple):
    """What the runs say of a claim.

    Attributes:
        difference: Mean over the seeds of the left side minus the right one. NaN where a run lacks
            a number.
        error: Half the width of its 95 % interval. Infinite where there is none.
        verdict: What follows.
    """

    difference: float
    error: float
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim that one number is greater than another, or equal to it.

    ```
    D = mean over seeds of (left - right);   E = t(95 %, n - 1) * deviation / sqrt(n)
    greater:   held if D - E > by,           not held if D + E < by
    equal:     held if |D| + E <= within,    not held if |D| - E > within
    ```

    and not decided in between. The seeds of both sides are the same, and so are their data: the
    differences are taken seed by seed. With one seed nothing is decided, nor where a run lacks a
    number, as one that diverged does: the seeds that are left are not a fair sample.

    Attributes:
        text: The claim, in a sentence.
        paper: The paper's own numbers, and where they stand.
        left: What is greater, or equal.
        right: What it is compared with: a term, or a number.
        by: By how much it must at least be greater.
        within: For equality: by how much the two may differ. None: it is not about equality.
    """

    text: str
    paper: str
    left: Term
    right: Term | float
    by: float = 0.0
    within: float | None = None

    @property
    def rule(self) -> str:
        """The rule in words."""
        left, right = _worded(self.left), _worded(self.right)
        if self.within is not None:
            return f"{left} equals {right} within {self.within:g}"
        return f"{left} is greater than {right}" + (f" by {self.by:g}" if self.by else "")

    def find(self, results: Results) -> Finding:
        """Returns what the runs say.

        Args:
            results: The results of every arm that the claim is about.
        """
        left = results[self.left.arm][self.left.metric]
        right: Sequence[float | None]
        if isinstance(self.right, Term):
            right = results[self.right.arm][self.right.metric]
        else:
            right = [self.right] * len(left)
        pairs = list(zip(left, right, strict=True))
        differences = [a - b for a, b in pairs if a is not None and b is not None]
        if len(differences) < len(pairs):
            return Finding(math.nan, math.inf, "not decided")
        difference, error = interval(differences)
        return Finding(difference, error, self._verdict(difference, error))

    def _verdict(self, difference: float, error: float) -> Verdict:
        if self.within is not None:
            held = abs(difference) + error <= self.within
            failed = abs(difference) - error > self.within
        else:
            held, failed = difference - error > self.by, difference + error < self.by
        return "held" if held else "not held" if failed else "not decided"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and half the width of its 95 % interval, infinite for one value."""
    count = len(values)
    if count == 1:
        return values[0], math.inf
    half = _t(count - 1) * statistics.stdev(values) / math.sqrt(count)
    return statistics.fmean(values), half


def _t(freedom: int) -> float:
    """Returns Student's t: from the table, and beyond it from an expansion, within 2e-4.

    Source: Abramowitz & Stegun 1964, equation 26.7.5.
    """
    if freedom <= len(_T):
        return _T[freedom - 1]
    x = _NORMAL
    first, second = (x**3 + x) / 4, (5 * x**5 + 16 * x**3 + 3 * x) / 96
    third = (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384
    return x + first / freedom + second / freedom**2 + third / freedom**3


def _worded(side: Term | float) -> str:
    if isinstance(side, float):
        return f"{side:g}"
    return f"{side.metric.replace('_', ' ')} of '{side.arm}'"
