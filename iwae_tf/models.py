"""The importance weighted autoencoder; the VAE is one of its objectives.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
"""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import bounds, compatibility, estimators, noise
from iwae_tf.runtime import distribute


class LogWeightTerms(NamedTuple):
    """The terms of log w = log p(x | z) + sum_l log p(z_l | z_{l+1}) - log q(z_l | z_{l-1}), in nats.

    Attributes:
      log_p_x_given_z: [num_samples, batch].
      log_p_z: for each stochastic layer, bottom first, [num_samples, batch].
      log_q_z_given_x: for each stochastic layer, bottom first, [num_samples, batch].
    """

    log_p_x_given_z: tf.Tensor
    log_p_z: list
    log_q_z_given_x: list

    @property
    def log_weights(self):
        """log p(x, z) - log q(z | x), [num_samples, batch]."""
        return self.log_weights_at(1.0)

    def log_weights_at(self, beta):
        """log p(x | z) + beta (log p(z) - log q(z | x)), [num_samples, batch]: no weights unless beta is 1."""
        return self.log_p_x_given_z + beta * (tf.add_n(self.log_p_z) - tf.add_n(self.log_q_z_given_x))

    @property
    def layer_rates(self):
        """log q - log p of each stochastic layer averaged over the samples: its KL in expectation, L x [batch]."""
        return [tf.reduce_mean(q - p, axis=0) for q, p in zip(self.log_q_z_given_x, self.log_p_z, strict=True)]


class ImportanceWeightedAutoencoder(keras.Model):
    """A deep latent variable model trained on k importance samples [1].

    Args:
      inference: the inference network, such as `networks.BottomUpInference`: maps x and noise to the samples of
        every stochastic layer and their distributions.
      generative: the generative network, such as `networks.GenerativeNetwork`: maps the samples to the
        distributions of x and of every layer.
      objective: a `bounds.Objective`, or a name from `bounds.OBJECTIVES` that needs no parameters.
      gradient_estimator: a name from `estimators.GRADIENT_ESTIMATORS`.
      num_samples: the number of importance samples per image, k; M * K for the objectives with an outer mean.
      num_resampled: how many of them the estimator "resampled" backpropagates through.
      beta_warmup_steps: steps in which the KL terms' weight beta grows from 0 to 1 (Sonderby et al.,
        arXiv:1602.02282, section 2.3); what is measured always has beta = 1.
      seed: seed of all noise in training and validation.

    Raises:
      ValueError: unknown names, num_samples < 1, num_resampled not in 1 ... num_samples where it is used, or an
        objective, an estimator and networks that do not go together (`compatibility.reason_against`).
    """

    def __init__(
        self,
        inference,
        generative,
        objective="iwae",
        gradient_estimator="standard",
        num_samples=50,
        num_resampled=1,
        beta_warmup_steps=0,
        seed=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        objective = bounds.objective(objective) if isinstance(objective, str) else objective
        if gradient_estimator not in estimators.GRADIENT_ESTIMATORS:
            choices = ", ".join(estimators.GRADIENT_ESTIMATORS)
            raise ValueError(f"gradient_estimator is {gradient_estimator!r}, but must be one of {choices}.")
        self.inference = inference
        self.generative = generative
        reason = compatibility.reason_against(
            objective.name,
            gradient_estimator,
            parameters=objective.parameters,
            num_samples=num_samples,
            num_resampled=num_resampled,
            shares_weights=getattr(inference, "shares_weights", False),
            batch_norm=_has_batch_norm(self),
            beta_warmup=beta_warmup_steps > 0,
        )
        if reason:
            raise ValueError(reason)
        self.objective = objective
        self.estimator = estimators.GRADIENT_ESTIMATORS[gradient_estimator]
        self.num_samples = num_samples
        self.num_resampled = num_resampled
        self.beta_warmup_steps = beta_warmup_steps
        self.seed = seed
        rates = [f"rate_layer_{i + 1}" for i in range(len(inference.latent_dims))]
        names = ["iwae_bound", "elbo", "distortion", "rate", *rates, "effective_sample_size"]
        self._trackers = {name: keras.metrics.Mean(name=name) for name in names}

    def log_weight_terms(self, x, noise, training=False):
        """Returns the `LogWeightTerms` of x [batch, event] for given noise (L tensors [num_samples, batch, d_l])."""
        z, q = self.inference(x, noise, training=training)
        return self._terms(x, z, q, training)

    def terms_at(self, x, z):
        """Returns the `LogWeightTerms` of x [batch, event] at given samples (L tensors [num_samples, batch, d_l])."""
        return self._terms(x, z, self.inference.distributions(x, z), training=False)

    def _terms(self, x, z, q, training):
        p_x, *p_z = self.generative(z, training=training)
        return LogWeightTerms(
            log_p_x_given_z=p_x.log_prob(x),
            log_p_z=[p.log_prob(z_l) for p, z_l in zip(p_z, z, strict=True)],
            log_q_z_given_x=[q_l.log_prob(z_l) for q_l, z_l in zip(q, z, strict=True)],
        )

    def log_weights(self, x, num_samples, key):
        """Draws importance samples and returns their log-weights.

        Args:
          x: float tensor [batch, event], binary for Bernoulli pixels.
          num_samples: importance samples per image.
          key: int32 [2], see `noise.key`.

        Returns:
          log p(x, z_i) - log q(z_i | x) in nats, [num_samples, batch].
        """
        return self.log_weight_terms(x, self.draw_noise(num_samples, tf.shape(x)[0], key)).log_weights

    def draw_noise(self, num_samples, batch_size, key):
        """Returns the noise that the inference network needs: for each layer, [num_samples, batch_size, d_l]."""
        return [
            noise.normal([num_samples, batch_size, units], noise.fold_in(key, layer))
            for layer, units in enumerate(self.inference.latent_dims)
        ]

    def call(self, x):
        """Returns the generative network's objective for each image of x [batch, event], in nats, [batch].

        The noise is always the same.
        """
        return self.objective.generative.value(self.log_weights(x, self.num_samples, noise.key(self.seed, "call")))

    def sample(self, num_images, key):
        """Returns the pixels' distribution of images drawn from the prior, batch shape [num_images]."""
        return self.generative.sample([eps[0] for eps in self.draw_noise(1, num_images, key)])

    def reconstruct(self, x, key):
        """Returns the pixels' distribution given one sample of q(z | x) for each image of x [batch, event]."""
        z, _ = self.inference(x, self.draw_noise(1, tf.shape(x)[0], key))
        return self.generative.decode(z[0][0])

    def fit(self, x=None, *args, **kwargs):
        """`keras.Model.fit`, which refuses grey pixels where p(x | z) is Bernoulli.

        Raises:
          ValueError: the first batch (of a `tf.data.Dataset` or an array) has other values than zeros and ones.
        """
        if getattr(self.generative.conditionals[0], "has_binary_events", False):
            _refuse_grey(_first_images(x))
        return super().fit(x, *args, **kwargs)

    def train_step(self, x, num_samples=None):
        """One step of the optimizer on x [batch, event]; its noise is that of step `optimizer.iterations`."""
        terms, gradients = self.gradients(x, num_samples)
        self.optimizer.apply(gradients, self.trainable_variables)
        return self._measure(terms)

    def gradients(self, x, num_samples=None):
        """What a training step on x [batch, event] descends, at step `optimizer.iterations`.

        `num_samples` is that of the step, if it is not the model's; for an objective with M bounds a multiple of M.
        Under a `tf.distribute` strategy x is this replica's share of the batch, and so is the noise: that of the
        whole batch, of which the replica takes its part. The optimizer adds the replicas' gradients up.

        Returns:
          The `LogWeightTerms` of x, and this replica's part of the loss's gradients, in the order of
          `trainable_variables`.
        """
        step = self.optimizer.iterations
        key = noise.key(self.seed, "training", step)
        eps = self.draw_noise(num_samples or self.num_samples, distribute.num_replicas() * tf.shape(x)[0], key)
        eps = [distribute.replica_share(layer, axis=1) for layer in eps]
        beta = warmup(step, self.beta_warmup_steps)
        terms, gradients = self.estimator(self, x, eps, beta, noise.key(self.seed, "estimator", step))
        if distribute.num_replicas() > 1:
            gradients = [None if gradient is None else gradient / distribute.num_replicas() for gradient in gradients]
        return terms, gradients

    def test_step(self, data):
        """Measures x [batch, event]; data is (x, batch index), the index telling which fixed noise it gets."""
        x, index = data
        key = noise.key(self.seed, "validation", index)
        return self._measure(self.log_weight_terms(x, self.draw_noise(self.num_samples, tf.shape(x)[0], key)))

    @property
    def num_steps(self):
        """Training steps so far, an integer."""
        return int(self.optimizer.iterations.numpy())

    @property
    def variables_of_networks(self):
        """All variables of both networks, trainable or not, in a fixed order."""
        return self.inference.variables + self.generative.variables

    @property
    def metrics(self):
        return list(self._trackers.values())

    def _measure(self, terms):
        """Adds one batch to the running means, and returns them."""
        rates = terms.layer_rates
        values = [
            bounds.iwae_bound(terms.log_weights),
            bounds.elbo(terms.log_weights),
            -tf.reduce_mean(terms.log_p_x_given_z, axis=0),
            tf.add_n(rates),
            *rates,
            bounds.effective_sample_size(terms.log_weights),
        ]
        for tracker, value in zip(self.metrics, values, strict=True):
            tracker.update_state(value)
        return self.get_metrics_result()


def _first_images(x):
    """The images that `fit` begins with, or None where they cannot be seen beforehand."""
    if isinstance(x, tf.data.Dataset):
        is_images = isinstance(x.element_spec, tf.TensorSpec) and x.element_spec.dtype.is_floating
        return next(iter(x.take(1)), None) if is_images else None
    return x if isinstance(x, np.ndarray) or tf.is_tensor(x) else None


def _refuse_grey(x):
    """Raises a ValueError for images that are not binary."""
    if x is not None and not np.all(np.isin(x, (0.0, 1.0))):
        raise ValueError(
            f"The images have grey pixels (from {np.min(x):.3g} to {np.max(x):.3g}), to which Bernoulli pixels give "
            "no likelihood: binarise them, for example with iwae_tf.binarization.binarize."
        )


def _has_batch_norm(model):
    return any(isinstance(layer, keras.layers.BatchNormalization) for layer in model._flatten_layers())


def warmup(step, num_steps):
    """The KL terms' weight beta: from 0 at step 0 linearly to 1 at step `num_steps`, and 1 from then on.

    Args:
      step: finished steps, an integer tensor.
      num_steps: how long the warm-up is; 0 for none.

    Returns:
      Float32, of step's shape.
    """
    return tf.minimum(tf.cast(step, tf.float32) / num_steps, 1.0) if num_steps else tf.constant(1.0)
