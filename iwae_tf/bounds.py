"""Bounds on log p(x) as pure functions of the log-weights, in nats, one value per image.

`log_weights` [num_samples, batch] holds log w_i = log p(x, z_i) - log q(z_i | x) for z_i ~ q(z | x). Axis 0 is the
sample axis everywhere.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
[2]: Tom Rainforth et al. Tighter Variational Bounds are Not Necessarily Better. arXiv:1802.04537.
[3]: Yingzhen Li, Richard Turner. Renyi Divergence Variational Inference. arXiv:1602.02311.
[4]: Sebastian Nowozin. Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife
  Variational Inference. ICLR 2018.
"""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import tensorflow as tf


def iwae_bound(log_weights: tf.Tensor) -> tf.Tensor:
    """The k-sample bound L_k = log 1/k sum_i w_i, equation (8) of [1].

    Args:
      log_weights: float tensor [num_samples, batch].

    Returns:
      The bound in nats, [batch]. Its expectation grows with num_samples and never exceeds log p(x).
    """
    num_samples = tf.cast(tf.shape(log_weights)[0], log_weights.dtype)
    return tf.reduce_logsumexp(log_weights, axis=0) - tf.math.log(num_samples)


def elbo(log_weights: tf.Tensor) -> tf.Tensor:
    """The evidence lower bound L = E_q[log w], equation (3) of [1], as the mean of the log-weights.

    With num_samples > 1 this is the k-sample VAE objective of the paper: an average of k bounds, not a tighter one.

    Args:
      log_weights: float tensor [num_samples, batch].

    Returns:
      The bound in nats, [batch].
    """
    return tf.reduce_mean(log_weights, axis=0)


def miwae_bound(log_weights: tf.Tensor, num_outer: int) -> tf.Tensor:
    """The mean of M = num_outer bounds of K samples each, MIWAE(M, K) of [2].

    Args:
      log_weights: float tensor [M * K, batch]; each K consecutive samples form one group.
      num_outer: the number of bounds, M.

    Returns:
      The bound in nats, [batch].
    """
    grouped = tf.transpose(_grouped(log_weights, num_outer), [1, 0, 2])
    return tf.reduce_mean(iwae_bound(grouped), axis=0)


def ciwae_bound(log_weights: tf.Tensor, beta: float) -> tf.Tensor:
    """The combination beta * ELBO + (1 - beta) * L_k, CIWAE of [2].

    Args:
      log_weights: float tensor [num_samples, batch].
      beta: from 0 (L_k) to 1 (the ELBO).

    Returns:
      The bound in nats, [batch].
    """
    return beta * elbo(log_weights) + (1.0 - beta) * iwae_bound(log_weights)


def renyi_bound(log_weights: tf.Tensor, alpha: float) -> tf.Tensor:
    """The variational Renyi bound 1/(1 - alpha) log 1/k sum_i w_i^(1 - alpha), equation (10) of [3].

    Args:
      log_weights: float tensor [num_samples, batch].
      alpha: 0 gives L_k, 1 the ELBO (the limit), -inf the largest log-weight. For alpha >= 0 the value is at most
        L_k, so in expectation it is a lower bound on log p(x); for alpha < 0 it may exceed log p(x).

    Returns:
      The bound in nats, [batch].
    """
    if alpha == 1.0:
        return elbo(log_weights)
    if alpha == -math.inf:
        return tf.reduce_max(log_weights, axis=0)
    return iwae_bound((1.0 - alpha) * log_weights) / (1.0 - alpha)


def jackknife_bound(log_weights: tf.Tensor) -> tf.Tensor:
    """L_k without its bias of order 1/k: k L_k - (k - 1) mean_i L_{k-1}(without w_i), JVI of order 1 [4].

    It is closer to log p(x) than L_k, but it is not a lower bound.

    Args:
      log_weights: float tensor [num_samples, batch], at least 2 samples.

    Returns:
      The estimate in nats, [batch].
    """
    k = tf.cast(tf.shape(log_weights)[0], log_weights.dtype)
    # Shift by the maximum: the difference below is multiplied by k and would otherwise lose precision.
    maximum = tf.stop_gradient(tf.reduce_max(log_weights, axis=0))
    log_weights -= maximum
    bound = iwae_bound(log_weights)
    without_one = tf.reduce_logsumexp(_without_each(log_weights), axis=0) - tf.math.log(k - 1.0)
    return maximum + bound + (k - 1.0) * tf.reduce_mean(bound - without_one, axis=0)


def normalized_weights(log_weights: tf.Tensor) -> tf.Tensor:
    """The weights w~_i = w_i / sum_j w_j, [num_samples, batch]; they sum to one over axis 0."""
    return tf.nn.softmax(log_weights, axis=0)


def effective_sample_size(log_weights: tf.Tensor) -> tf.Tensor:
    """The effective sample size 1 / sum_i w~_i^2, between 1 and num_samples, [batch]."""
    return 1.0 / tf.reduce_sum(tf.square(normalized_weights(log_weights)), axis=0)


def _grouped(log_weights, num_outer):
    """[M * K, batch] -> [M, K, batch]."""
    return tf.reshape(log_weights, [num_outer, -1, tf.shape(log_weights)[1]])


def _without_each(log_weights):
    """[k, batch] -> [k, k, batch], where column i of axis 1 has -inf in place of log-weight i."""
    missing = tf.eye(tf.shape(log_weights)[0], dtype=tf.bool)[:, :, tf.newaxis]
    return tf.where(missing, -math.inf, log_weights[:, tf.newaxis])


class Bound(NamedTuple):
    """A bound and what its doubly reparameterised gradient needs.

    Attributes:
      value: maps log_weights [num_samples, batch] to the bound, [batch].
      path_weights: maps log_weights to c_i = v_i - d v_i / d log w_i with v_i = d value / d log w_i, [num_samples,
        batch]: the weight of d log w_i / d z_i in the gradient of the inference network. (The second part is the
        score function's term, reparameterised once more; see `estimators.dreg`.) None for a bound that only the
        generative network maximises.
    """

    value: Callable[[tf.Tensor], tf.Tensor]
    path_weights: Callable[[tf.Tensor], tf.Tensor] | None = None


class Objective(NamedTuple):
    """What is maximised.

    Attributes:
      name: a key of `OBJECTIVES`.
      parameters: the values of its parameters, see `objective`.
      generative: the `Bound` that the generative network maximises.
      inference: the `Bound` that the inference network maximises; the same object where both maximise one bound.
    """

    name: str
    parameters: tuple[float, ...]
    generative: Bound
    inference: Bound


def objective(name: str, *parameters: float) -> Objective:
    """Returns an `Objective`.

    Args:
      name: a key of `OBJECTIVES`. With "piwae", the PIWAE of [2], the generative network maximises L_k of all M * K
        samples and the inference network MIWAE(M, K). With "jackknife" the inference network maximises L_k.
      *parameters: num_outer (M) for "miwae" and "piwae"; beta, from 0 to 1, for "ciwae"; alpha, finite or -inf, for
        "vr". The other objectives have no parameters.

    Raises:
      ValueError: the name is unknown, or the parameters do not fit the objective.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective is {name!r}, but must be one of {', '.join(OBJECTIVES)}.")
    build = OBJECTIVES[name]
    expected = tuple(inspect.signature(build).parameters)
    if len(parameters) != len(expected):
        needs = ", ".join(expected) or "no parameters"
        raise ValueError(f"objective {name!r} needs {needs}, but was given {parameters}.")
    return build(*parameters)


def _iwae() -> Objective:
    return _shared("iwae", (), Bound(iwae_bound, _iwae_path_weights))


def _vae() -> Objective:
    return _shared("vae", (), Bound(elbo, _elbo_path_weights))


def _miwae(num_outer: int) -> Objective:
    return _shared("miwae", (num_outer,), _miwae_bound("miwae", num_outer))


def _piwae(num_outer: int) -> Objective:
    return Objective("piwae", (num_outer,), Bound(iwae_bound), _miwae_bound("piwae", num_outer))


def _ciwae(beta: float) -> Objective:
    _check(0.0 <= beta <= 1.0, "ciwae", "beta from 0 to 1", beta)
    return _shared("ciwae", (beta,), Bound(partial(ciwae_bound, beta=beta), partial(_ciwae_path_weights, beta=beta)))


def _vr(alpha: float) -> Objective:
    _check(alpha < math.inf, "vr", "alpha, a finite number or -inf", alpha)
    return _shared("vr", (alpha,), Bound(partial(renyi_bound, alpha=alpha), partial(_renyi_path_weights, alpha=alpha)))


def _jackknife() -> Objective:
    # It is not a lower bound and rewards log-weights that are far apart: an inference network that maximised it would
    # spread them without limit.
    return Objective("jackknife", (), Bound(jackknife_bound), Bound(iwae_bound, _iwae_path_weights))


# Name -> a function from the objective's parameters to the `Objective`.
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "iwae": _iwae,
    "vae": _vae,
    "miwae": _miwae,
    "piwae": _piwae,
    "ciwae": _ciwae,
    "vr": _vr,
    "jackknife": _jackknife,
}


def _shared(name: str, parameters: tuple[float, ...], bound: Bound) -> Objective:
    """The objective whose bound both networks maximise."""
    return Objective(name, parameters, generative=bound, inference=bound)


def _check(is_valid: bool, name: str, expected: str, value: float) -> None:
    if not is_valid:
        raise ValueError(f"objective {name!r} needs {expected}, but was given {value}.")


def _miwae_bound(name: str, num_outer: int) -> Bound:
    _check(num_outer >= 1, name, "num_outer >= 1", num_outer)
    return Bound(partial(miwae_bound, num_outer=num_outer), partial(_miwae_path_weights, num_outer=num_outer))


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
