"""The importance weighted autoencoder; the VAE is one of its objectives.

A training step calls `model.gradients`, which passes the model to its estimator; the estimator calls back
`model.log_weight_terms` or `model.terms_at` for the log-weights that it differentiates.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
"""

from typing import Any

import keras
import tensorflow as tf

from iwae_tf import bounds, compatibility, estimators, execution, inputs, layers, matrix_units, noise, products
from iwae_tf.latent_variable_model import LatentVariableModel, LogWeightTerms
from iwae_tf.runtime import distribute


@keras.saving.register_keras_serializable(layers.PACKAGE)
class ImportanceWeightedAutoencoder(execution.StepwiseModel, LatentVariableModel):
    """A deep latent variable model trained on k importance samples [1].

    It is a `keras.Model`: `fit`, `evaluate`, `predict`, callbacks, `save` and `keras.saving.load_model` work as usual.
    The loss is the negative objective, so `compile` takes an optimizer, but no loss and no metrics.

    Args:
      inference: the inference network, such as `networks.BottomUpInference`: maps x and epsilon to the samples of
        every stochastic layer and their distributions.
      generative: the generative network, such as `networks.GenerativeNetwork`: maps the samples to the
        distributions of x and of every layer.
      objective: a `bounds.Objective`, or a key of `bounds.OBJECTIVES` that needs no parameters.
      gradient_estimator: "standard", "dreg", "stl", "rws" or "resampled", a key of `estimators.GRADIENT_ESTIMATORS`.
      num_samples: the number of importance samples per image, k; M * K for the objectives with an outer mean.
      num_resampled: how many of them the estimator "resampled" backpropagates through.
      beta_warmup_steps: the number of steps in which beta, the weight of the KL terms, grows from 0 to 1 (Sonderby et
        al., arXiv:1602.02282, section 2.3); all reported values have beta = 1.
      seed: seed of all random numbers in training and validation.

    Raises:
      ValueError: a name is unknown, num_samples < 1, num_resampled is not in 1 ... num_samples where it is used, or
        the objective, estimator and networks are not compatible (`compatibility.reason_against`).
    """

    objective: bounds.Objective
    gradient_estimator: str
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
        super().__init__(inference, generative, **kwargs)
        objective = bounds.objective(objective) if isinstance(objective, str) else objective
        if not isinstance(objective, bounds.Objective):
            raise ValueError(
                f"objective is {objective!r}, but must be a name, or an objective with parameters such as "
                'iwae_tf.bounds.objective("miwae", 5).'
            )
        inputs.check_integer("num_samples", num_samples, 1)
        inputs.check_integer("beta_warmup_steps", beta_warmup_steps, 0)
        inputs.check_integer("seed", seed, 0, inputs.LARGEST_SEED)
        if gradient_estimator not in estimators.GRADIENT_ESTIMATORS:
            choices = ", ".join(estimators.GRADIENT_ESTIMATORS)
            raise ValueError(f"gradient_estimator is {gradient_estimator!r}, but must be one of {choices}.")
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
        self.gradient_estimator = gradient_estimator
        self.num_samples = num_samples
        self.num_resampled = num_resampled
        self.beta_warmup_steps = beta_warmup_steps
        self.seed = seed
        self._own_metrics = _mean_metrics(len(inference.latent_dims))

    def __call__(self, x: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        # Here, as Keras adds six lines to an error of `call`.
        return super().__call__(x if keras.backend.is_keras_tensor(x) else self.checked_images(x), **kwargs)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the generative network's bound for each image of x [batch, event], in nats, [batch].

        The samples of an image depend on its pixels and the seed only. So every call, and `predict` with any batch
        size, returns the same value for the same image.
        """
        return self.objective.generative.value(self._evaluation_terms(x).log_weights)

    def _evaluation_terms(self, x):
        epsilon = self.epsilon_of_images(self.num_samples, x, noise.key(self.seed, "call"))
        return self.log_weight_terms(x, epsilon)

    def train_step(self, data: Any, num_samples: int | None = None) -> dict[str, tf.Tensor]:
        """Takes one optimizer step and returns the running means of the metrics.

        The random numbers are keyed by `optimizer.iterations`. The loss is the negative objective, weighted by the
        `sample_weight` of each image and averaged over the batch.

        Args:
          data: x [batch, event], (x,), (x, y) or (x, y, sample_weight); y is ignored.
          num_samples: see `gradients`.
        """
        x, sample_weight = self.checked(data)
        terms, gradients = self.gradients(x, num_samples, sample_weight)

        def update():
            self.optimizer.apply(gradients, self.trainable_variables)
            return self.measure(terms, sample_weight)

        return matrix_units.one_part(update)

    def gradients(
        self, x: tf.Tensor, num_samples: int | None = None, sample_weight: tf.Tensor | None = None
    ) -> tuple[LogWeightTerms, list[tf.Tensor | None]]:
        """Returns the gradients of a training step at step `optimizer.iterations`.

        Under a `tf.distribute` strategy, epsilon is drawn for the whole batch and every replica takes its share. The
        optimizer sums the gradients of the replicas.

        Args:
          x: float tensor [batch, event]; under a strategy, this replica's share of the batch.
          num_samples: the number of importance samples in this step, or None for the model's; for an objective with
            M bounds a multiple of M.
          sample_weight: the weights of the images, [batch], or None.

        Returns:
          The `LogWeightTerms` of x, and this replica's part of the gradients of the loss, in the order of
          `trainable_variables`.
        """
        step = self.optimizer.iterations
        key = noise.key(self.seed, "training", step)
        epsilon = self.draw_epsilon(num_samples or self.num_samples, distribute.num_replicas() * tf.shape(x)[0], key)
        epsilon = [distribute.replica_share(epsilon_l, axis=1) for epsilon_l in epsilon]
        estimate = estimators.GRADIENT_ESTIMATORS[self.gradient_estimator]
        beta = tf.cast(warmup(step, self.beta_warmup_steps), self.density_dtype)
        weights = self._scaled(sample_weight, x)
        with products.training():
            terms, gradients = estimate(self, x, epsilon, beta, noise.key(self.seed, "estimator", step), weights)
        if distribute.num_replicas() > 1:
            gradients = [None if gradient is None else gradient / distribute.num_replicas() for gradient in gradients]
        return terms, gradients

    def _scaled(self, sample_weight, x):
        """The weights times the factor by which the optimizer expects the loss to be scaled, if it does."""
        scale = self.optimizer.scale_loss(1.0)
        if isinstance(scale, float) and scale == 1.0:
            return sample_weight
        return scale * (tf.ones_like(x[:, 0]) if sample_weight is None else sample_weight)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Adds a batch to the running means of the metrics at beta = 1 and returns them.

        The samples of an image are always the same, see `call`.

        Args:
          data: as for `train_step`.
        """
        x, sample_weight = self.checked(data)
        return self.measure(self._evaluation_terms(x), sample_weight)

    def measure(self, terms: LogWeightTerms, sample_weight: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Adds a batch to the running means of the metrics and returns them.

        Args:
          terms: the `LogWeightTerms` of the batch.
          sample_weight: the weights of the images, [batch], or None.
        """
        rates = terms.layer_rates
        values = {
            "loss": -self.objective.generative.value(terms.log_weights),
            "iwae_bound": bounds.iwae_bound(terms.log_weights),
            "elbo": bounds.elbo(terms.log_weights),
            "distortion": -tf.reduce_mean(terms.log_p_x_given_z, axis=0),
            "rate": tf.add_n(rates),
            **{f"rate_layer_{i}": rate for i, rate in enumerate(rates, start=1)},
            "effective_sample_size": bounds.effective_sample_size(terms.log_weights),
        }
        for metric in self._own_metrics:
            metric.update_state(values[metric.name], sample_weight)
        return self.get_metrics_result()

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` builds the same networks from, with initial weights.

        Raises:
          NotImplementedError: a layer of a user's own has no `get_config`.
        """
        return {
            **super().get_config(),
            **{name: layers.serialized(getattr(self, name)) for name in ("inference", "generative")},
            "objective": [self.objective.name, *self.objective.parameters],
            "gradient_estimator": self.gradient_estimator,
            "num_samples": self.num_samples,
            "num_resampled": self.num_resampled,
            "beta_warmup_steps": self.beta_warmup_steps,
            "seed": self.seed,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "ImportanceWeightedAutoencoder":
        """The inverse of `get_config`."""
        inference, generative = (
            keras.saving.deserialize_keras_object(config[name], custom_objects) for name in ("inference", "generative")
        )
        if getattr(inference, "shares_weights", False):
            inference = inference.sharing(generative)
        own = {"inference": inference, "generative": generative, "objective": bounds.objective(*config["objective"])}
        return layers.frozen_as_configured(cls(**{**config, **own}), config)

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
        # Keras' own loss tracker is of no use without a Keras loss.
        others = [metric for metric in super().metrics if metric.name not in {own.name for own in self._own_metrics}]
        return [*self._own_metrics, *others]

    @property
    def curve_metrics(self) -> list[keras.metrics.Metric]:
        """The metrics whose curves a run records: all but the loss, which is a bound with the opposite sign."""
        return [metric for metric in self._own_metrics if metric.name != "loss"]


def _mean_metrics(num_layers):
    """The running means of `ImportanceWeightedAutoencoder.measure`."""
    rates = [f"rate_layer_{i + 1}" for i in range(num_layers)]
    names = ["loss", "iwae_bound", "elbo", "distortion", "rate", *rates, "effective_sample_size"]
    dtype = layers.density_dtype(keras.config.floatx())
    return [keras.metrics.Mean(name=name, dtype=dtype) for name in names]


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
