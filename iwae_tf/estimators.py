"""Gradient estimators of an objective.

An estimator is a function `(model, x, epsilon, beta, key, sample_weight=None) -> (terms, gradients)`. All have this
signature, though not every estimator uses every argument:

  model: has `objective` (a `bounds.Objective`), `inference`, `generative`, `log_weight_terms`, `terms_at`,
    `trainable_variables` and `num_resampled`, as `models.ImportanceWeightedAutoencoder` does.
  x: float tensor [batch, event].
  epsilon: standard normal tensors [num_samples, batch, d_l], one per stochastic layer, bottom first.
  beta: the weight of log p(z) - log q(z | x) in log w, a float scalar; 1 except during a warm-up.
  key: int32 [2], see `noise.key`, for random numbers that the estimator itself needs.
  sample_weight: the weight of each image's bound in the loss, float [batch]; None means ones.
  terms: the `models.LogWeightTerms` of these samples, whose values do not depend on the estimator.
  gradients: gradients of the loss, the weighted negative bounds averaged over the batch, in the order of
    `model.trainable_variables`; None where the loss does not depend on a variable.

Where both networks use a variable, as in the Ladder VAE, its gradient is the sum over both uses.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
[2]: George Tucker et al. Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives. arXiv:1810.04152.
[3]: Geoffrey Roeder, Yuhuai Wu, David Duvenaud. Sticking the Landing. arXiv:1703.09194.
[4]: Joerg Bornschein, Yoshua Bengio. Reweighted Wake-Sleep. arXiv:1406.2751.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from iwae_tf import bounds, noise
from iwae_tf.runtime import distribute

Gradients = list[tf.Tensor | None]
# (terms, gradients); the terms' class belongs to the model.
Estimate = tuple[Any, Gradients]


def standard(
    model: keras.Model,
    x: tf.Tensor,
    epsilon: Sequence[tf.Tensor],
    beta: float | tf.Tensor,
    key: tf.Tensor,
    sample_weight: tf.Tensor | None = None,
) -> Estimate:
    """The reparameterised gradient of the objective itself, equation (13) of [1]."""
    generative, inference = model.objective.generative, model.objective.inference
    with tf.GradientTape(persistent=True) as tape:
        terms = model.log_weight_terms(x, epsilon, training=True)
        log_weights = terms.log_weights_at(beta)
        generative_loss = loss(generative.value(log_weights), sample_weight)
        inference_loss = loss(inference.value(log_weights), sample_weight)
    if generative == inference:
        return terms, tape.gradient(generative_loss, model.trainable_variables)
    inference_ids = {id(variable) for variable in model.inference.trainable_variables}
    generative_gradients, inference_gradients = (
        tape.gradient(own_loss, model.trainable_variables) for own_loss in (generative_loss, inference_loss)
    )
    return terms, [
        b if id(variable) in inference_ids else a
        for variable, a, b in zip(model.trainable_variables, generative_gradients, inference_gradients, strict=True)
    ]


def stl(
    model: keras.Model,
    x: tf.Tensor,
    epsilon: Sequence[tf.Tensor],
    beta: float | tf.Tensor,
    key: tf.Tensor,
    sample_weight: tf.Tensor | None = None,
) -> Estimate:
    """The standard gradient without the inference network's score function term, sticking the landing [3].

    It vanishes where q is the true posterior. It is unbiased where the bound is linear in the log-weights (the VAE, or
    k = 1), and biased for L_k with k > 1.
    """
    return _along_paths(
        model, x, epsilon, beta, _loss_derivatives(model.objective.inference, sample_weight), sample_weight
    )


def dreg(
    model: keras.Model,
    x: tf.Tensor,
    epsilon: Sequence[tf.Tensor],
    beta: float | tf.Tensor,
    key: tf.Tensor,
    sample_weight: tf.Tensor | None = None,
) -> Estimate:
    """The doubly reparameterised gradient of the inference network's objective [2], for any number of layers.

    With v_i = d bound / d log w_i, the standard gradient has the term -sum_i v_i beta d log q(z_i | x) / d phi. Its
    expectation is reparameterised a second time, as -beta sum_i (d v_i / d log w_i) (d log w_i / d z_i)
    (d z_i / d phi), so the path derivative gets the weight v_i - beta d v_i / d log w_i. The generative network gets
    its standard gradient. For L_k with beta = 1, where v_i = w~_i and the weight is w~_i^2:

        log_w = log p(x, z) - log q(z | x; stop_gradient(phi)),  z = z(epsilon, phi)
        loss_theta = -sum(stop_gradient(w~) * log_w)
        loss_phi = -sum(stop_gradient(w~)^2 * log_w)
    """
    bound = model.objective.inference
    derivatives = _loss_derivatives(bound, sample_weight)

    def weights(log_weights):
        path_weights = -bound.path_weights(log_weights) / tf.cast(tf.shape(log_weights)[1], log_weights.dtype)
        return beta * _weighted(path_weights, sample_weight) + (1.0 - beta) * derivatives(log_weights)

    return _along_paths(model, x, epsilon, beta, weights, sample_weight)


def rws(
    model: keras.Model,
    x: tf.Tensor,
    epsilon: Sequence[tf.Tensor],
    beta: float | tf.Tensor,
    key: tf.Tensor,
    sample_weight: tf.Tensor | None = None,
) -> Estimate:
    """Reweighted wake-sleep with the wake-phase update of the inference network [4].

    The generative network gets the gradient of L_k. The inference network minimises KL(p(z | x) || q(z | x)) with the
    self-normalised estimate -sum_i w~_i d log q(z_i | x) / d phi, at fixed samples. Beta has no effect.
    """
    z, _ = model.inference(x, epsilon)
    with tf.GradientTape() as tape:
        terms = model.terms_at(x, [tf.stop_gradient(z_l) for z_l in z])
        weights = _loss_derivatives(model.objective.generative, sample_weight)(tf.stop_gradient(terms.log_weights))
        log_p = terms.log_p_x_given_z + tf.add_n(terms.log_p_z)
        wake_loss = tf.reduce_sum(weights * (log_p + tf.add_n(terms.log_q_z_given_x)))
    return terms, tape.gradient(wake_loss, model.trainable_variables)


def resampled(
    model: keras.Model,
    x: tf.Tensor,
    epsilon: Sequence[tf.Tensor],
    beta: float | tf.Tensor,
    key: tf.Tensor,
    sample_weight: tf.Tensor | None = None,
) -> Estimate:
    """Backpropagates through only m = `model.num_resampled` samples, drawn by their share in the gradient.

    The gradient of the bound is sum_i v_i grad log w_i with v_i = d bound / d log w_i, the normalized weights for the
    IWAE. Systematic resampling draws sample i on average m v_i times. Given all samples, the mean of grad log w over
    the m drawn ones therefore has the gradient of the bound as its expectation. Burda et al. [1, section 3] mention
    m = 1. With at most m samples, as an epoch with a smaller k may have, it is the standard gradient.
    """
    if epsilon[0].shape[0] <= model.num_resampled:
        return standard(model, x, epsilon, beta, key, sample_weight)
    terms = model.log_weight_terms(x, epsilon)
    batch = tf.shape(x)[0]
    log_weights = terms.log_weights_at(beta)
    shares = -tf.cast(batch, log_weights.dtype) * _loss_derivatives(model.objective.generative)(log_weights)
    offsets = distribute.replica_share(noise.uniform([distribute.num_replicas() * batch], key), axis=0)
    chosen = systematic_resampling(shares, offsets, model.num_resampled)
    with tf.GradientTape() as tape:
        chosen_terms = model.log_weight_terms(x, [_take(epsilon_l, chosen) for epsilon_l in epsilon])
        chosen_loss = loss(bounds.elbo(chosen_terms.log_weights_at(beta)), sample_weight)
    return terms, tape.gradient(chosen_loss, model.trainable_variables)


def systematic_resampling(shares: tf.Tensor, offsets: tf.Tensor, count: int) -> tf.Tensor:
    """Draws `count` of num_samples samples with one random number per image.

    Args:
      shares: float tensor [num_samples, batch], not negative, with sum one over axis 0.
      offsets: float tensor [batch], uniform in [0, 1).
      count: how many samples to draw.

    Returns:
      Indices, int32 [count, batch]. Index i occurs count * shares_i times on average, and always that number rounded
      down or up.
    """
    positions = (tf.range(count, dtype=shares.dtype)[:, tf.newaxis] + tf.cast(offsets, shares.dtype)) / count
    passed = tf.cumsum(shares, axis=0)[:, tf.newaxis] <= positions
    # The sum of the shares may be less than one by rounding.
    return tf.minimum(tf.reduce_sum(tf.cast(passed, tf.int32), axis=0), tf.shape(shares)[0] - 1)


def loss(bound: tf.Tensor, sample_weight: tf.Tensor | None = None) -> tf.Tensor:
    """Returns the negative mean over the batch of bound [batch], each times its weight, a scalar."""
    return -tf.reduce_mean(_weighted(bound, sample_weight))


def _weighted(values, sample_weight):
    """Values [..., batch] times the weights of the images."""
    return values if sample_weight is None else values * tf.cast(sample_weight, values.dtype)


def _along_paths(model, x, epsilon, beta, path_weights, sample_weight):
    """Gradients whose inference part only follows the paths of the samples.

    The samples are leaves between two parts. The density part, log p(x, z) - log q(z | x) at given z, yields the
    generative network's gradient and d log w_i / d z_i; no weight gets a gradient through the density of q. The
    sampling part carries path_weights_i d log w_i / d z_i to every weight of the sampler, in one vector-Jacobian
    product over all layers: z_2 depends on z_1, and both parts have to keep that dependence.

    Args:
      model, x, epsilon, beta, sample_weight: as for every estimator.
      path_weights: maps log_weights [num_samples, batch] to the weights of d log w_i / d z_i in the loss.
    """
    generative, inference = model.objective.generative, model.objective.inference
    with tf.GradientTape() as sampler:
        z, _ = model.inference(x, epsilon)
    leaves = [tf.identity(z_l) for z_l in z]
    with tf.GradientTape(persistent=True) as p_tape, tf.GradientTape() as q_tape:
        p_tape.watch(leaves)
        q_tape.watch(leaves)
        terms = model.terms_at(x, leaves)
        log_p = terms.log_p_x_given_z + beta * tf.add_n(terms.log_p_z)
        log_q = beta * tf.add_n(terms.log_q_z_given_x)
    log_weights = log_p - log_q
    weights = _loss_derivatives(generative, sample_weight)(log_weights)
    weights_along_paths = path_weights(log_weights)
    variables = model.trainable_variables
    if generative == inference:
        # A shortcut with one backward pass through p instead of two: z_i affects only log w_i, so its derivative can
        # be multiplied by the ratio of the two weights afterwards.
        gradients, from_p = p_tape.gradient(log_p, [variables, leaves], weights)
        from_q = q_tape.gradient(log_q, leaves, weights)
        ratio = tf.math.divide_no_nan(weights_along_paths, weights)[..., tf.newaxis]
    else:
        gradients = p_tape.gradient(log_p, variables, weights)
        from_p = p_tape.gradient(log_p, leaves, weights_along_paths)
        from_q = q_tape.gradient(log_q, leaves, weights_along_paths)
        ratio = 1.0
    d_z = [ratio * (p - q) for p, q in zip(from_p, from_q, strict=True)]
    return terms, _add(gradients, sampler.gradient(z, variables, d_z))


def _loss_derivatives(bound, sample_weight=None):
    """Returns a function from log_weights to the derivatives of the loss of a bound, [num_samples, batch]."""

    def derivatives(log_weights):
        with tf.GradientTape() as tape:
            tape.watch(log_weights)
            own_loss = loss(bound.value(log_weights), sample_weight)
        return tape.gradient(own_loss, log_weights)

    return derivatives


def _add(first, second):
    """Adds two lists of gradients, in which None means zero."""
    return [b if a is None else a if b is None else a + b for a, b in zip(first, second, strict=True)]


def _take(values, indices):
    """values[indices[j, b], b] for values [num_samples, batch, d] and indices [count, batch]: [count, batch, d]."""
    taken = tf.gather(tf.transpose(values, [1, 0, 2]), tf.transpose(indices), batch_dims=1, axis=1)
    return tf.transpose(taken, [1, 0, 2])


GRADIENT_ESTIMATORS: dict[str, Callable[..., Estimate]] = {
    "standard": standard,
    "stl": stl,
    "dreg": dreg,
    "rws": rws,
    "resampled": resampled,
}
