"""A model p(x, z) with an inference network q(z | x): log-weights, encodings, samples and log-likelihoods.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from iwae_tf import importance, inputs, layers, noise, supports


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
        beta = tf.cast(beta, self.log_p_x_given_z.dtype)
        return self.log_p_x_given_z + beta * (tf.add_n(self.log_p_z) - tf.add_n(self.log_q_z_given_x))

    @property
    def layer_rates(self) -> list[tf.Tensor]:
        """Mean over the samples of log q - log p of each stochastic layer, in expectation its KL, L x [batch]."""
        return [tf.reduce_mean(q - p, axis=0) for q, p in zip(self.log_q_z_given_x, self.log_p_z, strict=True)]


class Encoding(NamedTuple):
    """What an inference network says of images; L tensors each, bottom layer first.

    Attributes:
      means: the mean of q(z_l | x), [batch, d_l]. With several layers it is exact for the layer that depends on x
        alone, and for the others a mean over the samples.
      stddevs: its standard deviation, [batch, d_l].
      samples: samples of q(z_l | x), [num_samples, batch, d_l].
    """

    means: list[tf.Tensor]
    stddevs: list[tf.Tensor]
    samples: list[tf.Tensor]


class LatentVariableModel(keras.Model):
    """A generative network with an inference network.

    Args:
      inference: the inference network, such as `networks.BottomUpInference`.
      generative: the generative network, such as `networks.GenerativeNetwork`.
      **kwargs: arguments of `keras.Model`.

    Raises:
      ValueError: a network is not a Keras layer.
    """

    inference: keras.layers.Layer
    generative: keras.layers.Layer

    def __init__(self, inference: keras.layers.Layer, generative: keras.layers.Layer, **kwargs: Any) -> None:
        # Under a mixed precision policy, only the layers inside the networks may round.
        super().__init__(**{"autocast": False, **kwargs})
        for name, network in (("inference", inference), ("generative", generative)):
            _check_network(name, network)
        self.inference = inference
        self.generative = generative

    @property
    def event_size(self) -> int:
        """The number of values in an image."""
        return self.generative.event_size

    @property
    def density_dtype(self) -> str:
        """The type of log-densities and bounds: that of the variables, at least float32."""
        return layers.density_dtype(self.variable_dtype)

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the variables of both networks; `compile` and the first call do this, too.

        Args:
          input_shape: (None, event) or (batch, event).

        Raises:
          ValueError: the images have another shape, the networks use variables that Keras does not track and so would
            not train, or a distribution is in half precision.
        """
        if not tf.TensorShape(input_shape).is_compatible_with([None, self.event_size]):
            raise ValueError(f"input_shape is {input_shape}, but must be (None, {self.event_size}).")
        if self.built:
            return
        with tf.init_scope():
            self._distributions_of_zeros()
        with tf.GradientTape() as tape:
            distributions = self._distributions_of_zeros()
        self._check_variables(tape.watched_variables())
        self._check_distributions(*distributions)
        if self.losses:
            raise ValueError(
                "A layer has a regularizer or calls add_loss, which the objective does not contain; remove it, or use "
                "an optimizer with weight_decay."
            )

    def _distributions_of_zeros(self):
        x = tf.zeros([1, self.event_size], self.density_dtype)
        z, q = self.inference(x, self.draw_epsilon(1, 1, noise.key(0, "build")))
        return q, self.generative(z)

    def _check_distributions(self, q, p):
        """Raises a ValueError if p(x | z_1), p(z_1 | z_2), ... do not belong to q(z_1 | ...), ..., or are imprecise."""
        sizes, expected = ([d.event_shape[-1] for d in each] for each in (p, [p[0], *q]))
        if sizes != [self.event_size, *expected[1:]]:
            raise ValueError(
                f"The inference network has layers of {expected[1:]} units, but the generative network has "
                f"distributions of {sizes[1:]} latent units and {sizes[0]} values of x; build both for the same sizes."
            )
        for distribution in (*q, *p):
            if distribution.dtype in (tf.float16, tf.bfloat16):
                raise ValueError(
                    f"{distribution.name} is a distribution in {distribution.dtype.name}; cast its parameters to "
                    "float32, as log-densities need that precision."
                )

    def _check_variables(self, used):
        """Raises a ValueError if the networks use trainable variables that are not the model's."""
        known = {variable.value.ref() for variable in self.variables if hasattr(variable.value, "ref")}
        untracked = [variable for variable in used if variable.ref() not in known]
        if untracked and not tf.distribute.has_strategy():
            raise ValueError(
                f"The networks use the variable {untracked[0].name}, which Keras does not track and would not train; "
                "let a keras.layers.Layer own it, created with Keras 3 (not tf_keras, tfp.layers or a plain function)."
            )

    def checked(self, data: Any) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns the images [batch, event] and their weights [batch] or None in `data`; see `inputs.checked`."""
        return inputs.checked(data, self.event_size, self.support, self.missing_values, self.density_dtype)

    def checked_images(self, x: Any) -> tf.Tensor:
        """Returns x as a tensor [batch, event]; see `inputs.checked_images`."""
        return inputs.checked_images(x, self.event_size, self.support, self.missing_values, self.density_dtype)

    @property
    def support(self) -> supports.Support:
        """The values that x may have."""
        return getattr(self.generative.conditionals[0], "support", supports.REAL)

    @property
    def missing_values(self) -> bool:
        """Whether values of x may be missing, as NaN."""
        return getattr(self.generative.conditionals[0], "missing_values", False)

    def log_weight_terms(self, x: tf.Tensor, epsilon: Sequence[tf.Tensor], training: bool = False) -> LogWeightTerms:
        """Returns the `LogWeightTerms` of x [batch, event] at given epsilon, L tensors [num_samples, batch, d_l]."""
        z, q = self.inference(x, epsilon, training=training)
        return self._terms(x, z, q, training)

    def terms_at(self, x: tf.Tensor, z: Sequence[tf.Tensor]) -> LogWeightTerms:
        """Returns the `LogWeightTerms` of x [batch, event] at given samples, L tensors [num_samples, batch, d_l]."""
        return self._terms(x, z, self.inference.distributions(x, z), training=False)

    def _terms(self, x, z, q, training):
        p_x, *p_z = self.generative(z, training=training)

        def log_prob(distribution, value):
            # Only distributions of a user's own layers may have different types.
            return tf.cast(distribution.log_prob(tf.cast(value, distribution.dtype)), self.density_dtype)

        return LogWeightTerms(
            log_p_x_given_z=log_prob(p_x, x),
            log_p_z=[log_prob(p, z_l) for p, z_l in zip(p_z, z, strict=True)],
            log_q_z_given_x=[log_prob(q_l, z_l) for q_l, z_l in zip(q, z, strict=True)],
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

    def epsilon_of_images(self, num_samples: int, x: tf.Tensor, key: tf.Tensor) -> list[tf.Tensor]:
        """Returns epsilon as `draw_epsilon` does, but that of an image depends on its pixels, not on its batch.

        Args:
          num_samples: the number of samples per image.
          x: float tensor [batch, event].
          key: int32 [2], see `noise.key`.
        """
        epsilon = tf.map_fn(
            lambda image: [
                epsilon_l[:, 0] for epsilon_l in self.draw_epsilon(num_samples, 1, noise.fold_in(key, image))
            ],
            image_ids(x),
            fn_output_signature=[
                tf.TensorSpec([num_samples, units], tf.float32) for units in self.inference.latent_dims
            ],
        )
        return [tf.transpose(epsilon_l, [1, 0, 2]) for epsilon_l in epsilon]

    def encode(self, x: tf.Tensor, num_samples: int = 1, seed: int = 0) -> Encoding:
        """Returns the mean, the standard deviation and samples of q(z_l | x) of every layer.

        Args:
          x: [batch, event].
          num_samples: samples per image.
          seed: seed of the samples.

        Returns:
          An `Encoding`.
        """
        x = self.checked_images(x)
        inputs.check_integer("num_samples", num_samples, 1)
        inputs.check_integer("seed", seed, 0, inputs.LARGEST_SEED)
        z, q = self.inference(x, self.draw_epsilon(num_samples, tf.shape(x)[0], noise.key(seed, "encodings")))
        means = [tf.broadcast_to(q_l.mean(), tf.shape(z_l)) for q_l, z_l in zip(q, z, strict=True)]
        variances = [tf.square(tf.broadcast_to(q_l.stddev(), tf.shape(z_l))) for q_l, z_l in zip(q, z, strict=True)]
        # The law of total variance: a layer above others has one Gaussian for each sample of those.
        stddevs = [
            tf.sqrt(tf.reduce_mean(variance, axis=0) + tf.math.reduce_variance(mean, axis=0))
            for mean, variance in zip(means, variances, strict=True)
        ]
        return Encoding([tf.reduce_mean(mean, axis=0) for mean in means], stddevs, z)

    def decode(self, z: tf.Tensor) -> tfd.Distribution:
        """Returns p(x | z_1) for samples z_1 [..., d_1] of the bottom layer; its `mean()` is pictures [..., event]."""
        if isinstance(z, (list, tuple)) and z and hasattr(z[0], "shape"):
            raise ValueError("z is the samples of several layers, but must be those of the bottom layer, z[0].")
        z = tf.cast(z, self.density_dtype)
        if not z.shape.rank or z.shape[-1] != self.inference.latent_dims[0]:
            raise ValueError(f"z has shape {tuple(z.shape)}, but must be [..., {self.inference.latent_dims[0]}].")
        return self.generative.decode(z)

    def sample(self, num_images: int, seed: int = 0) -> tf.Tensor:
        """Returns the pixel means of images that are drawn from the prior, [num_images, event]."""
        inputs.check_integer("num_images", num_images, 1)
        inputs.check_integer("seed", seed, 0, inputs.LARGEST_SEED)
        return self.sampled(num_images, noise.key(seed, "samples")).mean()

    def draw(self, num_rows: int, seed: int = 0) -> tf.Tensor:
        """Returns x drawn from the model, [num_rows, event]: unlike `sample`, with the noise of p(x | z)."""
        inputs.check_integer("num_rows", num_rows, 1)
        inputs.check_integer("seed", seed, 0, inputs.LARGEST_SEED)
        return self.drawn(num_rows, noise.key(seed, "draws"))

    def drawn(self, num_rows: int | tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """Returns x drawn from the model, [num_rows, event]."""
        x = self.sampled(num_rows, noise.fold_in(key, 0)).sample(seed=noise.fold_in(key, 1))
        return tf.cast(x, self.density_dtype)

    def sampled(self, num_images: int | tf.Tensor, key: tf.Tensor) -> tfd.Distribution:
        """Returns the distribution of the pixels given z drawn from the prior, batch shape [num_images]."""
        return self.generative.sample([epsilon_l[0] for epsilon_l in self.draw_epsilon(1, num_images, key)])

    def reconstruct(self, x: tf.Tensor, seed: int = 0) -> tf.Tensor:
        """Returns the pixel means given one sample of q(z | x) for each image of x [batch, event], [batch, event]."""
        x = self.checked_images(x)
        inputs.check_integer("seed", seed, 0, inputs.LARGEST_SEED)
        return self.reconstructed(x, noise.key(seed, "reconstructions")).mean()

    def reconstructed(self, x: tf.Tensor, key: tf.Tensor) -> tfd.Distribution:
        """Returns the distribution of the pixels given one sample of q(z | x) for each image of x [batch, event]."""
        z, _ = self.inference(x, self.draw_epsilon(1, tf.shape(x)[0], key))
        return self.generative.decode(z[0][0])

    def mean_path(self, x: tf.Tensor) -> list[tfd.Distribution]:
        """Returns q of every layer with each sample replaced by its mean: no random numbers; [batch, d_l] each."""
        batch = tf.shape(x)[0]
        _, q = self.inference(x, [tf.zeros([1, batch, units]) for units in self.inference.latent_dims])
        return q

    def interpolate(self, x1: tf.Tensor, x2: tf.Tensor, steps: int = 10) -> tf.Tensor:
        """Returns pictures on the straight line between the posterior means of z_1 of two images.

        Args:
          x1: the first images, [batch, event], or one image, [event].
          x2: the last images, of the same shape.
          steps: the number of pictures, at least 2, with those of x1 and x2.

        Returns:
          Pixel means, [steps, batch, event] or [steps, event].
        """
        inputs.check_integer("steps", steps, 2)
        x1, x2 = tf.convert_to_tensor(x1), tf.convert_to_tensor(x2)
        if x1.shape != x2.shape:
            raise ValueError(f"x1 has shape {tuple(x1.shape)} and x2 {tuple(x2.shape)}, but they must have the same.")
        if x1.shape.rank == 1:
            return self.interpolate(x1[tf.newaxis], x2[tf.newaxis], steps)[:, 0]
        first, last = (self.mean_path(self.checked_images(x))[0].mean() for x in (x1, x2))
        shape = tf.concat([tf.shape(x1)[:1], first.shape[-1:]], axis=0)
        share = tf.reshape(tf.cast(tf.linspace(0.0, 1.0, steps), first.dtype), [-1, 1, 1])
        z = (1.0 - share) * tf.reshape(first, shape) + share * tf.reshape(last, shape)
        return self.decode(z).mean()

    def log_likelihood(self, x: Any, num_samples: int = 5000, seed: int = 0) -> importance.LogLikelihood:
        """Estimates log p(x) of each image; see `iwae_tf.log_likelihood`."""
        inputs.check_integer("num_samples", num_samples, 1)
        inputs.check_integer("seed", seed, 0, inputs.LARGEST_SEED)
        x = self.checked_images(x)
        if not len(x):
            raise ValueError(f"x has shape {tuple(x.shape)}, but must have at least one image.")
        return importance.log_likelihood(self._importance_bounds, x.numpy(), num_samples, seed)

    @functools.cached_property
    def _importance_bounds(self):
        """`importance.importance_bounds`, which takes seconds to compile."""
        return tf.function(functools.partial(importance.importance_bounds, self), jit_compile=self.jit_compile)


def _check_network(name, network):
    if not isinstance(network, keras.layers.Layer):
        raise ValueError(
            f"{name} is {network!r}, but must be a keras.layers.Layer of Keras 3, as Keras trains and saves only the "
            "variables of its own layers."
        )


def image_ids(x: tf.Tensor) -> tf.Tensor:
    """Returns an integer for each image of x [batch, event] that depends on its pixels only, int32 [batch]."""
    bits = tf.bitcast(tf.cast(x, tf.float32), tf.int32)
    # The bits of 0.0 and 1.0 differ only in the exponent; folded down, they make odd numbers, so no bit is lost.
    bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, 23))
    multipliers = np.random.default_rng(0).integers(-(2**31), 2**31, x.shape[1]) | 1
    return tf.reduce_sum(bits * tf.constant(multipliers, tf.int32), axis=1)
