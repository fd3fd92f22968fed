"""Bias, variance and signal-to-noise ratio of gradient estimators.

#### References

[1]: Tom Rainforth et al. Tighter Variational Bounds are Not Necessarily Better. arXiv:1802.04537.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import estimators, noise

_NETWORKS = ("inference", "generative")


class Moments(NamedTuple):
    """What the draws of one estimator tell about one network's gradient.

    Attributes:
      bias_t: t statistic of the bias along the standard gradient's mean, from paired draws; None for the standard one.
      relative_bias: that bias over the standard gradient's mean along the same direction.
      variance: variance of a parameter's gradient, averaged over the parameters.
      signal_to_noise: |mean| / standard deviation of a parameter's gradient, averaged over the parameters.
    """

    bias_t: float | None
    relative_bias: float | None
    variance: float
    signal_to_noise: float


def measure(model, names, x, draws, seed=0):
    """Measures estimators of one model's gradient against the standard one, all on the same samples.

    Args:
      model: a built `ImportanceWeightedAutoencoder`.
      names: from `estimators.GRADIENT_ESTIMATORS`, which the model's objective and networks admit.
      x: float array [batch, event].
      draws: how many gradients to draw of each.
      seed: seed of the draws.

    Returns:
      Name -> network ("inference", "generative") -> `Moments`.
    """
    x = tf.constant(x)
    names = ["standard", *(name for name in names if name != "standard")]

    @tf.function(jit_compile=model.jit_compile)
    def draw(key):
        """For each network [estimators, parameters]."""
        eps = model.draw_noise(model.num_samples, len(x), key)
        own = noise.fold_in(key, 1)
        gradients = [estimators.GRADIENT_ESTIMATORS[name](model, x, eps, 1.0, own)[1] for name in names]
        return [tf.stack([_flat(model, network, one) for one in gradients]) for network in _NETWORKS]

    def drawn(purpose, count):
        for i in range(count):
            yield [part.numpy().astype(np.float64) for part in draw(noise.key(seed, purpose, i))]

    # A quarter as many draws of their own tell the direction along which biases are looked for.
    standard = [[of_network[0] for of_network in parts] for parts in drawn("direction", draws // 4)]
    sums = [_Sums(np.mean(of_network, axis=0)) for of_network in zip(*standard, strict=True)]
    for parts in drawn("gradients", draws):
        for of_network, gradients in zip(sums, parts, strict=True):
            of_network.add(gradients)
    measured = {network: of_network.moments() for network, of_network in zip(_NETWORKS, sums, strict=True)}
    return {name: {network: measured[network][i] for network in _NETWORKS} for i, name in enumerate(names)}


class _Sums:
    """Sums over the draws of one network's gradients, the standard estimator's first."""

    def __init__(self, direction):
        self._direction = direction
        self._sum = self._sum_of_squares = 0.0
        self._projected = []

    def add(self, gradients):
        """Adds a draw, [estimators, parameters]."""
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
        # Both lengths are along a direction from other draws: no noise of theirs is squared.
        length = mean[0] @ self._direction
        # Rounding alone makes differences where two estimators agree.
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
    """One network's gradient as a vector; weights that serve both are in both."""
    own = {id(variable) for variable in getattr(model, network).trainable_variables}
    return tf.concat(
        [tf.reshape(g, [-1]) for v, g in zip(model.trainable_variables, gradients, strict=True) if id(v) in own], axis=0
    )
