"""Keras layers that take a tensor and return a `tfd.Distribution`: the stochastic layers.

Each is a small multilayer perceptron whose outputs are a distribution's parameters. They accept inputs with any
leading shape, such as [batch, features] or [num_samples, batch, features], and the distribution's batch shape is
that leading shape. A distribution is no tensor: call the layers eagerly or in a `tf.function`, not on `keras.Input`.

Any Keras layer can take their place if it returns a distribution over vectors and has an attribute `units`, the size
of those vectors. In an inference network the distribution must also have a `bijector` from standard normal noise to
samples, as `tfd.MultivariateNormalDiag` and other transformed normals do.
"""

import math

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class PixelBernoulli(tfd.Independent):
    """Independent Bernoullis over the last axis, for values in {0, 1}, with a faster `log_prob`.

    Args:
      logits: float tensor [..., event].
    """

    def __init__(self, logits):
        super().__init__(tfd.Bernoulli(logits=logits), reinterpreted_batch_ndims=1)

    def _log_prob(self, x):
        logits = self.distribution.logits
        return tf.reduce_sum(tf.cast(x, logits.dtype) * logits, axis=-1) - _sum_softplus(logits)


@tf.custom_gradient
def _sum_softplus(logits):
    """sum_j log(1 + exp(logits_j)) over the last axis.

    On the decoder's [num_samples, batch, event] logarithms cost as much as half of the last matrix product; here 16
    factors 1 + exp(-|logit|), each at most 2, are multiplied before one logarithm.
    """
    event = logits.shape[-1]
    group = math.gcd(event, 16)
    factors = tf.reshape(1.0 + tf.exp(-tf.abs(logits)), [*_leading(logits), group, event // group])
    logs = tf.math.log(tf.reduce_prod(factors, axis=-2))
    value = tf.reduce_sum(tf.nn.relu(logits), axis=-1) + tf.reduce_sum(logs, axis=-1)
    return value, lambda upstream: upstream[..., tf.newaxis] * tf.sigmoid(logits)


def _leading(tensor):
    """The sizes of all axes but the last, static where they are known."""
    dynamic = tf.unstack(tf.shape(tensor)[:-1], num=tensor.shape.rank - 1)
    return [size if size is not None else dynamic[i] for i, size in enumerate(tensor.shape[:-1])]


class StochasticLayer(keras.layers.Layer):
    """The hidden layers that every stochastic layer begins with.

    Args:
      units: the size of the vectors that the distribution is over.
      hidden_dims: the widths of the hidden layers.
      seed: seed of the initial weights; no two layers should share one.
      activation: of the hidden layers.
    """

    def __init__(self, units, hidden_dims, seed, activation="tanh", **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self._weight_seeds = np.random.SeedSequence(seed).generate_state(len(hidden_dims) + 2).tolist()
        self.hidden = [self._dense(width, activation=activation) for width in hidden_dims]

    def _dense(self, width, **kwargs):
        """A Dense layer with the next seed; Glorot's uniform distribution as in the paper."""
        initializer = keras.initializers.GlorotUniform(seed=self._weight_seeds.pop())
        return keras.layers.Dense(width, kernel_initializer=initializer, **kwargs)

    def _stack(self, inputs):
        for layer in self.hidden:
            inputs = layer(inputs)
        return inputs


class GaussianLayer(StochasticLayer):
    """A Gaussian with diagonal covariance; its heads are the mean and the *log standard deviation*."""

    def __init__(self, units, hidden_dims, seed, **kwargs):
        super().__init__(units, hidden_dims, seed, **kwargs)
        self.loc = self._dense(units, name="loc")
        self.log_scale = self._dense(units, name="log_scale")

    def call(self, inputs):
        """Maps [..., features] to a `tfd.MultivariateNormalDiag` over vectors of size `units`."""
        hidden = self._stack(inputs)
        return tfd.MultivariateNormalDiag(loc=self.loc(hidden), scale_diag=tf.exp(self.log_scale(hidden)))


class BernoulliLayer(StochasticLayer):
    """Independent Bernoulli pixels.

    Args:
      output_bias: initial logits of the pixels, [units]; zeros if None. `output_bias_from_mean` gives good ones.
    """

    def __init__(self, units, hidden_dims, seed, output_bias=None, **kwargs):
        super().__init__(units, hidden_dims, seed, **kwargs)
        bias = "zeros" if output_bias is None else keras.initializers.Constant(output_bias)
        self.logits = self._dense(units, bias_initializer=bias, name="logits")

    def call(self, inputs):
        """Maps [..., features] to a `PixelBernoulli` over vectors of size `units`."""
        return PixelBernoulli(self.logits(self._stack(inputs)))


def standard_normal(units):
    """The prior p(z_L): a standard normal over vectors of size `units`."""
    return tfd.MultivariateNormalDiag(loc=tf.zeros(units), scale_diag=tf.ones(units))


def output_bias_from_mean(mean_image):
    """The logits of the training images' mean, where the decoder's output bias starts.

    Args:
      mean_image: float array [event], the mean of the training split's grey values in [0, 1].

    Returns:
      Float32 array [event]: logit(clip(mean_image, 0.001, 0.999)).
    """
    mean = np.clip(np.asarray(mean_image, np.float64), 0.001, 0.999)
    return (np.log(mean) - np.log1p(-mean)).astype(np.float32)
