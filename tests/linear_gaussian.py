"""A model for tests whose log p(x) and posterior are known exactly.

    z_L ~ N(0, I),  z_l | z_{l+1} ~ N(B_l z_{l+1}, t^2 I),  x | z_1 ~ N(A z_1 + b, s^2 I)

A has orthogonal columns and the B_l are rectangular diagonal matrices, so every covariance that the exact
bottom-up posterior q(z_1 | x) q(z_2 | z_1) ... needs is diagonal.
"""

import itertools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import layers, models, networks

tfd = tfp.distributions

# Every dimension has a different size, so that a test with a transposed axis fails.
EVENT, LATENT_DIMS, BATCH, NUM_SAMPLES = 7, (4, 3, 2), 5, 11
PIXEL_SCALE, LATENT_SCALE = 0.6, 0.7


class LinearGaussian(keras.layers.Layer):
    """N(inputs @ matrix + bias, diag(exp(log_scale))^2) with trainable parameters."""

    def __init__(self, matrix, bias, scale, **kwargs):
        super().__init__(**kwargs)
        matrix = np.asarray(matrix)
        self.units = matrix.shape[1]
        self.matrix = self._parameter("matrix", matrix)
        self.bias = self._parameter("bias", np.broadcast_to(bias, self.units))
        self.log_scale = self._parameter("log_scale", np.log(np.broadcast_to(scale, self.units)))

    def _parameter(self, name, value):
        return self.add_weight(shape=value.shape, initializer=keras.initializers.Constant(value), name=name)

    def call(self, inputs):
        loc = tf.tensordot(inputs, tf.convert_to_tensor(self.matrix), axes=1) + self.bias
        return layers.DiagonalNormal(loc=loc, scale_diag=tf.exp(self.log_scale))


def build(num_layers=1, widen=1.0, latent_dims=LATENT_DIMS, **kwargs):
    """Returns (model, log_p): a model whose q is the exact posterior with its scales times `widen`, and log p(x)."""
    rng = np.random.default_rng(0)
    dims = latent_dims[:num_layers]
    orthogonal, _ = np.linalg.qr(rng.normal(size=(EVENT, dims[0])))
    matrix = orthogonal * rng.uniform(0.5, 1.5, dims[0])
    bias = rng.normal(size=EVENT)
    between = [np.eye(d, above) * rng.uniform(0.5, 1.5, above) for d, above in itertools.pairwise(dims)]

    conditionals = [LinearGaussian(matrix.T, bias, PIXEL_SCALE)]
    conditionals += [LinearGaussian(b.T, 0.0, LATENT_SCALE) for b in between]
    marginals = [np.eye(dims[-1])]  # Covariances of z_L, ..., z_1.
    for b in reversed(between):
        marginals.append(b @ marginals[-1] @ b.T + LATENT_SCALE**2 * np.eye(len(b)))
    marginals.reverse()

    inference = [_posterior(matrix, bias, PIXEL_SCALE, marginals[0], widen)]
    inference += [
        _posterior(b, 0.0, LATENT_SCALE, marginal, widen) for b, marginal in zip(between, marginals[1:], strict=True)
    ]
    model = models.ImportanceWeightedAutoencoder(
        networks.BottomUpInference(inference),
        networks.GenerativeNetwork(conditionals, layers.standard_normal(dims[-1])),
        **kwargs,
    )
    model(tf.zeros([1, EVENT]))
    covariance = matrix @ marginals[0] @ matrix.T + PIXEL_SCALE**2 * np.eye(EVENT)
    marginal = tfd.MultivariateNormalTriL(bias.astype(np.float64), np.linalg.cholesky(covariance))
    return model, lambda x: marginal.log_prob(np.asarray(x, np.float64)).numpy()


def _posterior(matrix, bias, scale, prior_covariance, widen):
    """Returns the layer of p(z | y) for z ~ N(0, prior_covariance), y | z ~ N(matrix z + bias, scale^2 I)."""
    covariance = np.linalg.inv(np.linalg.inv(prior_covariance) + matrix.T @ matrix / scale**2)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-12)
    weights = matrix @ covariance / scale**2
    return LinearGaussian(weights, -bias @ weights if np.ndim(bias) else 0.0, widen * np.sqrt(np.diag(covariance)))


def data(batch=BATCH, seed=1):
    """Returns random x, float32 [batch, EVENT]."""
    return np.random.default_rng(seed).normal(size=(batch, EVENT)).astype(np.float32)


def assert_mean(samples, expected, max_t=4.5):
    """Fails if the mean of independent samples (axis 0) is further from `expected` than max_t standard errors."""
    samples = np.asarray(samples, np.float64)
    error = np.mean(samples, axis=0) - expected
    stderr = np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
    worst = np.max(np.abs(error) / np.maximum(stderr, 1e-12))
    assert worst < max_t, f"{worst:.1f} standard errors away"
