"""How an objective is differentiated.

An estimator is a function `(model, x, eps, key) -> (terms, gradients)`:

  model: has `log_weight_terms(x, eps)`, `bound(log_weights)`, `trainable_variables` and `num_resampled`.
  x: float tensor [batch, event].
  eps: standard normal tensors [num_samples, batch, d_l], one per stochastic layer.
  key: int32 [2], see `noise.key`, for random numbers that the estimator itself needs.
  terms: the `models.LogWeightTerms` of these samples, whose values no estimator changes.
  gradients: of the loss, the negative bound averaged over the batch, in the order of `model.trainable_variables`.
"""

import tensorflow as tf

from iwae_tf import noise


def standard(model, x, eps, key):
    """The reparameterised gradient of the bound itself, equation (13) of Burda et al. (arXiv:1509.00519)."""
    del key
    with tf.GradientTape() as tape:
        terms = model.log_weight_terms(x, eps)
        loss = -tf.reduce_mean(model.bound(terms.log_weights))
    return terms, tape.gradient(loss, model.trainable_variables)


def resampled(model, x, eps, key):
    """Backpropagates through `model.num_resampled` of the samples only, drawn by their share in the gradient.

    The gradient of the bound is sum_i v_i grad log w_i with v_i = d bound / d log w_i, the normalized weights for the
    IWAE. Systematic resampling draws sample i m v_i times on average, so the mean of grad log w over the m samples
    drawn has that gradient as its expectation, given all samples. Burda et al. (arXiv:1509.00519, section 3) mention
    m = 1.
    """
    terms = model.log_weight_terms(x, eps)
    log_weights = terms.log_weights
    with tf.GradientTape() as tape:
        tape.watch(log_weights)
        bound = tf.reduce_sum(model.bound(log_weights))
    shares = tape.gradient(bound, log_weights)
    offsets = noise.uniform(tf.shape(shares)[1:], key)
    chosen = systematic_resampling(shares, offsets, model.num_resampled)
    with tf.GradientTape() as tape:
        few = model.log_weight_terms(x, [_take(layer, chosen) for layer in eps])
        loss = -tf.reduce_mean(few.log_weights)
    return terms, tape.gradient(loss, model.trainable_variables)


def systematic_resampling(shares, offsets, count):
    """Draws `count` of num_samples with one random number per image.

    Args:
      shares: float tensor [num_samples, batch], not negative, with sum one over axis 0.
      offsets: float tensor [batch], uniform in [0, 1).
      count: how many to draw.

    Returns:
      Indices int32 [count, batch]: i stands there count * shares_i times on average, and at any time that number
      rounded down or up.
    """
    positions = (tf.range(count, dtype=tf.float32)[:, tf.newaxis] + offsets) / count
    passed = tf.cumsum(shares, axis=0)[:, tf.newaxis] <= positions
    # The shares' sum may fall short of one by rounding.
    return tf.minimum(tf.reduce_sum(tf.cast(passed, tf.int32), axis=0), tf.shape(shares)[0] - 1)


def _take(values, indices):
    """values[indices[j, b], b] for values [num_samples, batch, d] and indices [count, batch]: [count, batch, d]."""
    taken = tf.gather(tf.transpose(values, [1, 0, 2]), tf.transpose(indices), batch_dims=1, axis=1)
    return tf.transpose(taken, [1, 0, 2])


GRADIENT_ESTIMATORS = {"standard": standard, "resampled": resampled}
