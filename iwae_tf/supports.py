"""The values that x may have, which follow from the likelihood p(x | z)."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Support:
    """The values that have a density or a probability.

    Attributes:
      distribution: the name of the distribution, for messages.
      text: the values, for messages.
      low: the smallest value.
      high: the largest value.
      is_integer: whether only whole numbers are possible.
    """

    distribution: str
    text: str
    low: float = -math.inf
    high: float = math.inf
    is_integer: bool = False

    @property
    def is_binary(self) -> bool:
        """Whether only zero and one are possible."""
        return self.is_integer and (self.low, self.high) == (0.0, 1.0)

    @property
    def is_unit_interval(self) -> bool:
        """Whether all numbers from zero to one are possible, as grey values that are divided by 255."""
        return not self.is_integer and (self.low, self.high) == (0.0, 1.0)


BINARY = Support("Bernoulli", "only 0 and 1", 0.0, 1.0, is_integer=True)
UNIT_INTERVAL = Support("continuous Bernoulli", "numbers from 0 to 1", 0.0, 1.0)
COUNTS = Support("a distribution of counts", "whole numbers from 0", 0.0, is_integer=True)
REAL = Support("a distribution of real numbers", "numbers")


def levels(num_levels: int) -> Support:
    """Returns the support of pixels with a number of grey levels, such as 256."""
    return Support("discretized logistic", f"whole numbers from 0 to {num_levels - 1}", 0.0, num_levels - 1.0, True)


# The likelihoods by name; `of_likelihood` has the support of each.
LIKELIHOODS = (
    "bernoulli",
    "continuous_bernoulli",
    "discretized_logistic",
    "gaussian",
    "student_t",
    "poisson",
    "negative_binomial",
)


def of_likelihood(name: str, num_levels: int = 256) -> Support:
    """Returns the support of a likelihood from `LIKELIHOODS`; a discretized logistic has `num_levels` levels."""
    named = {
        "bernoulli": BINARY,
        "continuous_bernoulli": UNIT_INTERVAL,
        "discretized_logistic": levels(num_levels),
        "poisson": COUNTS,
        "negative_binomial": COUNTS,
    }
    return named.get(name, REAL)
