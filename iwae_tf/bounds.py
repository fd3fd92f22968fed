"""From log-weights to bounds on log p(x): pure functions, in nats, one value per image.

`log_weights` [num_samples, batch] holds log w_i = log p(x, z_i) - log q(z_i | x) for z_i ~ q(z | x). Axis 0 is the
sample axis everywhere.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
[2]: Tom Rainforth et al. Tighter Variational Bounds are Not Necessarily Better. arXiv:1802.04537.
[3]: Yingzhen Li, Richard Turner. Renyi Divergence Variational Inference. arXiv:1602.02311.
[4]: Sebastian Nowozin. Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife
  Variational Inference. ICLR 2018.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


def iwae_bound(log_weights):
    """The k-sample bound L_k = log 1/k sum_i w_i, equation (8) of [1].

    Args:
      log_weights: float tensor [num_samples, batch].

    Returns:
      The bound in nats, [batch]. Its expectation grows with num_samples and never exceeds log p(x).
    """
    num_samples = tf.cast(tf.shape(log_weights)[0], log_weights.dtype)
    return tf.reduce_logsumexp(log_weights, axis=0) - tf.math.log(num_samples)


def elbo(log_weights):
    """The evidence lower bound L = E_q[log w], equation (3) of [1], as the mean of the log-weights.

    With num_samples > 1 this is the k-sample VAE objective of the paper: an average of k bounds, not a tighter one.

    Args:
      log_weights: float tensor [num_samples, batch].

    Returns:
      The bound in nats, [batch].
    """
    return tf.reduce_mean(log_weights, axis=0)


def miwae_bound(log_weights, num_outer):
    """The mean of M = num_outer bounds of K samples each, MIWAE(M, K) of [2].

    Args:
      log_weights: float tensor [M * K, batch]; each K consecutive samples belong together.
      num_outer: M.

    Returns:
      The bound in nats, [batch].
    """
    grouped = tf.transpose(_grouped(log_weights, num_outer), [1, 0, 2])
    return tf.reduce_mean(iwae_bound(grouped), axis=0)


def ciwae_bound(log_weights, beta):
    """beta * ELBO + (1 - beta) * L_k, CIWAE of [2], in nats, [batch]."""
    return beta * elbo(log_weights) + (1.0 - beta) * iwae_bound(log_weights)


def renyi_bound(log_weights, alpha):
    """The variational Renyi bound 1/(1 - alpha) log 1/k sum_i w_i^(1 - alpha), equation (10) of [3].

    Args:
      log_weights: float tensor [num_samples, batch].
      alpha: 0 is L_k, 1 the ELBO (the limit), -inf the largest log-weight. From 0 on it is a lower bound
        on log p(x) in expectation, as it is at most L_k; below 0 it need not be.

    Returns:
      The bound in nats, [batch].
    """
    if alpha == 1.0:
        return elbo(log_weights)
    if alpha == -math.inf:
        return tf.reduce_max(log_weights, axis=0)
    return iwae_bound((1.0 - alpha) * log_weights) / (1.0 - alpha)


def jackknife_bound(log_weights):
    """k L_k - (k - 1) mean_i L_{k-1}(without w_i): L_k without its bias of order 1/k, JVI of order 1 [4].

    It is closer to log p(x) than L_k and no lower bound.

    Args:
      log_weights: float tensor [num_samples, batch], at least 2 samples.

    Returns:
      The estimate in nats, [batch].
    """
    k = tf.cast(tf.shape(log_weights)[0], log_weights.dtype)
    # Near zero the digits are there that the difference, times k, needs.
    top = tf.stop_gradient(tf.reduce_max(log_weights, axis=0))
    log_weights -= top
    bound = iwae_bound(log_weights)
    without_one = tf.reduce_logsumexp(_without_each(log_weights), axis=0) - tf.math.log(k - 1.0)
    return top + bound + (k - 1.0) * tf.reduce_mean(bound - without_one, axis=0)


def normalized_weights(log_weights):
    """The weights w~_i = w_i / sum_j w_j, [num_samples, batch]; they sum to one over axis 0."""
    return tf.nn.softmax(log_weights, axis=0)


def effective_sample_size(log_weights):
    """The effective sample size 1 / sum_i w~_i^2, between 1 and num_samples, [batch]."""
    return 1.0 / tf.reduce_sum(tf.square(normalized_weights(log_weights)), axis=0)


def _grouped(log_weights, num_outer):
    """[M * K, batch] -> [M, K, batch]."""
    return tf.reshape(log_weights, [num_outer, -1, tf.shape(log_weights)[1]])


def _without_each(log_weights):
    """[k, k, batch]: in column i of axis 1 the log-weight i is missing (-inf)."""
    missing = tf.eye(tf.shape(log_weights)[0], dtype=tf.bool)[:, :, tf.newaxis]
    return tf.where(missing, -math.inf, log_weights[:, tf.newaxis])


def _iwae_of_all(log_weights, num_outer):
    del num_outer
    return iwae_bound(log_weights)


class Bound(NamedTuple):
    """A bound, and what its doubly reparameterised gradient needs.

    Attributes:
      value: maps log_weights [num_samples, batch] to the bound, [batch].
      path_weights: maps log_weights to c_i = v_i - d v_i / d log w_i with v_i = d value / d log w_i, [num_samples,
        batch]: the weight of d log w_i / d z_i in the gradient of the inference network. (The score function's
        term, reparameterised once more, is the second part; see `estimators.dreg`.) None for a bound that only the
        generative network maximises.
    """

    value: Callable
    path_weights: Callable | None = None


def _elbo_path_weights(log_weights):
    return tf.ones_like(log_weights) / tf.cast(tf.shape(log_weights)[0], log_weights.dtype)


def _iwae_path_weights(log_weights):
    return tf.square(normalized_weights(log_weights))


def _miwae_path_weights(log_weights, num_outer):
    weights = tf.nn.softmax(_grouped(log_weights, num_outer), axis=1)
    return tf.reshape(tf.square(weights) / num_outer, tf.shape(log_weights))


def _ciwae_path_weights(log_weights, beta):
    return beta * _elbo_path_weights(log_weights) + (1.0 - beta) * _iwae_path_weights(log_weights)


def _renyi_path_weights(log_weights, alpha):
    weights = normalized_weights((1.0 - alpha) * log_weights)
    return alpha * weights + (1.0 - alpha) * tf.square(weights)


class Objective(NamedTuple):
    """What is maximised.

    Attributes:
      name: one of `OBJECTIVES`.
      parameters: its own, see `objective`.
      generative: the `Bound` that the generative network maximises.
      inference: the one that the inference network maximises.
    """

    name: str
    parameters: tuple
    generative: Bound
    inference: Bound


# Name -> how the generative network's bound is computed, and the inference network's where it has another.
OBJECTIVES = {
    "iwae": (Bound(iwae_bound, _iwae_path_weights),),
    "vae": (Bound(elbo, _elbo_path_weights),),
    "miwae": (Bound(miwae_bound, _miwae_path_weights),),
    "piwae": (Bound(_iwae_of_all), Bound(miwae_bound, _miwae_path_weights)),
    "ciwae": (Bound(ciwae_bound, _ciwae_path_weights),),
    "vr": (Bound(renyi_bound, _renyi_path_weights),),
    # It rewards weights that are far apart, being no lower bound: an inference network that maximised it would spread
    # them without end.
    "jackknife": (Bound(jackknife_bound), Bound(iwae_bound, _iwae_path_weights)),
}
# Name -> its parameter in words, and whether a value is one.
_PARAMETERS = {
    "miwae": ("num_outer >= 1", lambda num_outer: num_outer >= 1),
    "piwae": ("num_outer >= 1", lambda num_outer: num_outer >= 1),
    "ciwae": ("beta from 0 to 1", lambda beta: 0.0 <= beta <= 1.0),
    "vr": ("alpha, a finite number or -inf", lambda alpha: alpha < math.inf),
}


def objective(name, *parameters):
    """Returns an `Objective`.

    Args:
      name: one of `OBJECTIVES`. "piwae" is the PIWAE of [2]: the IWAE with all M * K samples for the generative
        network, MIWAE(M, K) for the inference network; with "jackknife" that maximises L_k.
      *parameters: "miwae" and "piwae": num_outer, their M. "ciwae": beta, from 0 to 1. "vr": alpha, finite or -inf.
        The others have none.

    Raises:
      ValueError: an unknown name, or parameters that are not its own.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective is {name!r}, but must be one of {', '.join(OBJECTIVES)}.")
    expected, are_valid = _PARAMETERS.get(name, ("no parameters", lambda *values: not values))
    if len(parameters) != (name in _PARAMETERS) or not are_valid(*parameters):
        raise ValueError(f"The objective {name} has {expected}, but was given {parameters}.")
    networks_bounds = [
        Bound(*(function and functools.partial(_call_with, function, parameters) for function in bound))
        for bound in OBJECTIVES[name]
    ]
    return Objective(name, parameters, networks_bounds[0], networks_bounds[-1])


def _call_with(function, parameters, log_weights):
    return function(log_weights, *parameters)
