"""How an objective is differentiated.

An estimator is a function `(model, x, noise) -> (terms, gradients)`:

  model: has `log_weight_terms(x, noise)`, `bound(log_weights)` and `trainable_variables`.
  x: float tensor [batch, event].
  noise: standard normal tensors [num_samples, batch, d_l], one per stochastic layer.
  terms: the `models.LogWeightTerms` of these samples, whose values no estimator changes.
  gradients: of the loss, the negative bound averaged over the batch, in the order of `model.trainable_variables`.
"""

import tensorflow as tf


def standard(model, x, noise):
    """The reparameterised gradient of the bound itself, equation (13) of Burda et al. (arXiv:1509.00519)."""
    with tf.GradientTape() as tape:
        terms = model.log_weight_terms(x, noise)
        loss = -tf.reduce_mean(model.bound(terms.log_weights))
    return terms, tape.gradient(loss, model.trainable_variables)


GRADIENT_ESTIMATORS = {"standard": standard}
