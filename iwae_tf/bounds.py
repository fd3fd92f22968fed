"""From log-weights to bounds on log p(x): pure functions, in nats, one value per image.

`log_weights` [num_samples, batch] holds log w_i = log p(x, z_i) - log q(z_i | x) for z_i ~ q(z | x). Axis 0 is the
sample axis everywhere.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
"""

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


def normalized_weights(log_weights):
    """The weights w~_i = w_i / sum_j w_j, [num_samples, batch]; they sum to one over axis 0."""
    return tf.nn.softmax(log_weights, axis=0)


def effective_sample_size(log_weights):
    """The effective sample size 1 / sum_i w~_i^2, between 1 and num_samples, [batch]."""
    return 1.0 / tf.reduce_sum(tf.square(normalized_weights(log_weights)), axis=0)


OBJECTIVES = {"iwae": iwae_bound, "vae": elbo}
