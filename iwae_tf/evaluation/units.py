"""What each latent unit of a trained model does: how far its posterior mean moves with x, and its share of the KL.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
"""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import noise
from iwae_tf.errors import UserError
from iwae_tf.evaluation import batches

# The definition in section 5.2 of [1], measured on the test images, with samples of the layers that q depends on.
ACTIVE_UNIT_THRESHOLD = 0.01
ACTIVE_UNIT_SAMPLES = 100
# The authors' code takes the first training images instead, and one sample.
AUTHORS_NUM_IMAGES = 500
AUTHORS_NUM_SAMPLES = 1


class Units(NamedTuple):
    """Statistics of one stochastic layer's units u, over images x and samples of q(z | x).

    Attributes:
      means: E_x E_{q(u|x)}[u], the aggregated posterior's mean, float64 [units].
      variances: Cov_x(E_{q(u|x)}[u]), float64 [units]; a unit is active where it is above a threshold.
      posterior_variances: E_x Var_{q(u|x)}[u], float64 [units]; with `variances` they make up the aggregated
        posterior's.
      kls: the mean of log q(u | ...) - log p(u | ...) in nats, float64 [units]; their sum is the layer's rate.
    """

    means: np.ndarray
    variances: np.ndarray
    posterior_variances: np.ndarray
    kls: np.ndarray

    @property
    def stddevs(self):
        """The aggregated posterior's standard deviations, [units]."""
        return np.sqrt(self.variances + self.posterior_variances)

    def num_active(self, threshold=ACTIVE_UNIT_THRESHOLD):
        """How many units have a variance above the threshold."""
        return int(np.sum(self.variances > threshold))

    def record(self):
        """Returns the statistics as plain JSON, name -> list; None where a number is not finite."""
        return {
            name: [float(value) if np.isfinite(value) else None for value in values]
            for name, values in self._asdict().items()
        }

    @classmethod
    def from_record(cls, record):
        """Undoes `record`."""
        return cls(**{name: np.array(record[name], np.float64) for name in cls._fields})


def measure(model, images, num_samples=ACTIVE_UNIT_SAMPLES, seed=0):
    """Measures every unit of every layer, in one pass over the images.

    A unit's expectation given x is the mean of q's conditional mean over samples of the layers that it depends on,
    those below (or above, in the Ladder VAE); it is exact in the layer that depends on x alone.

    Args:
      model: an `ImportanceWeightedAutoencoder` whose q and p(z) are Gaussians with diagonal covariance.
      images: float array [num_images, event], binary for Bernoulli pixels.
      num_samples: samples of q(z | x) for each image.
      seed: seed of those samples.

    Returns:
      A `Units` for each layer, bottom layer first.
    """
    compiled = tf.function(functools.partial(_statistics, model, num_samples), jit_compile=model.jit_compile)
    key = noise.key(seed, "active units")
    layers = [_Sums(units) for units in model.inference.latent_dims]
    for start in range(0, len(images), batches.IMAGES_PER_CALL):
        size, batch = batches.full_batch(images, start)
        for layer, statistics in zip(layers, compiled(batch, noise.fold_in(key, start)), strict=True):
            layer.add(*(values[:size].numpy().astype(np.float64) for values in statistics))
    return [layer.units() for layer in layers]


def refuse_infinite(layers):
    """Raises a UserError if a unit's statistics are not finite, as where a sample overflows.

    Args:
      layers: the `Units` of each layer, bottom first.
    """
    for number, layer in enumerate(layers, start=1):
        finite = np.isfinite(np.stack(layer)).all(axis=0)
        if not finite.all():
            raise UserError(
                f"The statistics of {np.sum(~finite)} of the {len(finite)} units in layer {number} are not finite: the "
                "model went wrong in training; train it anew with a smaller --learning_rate and --overwrite."
            )


def active_units(model, images, num_samples=ACTIVE_UNIT_SAMPLES, seed=0):
    """Counts the units u of every layer with Cov_x(E_{q(u|x)}[u]) > 0.01, the paper's section 5.2 [1].

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
    """For each layer (E[u | x], Var[u | x], KL), each [batch, d_l], estimated from samples of q(z | x)."""
    z, q = model.inference(x, model.draw_noise(num_samples, tf.shape(x)[0], key))
    _, *p_z = model.generative(z)
    return [_of_layer(*layer) for layer in zip(z, q, p_z, strict=True)]


def _of_layer(z, q, p):
    """The three statistics of one layer's samples z [num_samples, batch, d]."""
    # In a layer that depends on x alone, all samples share one conditional mean.
    conditional_means, conditional_variances = (
        moment if moment.shape.rank == 3 else moment[tf.newaxis] for moment in (q.mean(), tf.square(q.stddev()))
    )
    means = tf.reduce_mean(conditional_means, axis=0)
    spread = tf.reduce_mean(tf.square(conditional_means - means), axis=0)
    log_ratios = _log_density(z, q) - _log_density(z, p)
    return means, tf.reduce_mean(conditional_variances, axis=0) + spread, tf.reduce_mean(log_ratios, axis=0)


def _log_density(z, gaussian):
    """log N(z; mean, stddev^2) of each unit but for the constant, which a ratio does not have."""
    stddev = gaussian.stddev()
    return -0.5 * tf.square((z - gaussian.mean()) / stddev) - tf.math.log(stddev)


class _Sums:
    """Means over the images seen so far, and the squared deviations from them, free of cancellation."""

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
