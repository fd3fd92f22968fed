"""The importance weighted autoencoder; the VAE is one of its objectives.

A training step calls `model.gradients`, which passes the model to its estimator; the estimator calls back
`model.log_weight_terms` or `model.terms_at` for the log-weights that it differentiates.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from iwae_tf import bounds, compatibility, estimators, noise
from iwae_tf.runtime import distribute


class LogWeightTerms(NamedTuple):
    """The terms of log w = log p(x | z) + sum_l (log p(z_l | z_{l+1}) - log q(z_l | z_{l-1})), in nats.

    Attributes:
      log_p_x_given_z: [num_samples, batch].
      log_p_z: for each stochastic layer, bottom first, [num_samples, batch].
      log_q_z_given_x: for each stochastic layer, bottom first, [num_samples, batch].
    """

    log_p_x_given_z: tf.Tensor
    log_p_z: list[tf.Tensor]
    log_q_z_given_x: list[tf.Tensor]

    @property
    def log_weights(self) -> tf.Tensor:
        """log p(x, z) - log q(z | x), [num_samples, batch]."""
        return self.log_weights_at(1.0)

    def log_weights_at(self, beta: float | tf.Tensor) -> tf.Tensor:
        """log p(x | z) + beta (log p(z) - log q(z | x)), [num_samples, batch]; these are log-weights if beta is 1."""
        return self.log_p_x_given_z + beta * (tf.add_n(self.log_p_z) - tf.add_n(self.log_q_z_given_x))

    @property
    def layer_rates(self) -> list[tf.Tensor]:
        """Mean over the samples of log q - log p of each stochastic layer, in expectation its KL, L x [batch]."""
        return [tf.reduce_mean(q - p, axis=0) for q, p in zip(self.log_q_z_given_x, self.log_p_z, strict=True)]


class ImportanceWeightedAutoencoder(keras.Model):
    """A deep latent variable model trained on k importance samples [1].

    Args:
      inference: the inference network, such as `networks.BottomUpInference`: maps x and epsilon to the samples of
        every stochastic layer and their distributions.
      generative: the generative network, such as `networks.GenerativeNetwork`: maps the samples to the
        distributions of x and of every layer.
      objective: a `bounds.Objective`, or a key of `bounds.OBJECTIVES` that needs no parameters.
      gradient_estimator: a key of `estimators.GRADIENT_ESTIMATORS`.
      num_samples: the number of importance samples per image, k; M * K for the objectives with an outer mean.
      num_resampled: how many of them the estimator "resampled" backpropagates through.
      beta_warmup_steps: the number of steps in which beta, the weight of the KL terms, grows from 0 to 1 (Sonderby et
        al., arXiv:1602.02282, section 2.3); all reported values have beta = 1.
      seed: seed of all random numbers in training and validation.

    Raises:
      ValueError: a name is unknown, num_samples < 1, num_resampled is not in 1 ... num_samples where it is used, or
        the objective, estimator and networks are not compatible (`compatibility.reason_against`).
    """

    inference: keras.layers.Layer
    generative: keras.layers.Layer
    objective: bounds.Objective
    estimator: Callable[..., estimators.Estimate]
    num_samples: int
    num_resampled: int
    beta_warmup_steps: int
    seed: int

    def __init__(
        self,
        inference: keras.layers.Layer,
        generative: keras.layers.Layer,
        objective: str | bounds.Objective = "iwae",
        gradient_estimator: str = "standard",
        num_samples: int = 50,
        num_resampled: int = 1,
        beta_warmup_steps: int = 0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
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
        self._trackers = _mean_trackers(len(inference.latent_dims))

    def log_weight_terms(self, x: tf.Tensor, epsilon: Sequence[tf.Tensor], training: bool = False) -> LogWeightTerms:
        """Returns the `LogWeightTerms` of x [batch, event] at given epsilon, L tensors [num_samples, batch, d_l]."""
        z, q = self.inference(x, epsilon, training=training)
        return self._terms(x, z, q, training)

    def terms_at(self, x: tf.Tensor, z: Sequence[tf.Tensor]) -> LogWeightTerms:
        """Returns the `LogWeightTerms` of x [batch, event] at given samples, L tensors [num_samples, batch, d_l]."""
        return self._terms(x, z, self.inference.distributions(x, z), training=False)

    def _terms(self, x, z, q, training):
        p_x, *p_z = self.generative(z, training=training)
        return LogWeightTerms(
            log_p_x_given_z=p_x.log_prob(x),
            log_p_z=[p.log_prob(z_l) for p, z_l in zip(p_z, z, strict=True)],
            log_q_z_given_x=[q_l.log_prob(z_l) for q_l, z_l in zip(q, z, strict=True)],
        )

    def log_weights(self, x: tf.Tensor, num_samples: int, key: tf.Tensor) -> tf.Tensor:
        """Draws importance samples and returns their log-weights.

        Args:
          x: float tensor [batch, event], binary for Bernoulli pixels.
          num_samples: the number of importance samples per image.
          key: int32 [2], see `noise.key`.

        Returns:
          log p(x, z_i) - log q(z_i | x) in nats, [num_samples, batch].
        """
        return self.log_weight_terms(x, self.draw_epsilon(num_samples, tf.shape(x)[0], key)).log_weights

    def draw_epsilon(self, num_samples: int, batch_size: int | tf.Tensor, key: tf.Tensor) -> list[tf.Tensor]:
        """Returns the epsilon that the inference network needs: for each layer, [num_samples, batch_size, d_l]."""
        return [
            noise.normal([num_samples, batch_size, units], noise.fold_in(key, layer))
            for layer, units in enumerate(self.inference.latent_dims)
        ]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the generative network's bound for each image of x [batch, event], in nats, [batch].

        Every call draws the same samples.
        """
        return self.objective.generative.value(self.log_weights(x, self.num_samples, noise.key(self.seed, "call")))

    def sample(self, num_images: int | tf.Tensor, key: tf.Tensor) -> tfd.Distribution:
        """Returns the distribution of the pixels given z drawn from the prior, batch shape [num_images]."""
        return self.generative.sample([epsilon_l[0] for epsilon_l in self.draw_epsilon(1, num_images, key)])

    def reconstruct(self, x: tf.Tensor, key: tf.Tensor) -> tfd.Distribution:
        """Returns the distribution of the pixels given one sample of q(z | x) for each image of x [batch, event]."""
        z, _ = self.inference(x, self.draw_epsilon(1, tf.shape(x)[0], key))
        return self.generative.decode(z[0][0])

    def refuse_grey(self, x: tf.Tensor | np.ndarray | None) -> None:
        """Raises a ValueError if p(x | z) is Bernoulli and an image of x [..., event] has other values than 0 and 1."""
        if x is None or not getattr(self.generative.conditionals[0], "has_binary_events", False):
            return
        if not np.all(np.isin(x, (0.0, 1.0))):
            raise ValueError(
                f"The images have grey pixels (from {np.min(x):.3g} to {np.max(x):.3g}), but p(x | z) is Bernoulli; "
                "binarise them, for example with iwae_tf.datasets.binarization.binarize."
            )

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """`keras.Model.fit`, with a check that the images are binary where p(x | z) is Bernoulli.

        Raises:
          ValueError: the array, or the first batch of the `tf.data.Dataset`, has values other than zeros and ones.
        """
        self.refuse_grey(_first_images(x))
        return super().fit(x, *args, **kwargs)

    def train_step(self, x: tf.Tensor, num_samples: int | None = None) -> dict[str, tf.Tensor]:
        """Takes one optimizer step on x [batch, event] and returns the running means of the metrics.

        The random numbers are keyed by `optimizer.iterations`. For num_samples see `gradients`.
        """
        terms, gradients = self.gradients(x, num_samples)
        self.optimizer.apply(gradients, self.trainable_variables)
        return self._measure(terms)

    def gradients(self, x: tf.Tensor, num_samples: int | None = None) -> tuple[LogWeightTerms, list[tf.Tensor | None]]:
        """Returns the gradients of a training step at step `optimizer.iterations`.

        Under a `tf.distribute` strategy, epsilon is drawn for the whole batch and every replica takes its share. The
        optimizer sums the gradients of the replicas.

        Args:
          x: float tensor [batch, event]; under a strategy, this replica's share of the batch.
          num_samples: the number of importance samples in this step, or None for the model's; for an objective with
            M bounds a multiple of M.

        Returns:
          The `LogWeightTerms` of x, and this replica's part of the gradients of the loss, in the order of
          `trainable_variables`.
        """
        step = self.optimizer.iterations
        key = noise.key(self.seed, "training", step)
        epsilon = self.draw_epsilon(num_samples or self.num_samples, distribute.num_replicas() * tf.shape(x)[0], key)
        epsilon = [distribute.replica_share(epsilon_l, axis=1) for epsilon_l in epsilon]
        beta = warmup(step, self.beta_warmup_steps)
        terms, gradients = self.estimator(self, x, epsilon, beta, noise.key(self.seed, "estimator", step))
        if distribute.num_replicas() > 1:
            gradients = [None if gradient is None else gradient / distribute.num_replicas() for gradient in gradients]
        return terms, gradients

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Updates the metrics with x [batch, event]; data is (x, index), and the index keys the random numbers."""
        x, index = data
        key = noise.key(self.seed, "validation", index)
        return self._measure(self.log_weight_terms(x, self.draw_epsilon(self.num_samples, tf.shape(x)[0], key)))

    @property
    def num_steps(self) -> int:
        """The number of training steps so far."""
        return int(self.optimizer.iterations.numpy())

    @property
    def variables_of_networks(self) -> list[keras.Variable]:
        """All variables of both networks, trainable or not, in a fixed order."""
        return self.inference.variables + self.generative.variables

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self._trackers.values())

    def _measure(self, terms):
        """Adds one batch to the running means and returns them."""
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


def _mean_trackers(num_layers):
    """Name -> running mean, in the order of `ImportanceWeightedAutoencoder._measure`."""
    rates = [f"rate_layer_{i + 1}" for i in range(num_layers)]
    names = ["iwae_bound", "elbo", "distortion", "rate", *rates, "effective_sample_size"]
    return {name: keras.metrics.Mean(name=name) for name in names}


def _first_images(x):
    """The first images that `fit` sees, or None where they are not available beforehand."""
    if isinstance(x, tf.data.Dataset):
        is_images = isinstance(x.element_spec, tf.TensorSpec) and x.element_spec.dtype.is_floating
        return next(iter(x.take(1)), None) if is_images else None
    return x if isinstance(x, np.ndarray) or tf.is_tensor(x) else None


def _has_batch_norm(model):
    return any(isinstance(layer, keras.layers.BatchNormalization) for layer in model._flatten_layers())


def warmup(step: tf.Tensor, num_steps: int) -> tf.Tensor:
    """Returns beta, the weight of the KL terms: it grows linearly from 0 at step 0 to 1 at step `num_steps`.

    Args:
      step: the number of finished steps, an integer tensor.
      num_steps: the length of the warm-up; 0 for no warm-up.

    Returns:
      Float32, of the shape of step.
    """
    return tf.minimum(tf.cast(step, tf.float32) / num_steps, 1.0) if num_steps else tf.constant(1.0)
