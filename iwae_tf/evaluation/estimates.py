"""Estimates of log p(x) for many images, with diagnostics of their reliability."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np


def sample_counts(num_samples: int, k: int) -> tuple[int, ...]:
    """Returns each k whose L_k is measured: powers of ten and five times these up to num_samples, and the given k."""
    powers = [digit * 10**exponent for exponent in range(len(str(num_samples))) for digit in (1, 5)]
    return tuple(sorted({*(count for count in powers if count < num_samples), k, num_samples}))


@dataclasses.dataclass(frozen=True)
class Estimates:
    """Estimates for every image of a split, or of its beginning, in nats unless stated otherwise.

    Attributes:
      num_samples: the number of samples n of the estimate of log p(x).
      k: the model's own number of samples.
      bounds: L_k for each of `counts`, float64 [num_counts, num_images].
      halves: L_(n/2) from the first and from the second half of the samples, float64 [2, num_images]. If n is odd, the
        second one has one sample more; if n is 1, both are the only sample.
      elbos: the mean log-weight, float64 [num_images].
      effective_sample_sizes: 1 / sum_i w~_i^2, a number from 1 to the number of samples, float64 [num_images].
      largest_weights: the largest normalized weight, a number from 0 to 1, float64 [num_images].
      k_hats: Pareto k-hat of the weights, see `pareto.k_hat`, float64 [num_images]; NaN where it was not measured.
    """

    num_samples: int
    k: int
    bounds: np.ndarray
    halves: np.ndarray
    elbos: np.ndarray
    effective_sample_sizes: np.ndarray
    largest_weights: np.ndarray
    k_hats: np.ndarray

    @classmethod
    def zeros(cls, num_samples: int, k: int, num_images: int = 0) -> Self:
        """Returns estimates that are all zero, by default of no images."""
        num_counts = len(sample_counts(num_samples, k))
        tables = {"bounds": np.zeros([num_counts, num_images]), "halves": np.zeros([2, num_images])}
        return cls(num_samples, k, **tables, **{name: np.zeros(num_images) for name in _ARRAYS if name not in tables})

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of samples of `bounds`."""
        return sample_counts(self.num_samples, self.k)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The `ranges` of `importance.importance_bounds`: one per count, then both halves of the samples."""
        half = max(1, self.num_samples // 2)
        return [*((0, count) for count in self.counts), (0, half), (min(half, self.num_samples - 1), self.num_samples)]

    def at(self, count: int) -> np.ndarray:
        """L_k of each image for k = count, [num_images]."""
        return self.bounds[self.counts.index(count)]

    @property
    def log_likelihoods(self) -> np.ndarray:
        """L_n, the estimate of log p(x), [num_images]."""
        return self.at(self.num_samples)

    @property
    def iwae_bounds(self) -> np.ndarray:
        """L_k for the model's own k, [num_images]."""
        return self.at(self.k)

    @property
    def corrected(self) -> np.ndarray:
        """L_n without its bias of order 1/n, [num_images]: the jackknife over both halves, 2 L_n - L_(n/2)."""
        return 2.0 * self.log_likelihoods - 0.5 * (self.halves[0] + self.halves[1])

    @property
    def finite(self) -> np.ndarray:
        """Whether all estimates of an image, except its k-hat, are finite, bool [num_images]."""
        arrays = [array for name, array in self.arrays().items() if name != "k_hats"]
        return np.isfinite(np.vstack(arrays)).all(axis=0)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name; the images are along their last axis."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def with_arrays(self, arrays: Mapping[str, Any]) -> Self:
        """Returns estimates of the same kind with other arrays, see `arrays`."""
        return dataclasses.replace(self, **arrays)

    def first(self, num_images: int) -> Self:
        """Returns the estimates of the first images."""
        return self.with_arrays({name: array[..., :num_images] for name, array in self.arrays().items()})

    def followed_by(self, arrays: Mapping[str, np.ndarray]) -> Self:
        """Returns these estimates followed by those of further images."""
        joined = {name: np.concatenate([array, arrays[name]], axis=-1) for name, array in self.arrays().items()}
        return self.with_arrays(joined)

    def __len__(self) -> int:
        return len(self.elbos)


_ARRAYS = ("bounds", "halves", "elbos", "effective_sample_sizes", "largest_weights", "k_hats")
