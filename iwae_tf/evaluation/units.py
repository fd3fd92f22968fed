"""Statistics of each latent unit of a trained model: how far its posterior mean moves with x, and its KL.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import tensorflow as tf

from iwae_tf import importance, models, noise
from iwae_tf.errors import UserError
from iwae_tf.runtime import parallel

# The definition in section 5.2 of [1], with this many samples of the layers that q depends on.
ACTIVE_UNIT_THRESHOLD = 0.01
ACTIVE_UNIT_SAMPLES = 100
# The authors' code uses this many of the training images, and one sample.
AUTHORS_NUM_IMAGES = 500
AUTHORS_NUM_SAMPLES = 1


class Units(NamedTuple):
    """Statistics of the units u of one stochastic layer, over images x and samples of q(z | x).

    Attributes:
      means: E_x E_{q(u|x)}[u], the mean of the aggregated posterior, float64 [units].
      variances: Cov_x(E_{q(u|x)}[u]), float64 [units]; a unit is active if it is above a threshold.
      posterior_variances: E_x Var_{q(u|x)}[u], float64 [units]; the sum of this and `variances` is the variance of
        the aggregated posterior.
      kls: the mean of log q(u | ...) - log p(u | ...) in nats, float64 [units]; the sum is the rate of the layer.
    """

    means: np.ndarray
    variances: np.ndarray
    posterior_variances: np.ndarray
    kls: np.ndarray

    @property
    def stddevs(self) -> np.ndarray:
        """The standard deviations of the aggregated posterior, [units]."""
        return np.sqrt(self.variances + self.posterior_variances)

    def num_active(self, threshold: float = ACTIVE_UNIT_THRESHOLD) -> int:
        """Returns the number of units with a variance above the threshold."""
        return int(np.sum(self.variances > threshold))

    def to_dict(self) -> dict[str, list[float | None]]:
        """Returns the statistics as plain JSON, name -> list; None where a number is not finite."""
        return {
            name: [float(value) if np.isfinite(value) else None for value in values]
            for name, values in self._asdict().items()
        }

    @classmethod
    def from_dict(cls, statistics: Mapping[str, Sequence[float | None]]) -> Self:
        """Returns the `Units` whose `to_dict` this is; None becomes NaN."""
        return cls(**{name: np.array(statistics[name], np.float64) for name in cls._fields})


def measure(
    model: models.ImportanceWeightedAutoencoder,
    images: np.ndarray,
    num_samples: int = ACTIVE_UNIT_SAMPLES,
    seed: int = 0,
) -> list[Units]:
    """Measures every unit of every layer, in one pass over the images.

    The expectation of a unit given x is the mean of its conditional mean over samples of the layers that it depends on:
    the layers below it, or in the Ladder VAE above it. It is exact in the layer that depends only on x.

    Args:
      model: an `ImportanceWeightedAutoencoder` whose q and p(z) are Gaussians with diagonal covariance.
      images: float array [num_images, event], binary for Bernoulli pixels.
      num_samples: the number of samples of q(z | x) per image.
      seed: seed of the samples.

    Returns:
      The `Units` of each layer, bottom layer first.
    """
    compiled = tf.function(functools.partial(_statistics, model, num_samples), jit_compile=model.jit_compile)
    key = noise.key(seed, "active units")
    layers = [_Sums(units) for units in model.inference.latent_dims]

    def measure_batch(start):
        size, batch = importance.full_batch(images, start)
        return [
            [values[:size].numpy().astype(np.float64) for values in statistics]
            for statistics in compiled(batch, noise.fold_in(key, start))
        ]

    for measured in parallel.results(measure_batch, importance.starts(images)):
        for layer, statistics in zip(layers, measured, strict=True):
            layer.add(*statistics)
    return [layer.units() for layer in layers]


def refuse_infinite(layers: Sequence[Units]) -> None:
    """Raises a UserError if the statistics of a unit are not finite, for example because a sample overflows.

    Args:
      layers: the `Units` of each layer, bottom first.
    """
    for number, layer in enumerate(layers, start=1):
        finite = np.isfinite(np.stack(layer)).all(axis=0)
        if not finite.all():
            raise UserError(
                f"The statistics of {np.sum(~finite)} of the {len(finite)} units in layer {number} are not finite, so "
                "training has diverged; train the model again with a smaller learning rate."
            )


def active_units(
    model: models.ImportanceWeightedAutoencoder,
    images: np.ndarray,
    num_samples: int = ACTIVE_UNIT_SAMPLES,
    seed: int = 0,
) -> list[int]:
    """Counts the units u of every layer with Cov_x(E_{q(u|x)}[u]) > 0.01 [1, section 5.2].

    Args:
      model: as for `measure`.
      images: as for `measure`.
      num_samples: as for `measure`.
      seed: as for `measure`.

    Returns:
      A list of counts, bottom layer first.
    """
    return [layer.num_active() for layer in measure(model, images, num_samples, seed)]


def _statistics(model, num_samples, x, key):
    """Returns (E[u | x], Var[u | x], KL) of each layer, each [batch, d_l], estimated from samples of q(z | x)."""
    z, q = model.inference(x, model.draw_epsilon(num_samples, tf.shape(x)[0], key))
    _, *p_z = model.generative(z)
    return [_layer_statistics(*layer) for layer in zip(z, q, p_z, strict=True)]


def _layer_statistics(z, q, p):
    """The three statistics of one layer, from its samples z [num_samples, batch, d]."""
    # In a layer that depends only on x, the conditional moments have no sample axis.
    conditional_means, conditional_variances = (
        moment if moment.shape.rank == 3 else moment[tf.newaxis] for moment in (q.mean(), tf.square(q.stddev()))
    )
    means = tf.reduce_mean(conditional_means, axis=0)
    spread = tf.reduce_mean(tf.square(conditional_means - means), axis=0)
    log_ratios = _log_density(z, q) - _log_density(z, p)
    return means, tf.reduce_mean(conditional_variances, axis=0) + spread, tf.reduce_mean(log_ratios, axis=0)


def _log_density(z, gaussian):
    """log N(z; mean, stddev^2) of each unit, without the constant, which cancels in a ratio."""
    stddev = gaussian.stddev()
    return -0.5 * tf.square((z - gaussian.mean()) / stddev) - tf.math.log(stddev)


class _Sums:
    """Running means over images and sums of squared deviations from them, without cancellation."""

    def __init__(self, units):
        self._count = 0
        self._means = np.zeros([3, units])
        self._squares = np.zeros(units)

    def add(self, means, posterior_variances, kls):
        """Adds images, each [batch, units]."""
        count = self._count + len(means)
        batch = np.stack([means.mean(axis=0), posterior_variances.mean(axis=0), kls.mean(axis=0)])
        change = batch - self._means
        between = change[0] ** 2 * self._count * len(means) / count
        self._squares += np.sum((means - batch[0]) ** 2, axis=0) + between
        self._means += change * len(means) / count
        self._count = count

    def units(self):
        """Returns the `Units`."""
        means, posterior_variances, kls = self._means
        return Units(means, self._squares / max(self._count, 1), posterior_variances, kls)
