"""Bias, variance and signal-to-noise ratio of gradient estimators.

#### References

[1]: Tom Rainforth et al. Tighter Variational Bounds are Not Necessarily Better. arXiv:1802.04537.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import estimators, models, noise

_NETWORKS = ("inference", "generative")


class Moments(NamedTuple):
    """Statistics of the gradient of one network from the draws of one estimator.

    Attributes:
      bias_t: the t statistic of the bias along the mean of the standard gradient, from paired draws; None for the
        standard estimator.
      relative_bias: the bias divided by the mean of the standard gradient, both along that direction; None for the
        standard estimator.
      variance: the variance of a parameter's gradient, averaged over the parameters.
      signal_to_noise: |mean| / standard deviation of a parameter's gradient, averaged over the parameters [1].
    """

    bias_t: float | None
    relative_bias: float | None
    variance: float
    signal_to_noise: float


def measure(
    model: models.ImportanceWeightedAutoencoder, names: Sequence[str], x: np.ndarray, draws: int, seed: int = 0
) -> dict[str, dict[str, Moments]]:
    """Compares gradient estimators of one model with the standard estimator, all on the same samples.

    Args:
      model: a built `ImportanceWeightedAutoencoder`.
      names: keys of `estimators.GRADIENT_ESTIMATORS` that are compatible with the model.
      x: float array [batch, event].
      draws: the number of gradients to draw from each estimator.
      seed: seed of the draws.

    Returns:
      Name -> network ("inference", "generative") -> `Moments`.
    """
    x = tf.constant(x)
    names = ["standard", *(name for name in names if name != "standard")]

    @tf.function(jit_compile=model.jit_compile)
    def draw(key):
        """Returns the gradients of each network, [estimators, parameters]."""
        epsilon = model.draw_epsilon(model.num_samples, len(x), key)
        estimator_key = noise.fold_in(key, 1)
        gradients = [estimators.GRADIENT_ESTIMATORS[name](model, x, epsilon, 1.0, estimator_key)[1] for name in names]
        return [tf.stack([_flat(model, network, values) for values in gradients]) for network in _NETWORKS]

    def draw_all(purpose, count):
        for i in range(count):
            yield [gradients.numpy().astype(np.float64) for gradients in draw(noise.key(seed, purpose, i))]

    # The bias is measured along the mean of separate draws, a quarter as many.
    standard = [[gradients[0] for gradients in networks] for networks in draw_all("direction", draws // 4)]
    sums = [_Sums(np.mean(gradients, axis=0)) for gradients in zip(*standard, strict=True)]
    for networks in draw_all("gradients", draws):
        for network_sums, gradients in zip(sums, networks, strict=True):
            network_sums.add(gradients)
    moments = {network: network_sums.moments() for network, network_sums in zip(_NETWORKS, sums, strict=True)}
    return {name: {network: moments[network][i] for network in _NETWORKS} for i, name in enumerate(names)}


class _Sums:
    """Sums over the draws of the gradients of one network; the standard estimator comes first."""

    def __init__(self, direction):
        self._direction = direction
        self._sum = self._sum_of_squares = 0.0
        self._projected = []

    def add(self, gradients):
        """Adds one draw, [estimators, parameters]."""
        self._sum = self._sum + gradients
        self._sum_of_squares = self._sum_of_squares + gradients**2
        self._projected.append((gradients - gradients[0]) @ self._direction)

    def moments(self):
        """Returns the `Moments` of each estimator."""
        draws = len(self._projected)
        mean = self._sum / draws
        variance = np.maximum(self._sum_of_squares / draws - mean**2, 0.0) * draws / (draws - 1)
        squared_length = self._direction @ self._direction
        bias = np.mean(self._projected, axis=0)
        # The direction comes from separate draws, so the noise of these draws is not squared.
        length = mean[0] @ self._direction
        # Where two estimators agree, rounding still causes small differences.
        stderr = np.maximum(np.std(self._projected, axis=0, ddof=1) / np.sqrt(draws), 1e-5 * squared_length)
        return [
            Moments(
                float(bias[i] / stderr[i]) if i else None,
                float(bias[i] / length) if i else None,
                float(variance[i].mean()),
                _signal_to_noise(mean[i], variance[i]),
            )
            for i in range(len(mean))
        ]


def _signal_to_noise(mean, variance):
    noisy = variance > 0.0
    return float(np.mean(np.abs(mean[noisy]) / np.sqrt(variance[noisy]))) if noisy.any() else 0.0


def _flat(model, network, gradients):
    """The gradient of one network as a vector; it includes weights that both networks share."""
    ids = {id(variable) for variable in getattr(model, network).trainable_variables}
    return tf.concat(
        [tf.reshape(g, [-1]) for v, g in zip(model.trainable_variables, gradients, strict=True) if id(v) in ids], axis=0
    )
