"""The latent space of a trained model: traversals, the manifold of two units, and true posteriors.

For one layer of two units, quadrature yields p(z | x), log p(x) and the ELBO, and therefore the divergence between
q(z | x) and the true posterior.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import models
from iwae_tf.evaluation.units import Units

# The values of a unit in a traversal, in standard deviations of the aggregated posterior from its mean.
STDDEVS = np.linspace(-3.0, 3.0, 11)
MANIFOLD_SIDE = 20
_UNITS_TRAVERSED = 10
# The number of points along a side of the grids. A sum over a grid is exact up to rounding if the density is smooth on
# the scale of the spacing: for a Gaussian whose standard deviation is at least one spacing, the error is below 1e-8.
_GRID_SIDE = 200
# The mass of the prior and of q beyond this number of standard deviations is negligible.
_REACH = 6.0
# So is the density this number of nats below its maximum.
_NEGLIGIBLE = 25.0
# The number of points that pass through the networks at once.
_POINTS_PER_CALL = 5000


def traversal(
    model: models.ImportanceWeightedAutoencoder,
    x: np.ndarray,
    layers: Sequence[Units],
    num_units: int = _UNITS_TRAVERSED,
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Moves one unit at a time through the aggregated posterior and decodes the result.

    The other units of the layer stay at the posterior mean of x: the means of q, each given the means of the layers
    that it depends on. The layers below take their conditional means.

    Args:
      model: an `ImportanceWeightedAutoencoder`.
      x: float array [num_images, event].
      layers: the `units.Units` of each layer, bottom first.
      num_units: how many units of each layer to move; those with the largest KL are moved.

    Returns:
      A list of (layer, unit), both counted from 0, and the pixel means, float array
      [num_images, rows, columns, event]; in column i the unit is `STDDEVS[i]` standard deviations from its mean.
    """
    means, _ = model.inference(tf.constant(x), [tf.zeros([1, len(x), d]) for d in model.inference.latent_dims])
    rows, pixels = [], []
    for layer, units in enumerate(layers):
        for unit in np.argsort(-units.kls)[:num_units].tolist():
            z = np.repeat(means[layer].numpy()[0, :, np.newaxis], len(STDDEVS), axis=1)
            z[:, :, unit] = units.means[unit] + STDDEVS * units.stddevs[unit]
            rows.append((layer, unit))
            pixels.append(_decode_from(model, layer, z))
    return rows, np.stack(pixels, axis=1)


def _decode_from(model, layer, z):
    """The pixel means given z_layer; the layers below take their conditional means."""
    for conditional in model.generative.conditionals[layer:0:-1]:
        z = conditional(z).mean()
    return model.generative.decode(z).mean().numpy()


def manifold(model: models.ImportanceWeightedAutoencoder, side: int = MANIFOLD_SIDE) -> np.ndarray:
    """Decodes a grid of quantiles of the prior, for a model whose only stochastic layer has two units.

    Args:
      model: an `ImportanceWeightedAutoencoder`.
      side: the number of quantiles of each unit.

    Returns:
      The pixel means, float array [side * side, event], row by row: the first unit grows from left to right, the
      second from bottom to top.
    """
    normal = statistics.NormalDist()
    quantiles = np.array([normal.inv_cdf((i + 0.5) / side) for i in range(side)], np.float32)
    second, first = np.meshgrid(quantiles[::-1], quantiles, indexing="ij")
    z = model.generative.prior.bijector.forward(np.stack([first.ravel(), second.ravel()], axis=-1))
    return model.generative.decode(z).mean().numpy()


class Posterior(NamedTuple):
    """The true posterior p(z | x) of one image for two latent units, and q(z | x).

    Attributes:
      low: the lower corner of the grid, float64 [2].
      high: the upper corner, float64 [2]; outside the grid the mass is negligible.
      density: p(z | x), float64 [side, side]; axis 0 belongs to the first unit.
      log_likelihood: log p(x) by quadrature, in nats.
      elbo: E_q[log p(x, z) - log q(z | x)] by quadrature, in nats.
      mean: the mean of q(z | x), float64 [2].
      stddev: the standard deviations of q(z | x), float64 [2].
    """

    low: np.ndarray
    high: np.ndarray
    density: np.ndarray
    log_likelihood: float
    elbo: float
    mean: np.ndarray
    stddev: np.ndarray

    @property
    def kl(self) -> float:
        """KL(q(z | x) || p(z | x)) = log p(x) - ELBO, in nats."""
        return self.log_likelihood - self.elbo


def posteriors(model: models.ImportanceWeightedAutoencoder, x: np.ndarray) -> list[Posterior]:
    """Computes p(z | x), proportional to p(x | z) p(z), on a grid, for a model whose only layer has two units.

    A coarse grid over the range of the prior and q locates the mass, and a second grid covers that region.

    Args:
      model: an `ImportanceWeightedAutoencoder` with a standard normal prior.
      x: float array [num_images, event].

    Returns:
      The `Posterior` of each image.
    """

    @tf.function(jit_compile=model.jit_compile)
    def log_densities(image, z):
        terms = model.terms_at(image, [z[:, tf.newaxis]])
        return terms.log_p_x_given_z[:, 0] + terms.log_p_z[0][:, 0], terms.log_q_z_given_x[0][:, 0]

    return [_posterior(model, log_densities, image) for image in np.split(np.float32(x), len(x))]


def _posterior(model, log_densities, image):
    """The `Posterior` of one image [1, event]."""
    _, (q,) = model.inference(image, [tf.zeros([1, 1, 2])])
    mean, stddev = (np.float64(moment)[0] for moment in (q.mean(), q.stddev()))
    near_q = mean - _REACH * stddev, mean + _REACH * stddev
    low, high = np.minimum(near_q[0], -_REACH), np.maximum(near_q[1], _REACH)
    log_joint, _, cell = _on_grid(log_densities, image, low, high)
    where = np.argwhere(log_joint > log_joint.max() - _NEGLIGIBLE)
    low, high = low + (where.min(axis=0) - 1) * cell, low + (where.max(axis=0) + 1) * cell
    log_joint, _, cell = _on_grid(log_densities, image, low, high)
    log_likelihood = np.logaddexp.reduce(log_joint, axis=None) + np.log(cell.prod())
    joint_near_q, log_q, _ = _on_grid(log_densities, image, *near_q)
    q_weights = np.exp(log_q)
    elbo = np.sum(q_weights * (joint_near_q - log_q)) / q_weights.sum()
    density = np.exp(log_joint - log_likelihood)
    return Posterior(low, high, density, float(log_likelihood), float(elbo), mean, stddev)


def _on_grid(log_densities, image, low, high):
    """Returns (log p(x, z), log q(z | x), cell) on a grid: two float64 [side, side], and the spacings [2]."""
    axes = [np.linspace(*ends, _GRID_SIDE) for ends in zip(low, high, strict=True)]
    z = np.float32(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2))
    pieces = [log_densities(image, piece) for piece in np.split(z, len(z) // _POINTS_PER_CALL)]
    log_joint, log_q = (
        np.concatenate(parts).astype(np.float64).reshape(2 * [_GRID_SIDE]) for parts in zip(*pieces, strict=True)
    )
    return log_joint, log_q, (high - low) / (_GRID_SIDE - 1)
