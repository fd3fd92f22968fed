"""How an objective is differentiated.

An estimator is a function `(model, x, eps, beta, key) -> (terms, gradients)`:

  model: has `objective` (a `bounds.Objective`), `inference`, `generative`, `log_weight_terms`, `terms_at`,
    `trainable_variables` and `num_resampled`.
  x: float tensor [batch, event].
  eps: standard normal tensors [num_samples, batch, d_l], one per stochastic layer.
  beta: weight of log p(z) - log q(z | x) within log w, 1 but for the warm-up; a float scalar.
  key: int32 [2], see `noise.key`, for random numbers that the estimator itself needs.
  terms: the `models.LogWeightTerms` of these samples, whose values no estimator changes.
  gradients: of the loss, the negative bound averaged over the batch, in the order of `model.trainable_variables`.

Where a variable serves both networks, as in the Ladder VAE, its gradient is the sum of those of its two roles.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
[2]: George Tucker et al. Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives. arXiv:1810.04152.
[3]: Geoffrey Roeder, Yuhuai Wu, David Duvenaud. Sticking the Landing. arXiv:1703.09194.
[4]: Joerg Bornschein, Yoshua Bengio. Reweighted Wake-Sleep. arXiv:1406.2751.
"""

import tensorflow as tf

from iwae_tf import noise
from iwae_tf.runtime import distribute


def standard(model, x, eps, beta, key):
    """The reparameterised gradient of the objective itself, equation (13) of [1]."""
    del key
    generative, inference = model.objective.generative, model.objective.inference
    with tf.GradientTape(persistent=True) as tape:
        terms = model.log_weight_terms(x, eps, training=True)
        log_weights = terms.log_weights_at(beta)
        generative_loss = -tf.reduce_mean(generative.value(log_weights))
        inference_loss = -tf.reduce_mean(inference.value(log_weights))
    if generative is inference:
        return terms, tape.gradient(generative_loss, model.trainable_variables)
    of_inference = {id(variable) for variable in model.inference.trainable_variables}
    by_generative, by_inference = (
        tape.gradient(loss, model.trainable_variables) for loss in (generative_loss, inference_loss)
    )
    return terms, [
        b if id(variable) in of_inference else a
        for variable, a, b in zip(model.trainable_variables, by_generative, by_inference, strict=True)
    ]


def stl(model, x, eps, beta, key):
    """The standard gradient without the score function's term in the inference network's, sticking the landing [3].

    It vanishes where q is the true posterior. It is unbiased where the bound is linear in the log-weights, for the
    VAE or k = 1, and biased for L_k with k > 1.
    """
    del key
    return _along_paths(model, x, eps, beta, _loss_derivatives(model.objective.inference))


def dreg(model, x, eps, beta, key):
    """The doubly reparameterised gradient of the inference network's objective [2], for any number of layers.

    With v_i = d bound / d log w_i the standard gradient has the term -sum_i v_i beta d log q(z_i | x) / d phi. Its
    expectation is reparameterised once more, into sum_i (d v_i / d log w_i) (d log w_i / d z_i) (d z_i / d phi), so
    the path's derivative is weighed with v_i - beta d v_i / d log w_i: w~_i^2 for L_k, where v_i = w~_i. The
    generative network has its standard gradient.
    """
    del key
    bound = model.objective.inference
    derivatives = _loss_derivatives(bound)

    def weights(log_weights):
        path_weights = -bound.path_weights(log_weights) / tf.cast(tf.shape(log_weights)[1], log_weights.dtype)
        return beta * path_weights + (1.0 - beta) * derivatives(log_weights)

    return _along_paths(model, x, eps, beta, weights)


def rws(model, x, eps, beta, key):
    """Reweighted wake-sleep with the wake-phase update of the inference network [4].

    The generative network has the gradient of L_k. The inference network descends KL(p(z | x) || q(z | x)) by the
    self-normalised estimate -sum_i w~_i d log q(z_i | x) / d phi, at samples that are held fixed.
    """
    del beta, key
    z, _ = model.inference(x, eps)
    with tf.GradientTape() as tape:
        terms = model.terms_at(x, [tf.stop_gradient(z_l) for z_l in z])
        weights = _loss_derivatives(model.objective.generative)(tf.stop_gradient(terms.log_weights))
        log_p = terms.log_p_x_given_z + tf.add_n(terms.log_p_z)
        loss = tf.reduce_sum(weights * (log_p + tf.add_n(terms.log_q_z_given_x)))
    return terms, tape.gradient(loss, model.trainable_variables)


def resampled(model, x, eps, beta, key):
    """Backpropagates through `model.num_resampled` of the samples only, drawn by their share in the gradient.

    The gradient of the bound is sum_i v_i grad log w_i with v_i = d bound / d log w_i, the normalized weights for the
    IWAE. Systematic resampling draws sample i m v_i times on average, so the mean of grad log w over the m samples
    drawn has that gradient as its expectation, given all samples. Burda et al. [1, section 3] mention m = 1. Where
    there are no more samples than m, as in the first epochs of a training perhaps, it is the standard gradient.
    """
    if eps[0].shape[0] <= model.num_resampled:
        return standard(model, x, eps, beta, key)
    terms = model.log_weight_terms(x, eps)
    batch = tf.shape(x)[0]
    shares = -tf.cast(batch, tf.float32) * _loss_derivatives(model.objective.generative)(terms.log_weights_at(beta))
    offsets = distribute.replica_share(noise.uniform([distribute.num_replicas() * batch], key), axis=0)
    chosen = systematic_resampling(shares, offsets, model.num_resampled)
    with tf.GradientTape() as tape:
        few = model.log_weight_terms(x, [_take(layer, chosen) for layer in eps])
        loss = -tf.reduce_mean(few.log_weights_at(beta))
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


def _along_paths(model, x, eps, beta, path_weights):
    """Gradients whose inference part follows the samples' paths only.

    The samples are leaves between two parts. The density part, log p(x, z) - beta-weighted log q(z | x) at given z,
    yields the generative network's gradient and d log w_i / d z_i; no weight gets a gradient through q's density. The
    sampling part carries path_weights_i d log w_i / d z_i to every weight that the sampler uses, in one
    vector-Jacobian product over all layers: z_2 depends on z_1, and that dependence has to stay alive in both parts.

    Args:
      model: see the module's head.
      x: [batch, event].
      eps: L tensors [num_samples, batch, d_l].
      beta: float scalar.
      path_weights: maps log_weights [num_samples, batch] to the loss's weights of d log w_i / d z_i.
    """
    generative, inference = model.objective.generative, model.objective.inference
    with tf.GradientTape() as sampler:
        z, _ = model.inference(x, eps)
    leaves = [tf.identity(z_l) for z_l in z]
    with tf.GradientTape(persistent=True) as of_p, tf.GradientTape() as of_q:
        of_p.watch(leaves)
        of_q.watch(leaves)
        terms = model.terms_at(x, leaves)
        log_p = terms.log_p_x_given_z + beta * tf.add_n(terms.log_p_z)
        log_q = beta * tf.add_n(terms.log_q_z_given_x)
    log_weights = log_p - log_q
    weights = _loss_derivatives(generative)(log_weights)
    along_paths = path_weights(log_weights)
    variables = model.trainable_variables
    if generative is inference:
        # One backward pass serves both: z_i touches log w_i only, so its derivative can be weighed anew afterwards.
        gradients, from_p = of_p.gradient(log_p, [variables, leaves], weights)
        from_q = of_q.gradient(log_q, leaves, weights)
        ratio = tf.math.divide_no_nan(along_paths, weights)[..., tf.newaxis]
    else:
        gradients, from_p = of_p.gradient(log_p, variables, weights), of_p.gradient(log_p, leaves, along_paths)
        from_q = of_q.gradient(log_q, leaves, along_paths)
        ratio = 1.0
    d_z = [ratio * (p - q) for p, q in zip(from_p, from_q, strict=True)]
    return terms, _add(gradients, sampler.gradient(z, variables, d_z))


def _loss_derivatives(bound):
    """Returns a function from log_weights to the derivatives of -mean_batch(bound), [num_samples, batch]."""

    def derivatives(log_weights):
        with tf.GradientTape() as tape:
            tape.watch(log_weights)
            loss = -tf.reduce_mean(bound.value(log_weights))
        return tape.gradient(loss, log_weights)

    return derivatives


def _add(some, others):
    """Adds two lists of gradients, where None stands for zero."""
    return [b if a is None else a if b is None else a + b for a, b in zip(some, others, strict=True)]


def _take(values, indices):
    """values[indices[j, b], b] for values [num_samples, batch, d] and indices [count, batch]: [count, batch, d]."""
    taken = tf.gather(tf.transpose(values, [1, 0, 2]), tf.transpose(indices), batch_dims=1, axis=1)
    return tf.transpose(taken, [1, 0, 2])


GRADIENT_ESTIMATORS = {"standard": standard, "stl": stl, "dreg": dreg, "rws": rws, "resampled": resampled}
