"""Models whose log p(x) is known: factor analysis, its marginals for missing values, and simulated counts."""

import functools

import keras
import numpy as np
import pytest
import scipy.stats
import sklearn.datasets
import sklearn.decomposition

import iwae_tf
from iwae_tf import layers, models, networks
from iwae_tf.evaluation import imputation

RNG = np.random.default_rng(0)
EVENT, LATENT = 4, 2


def _linear_gaussian():
    """A linear Gaussian model with random weights; returns it with the mean and the covariance of x."""
    moments = layers.Moments(RNG.normal(size=EVENT), RNG.uniform(0.5, 2.0, EVENT))
    likelihood = functools.partial(layers.GaussianLikelihoodLayer, moments=moments, missing_values=True)
    input_layer = layers.Preprocessing(moments.mean, moments.stddev, missing_values=True)
    pair = networks.paper_networks(EVENT, (LATENT,), [()], likelihood=likelihood, input_layer=input_layer, seed=1)
    model = models.ImportanceWeightedAutoencoder(*pair)
    model.build((None, EVENT))
    for variable in model.inference.trainable_variables:
        variable.assign(np.zeros(variable.shape))  # q is the prior, whose weights are bounded.
    decoder = model.generative.conditionals[0]
    weights = RNG.normal(size=[LATENT, EVENT])
    decoder.loc.kernel.assign(weights)
    values = decoder(np.zeros([1, LATENT], np.float32)).distribution
    loadings = weights * moments.stddev
    covariance = loadings.T @ loadings + np.diag(np.float64(values.stddev()[0]) ** 2)
    return model, np.float64(values.mean()[0]), covariance


def test_the_likelihood_of_incomplete_rows_is_the_marginal_one():
    model, mean, covariance = _linear_gaussian()
    x = np.float32(RNG.multivariate_normal(mean, covariance, 6))
    x[1, 0] = x[2, [1, 3]] = x[3, :3] = x[4] = np.nan
    measured = iwae_tf.log_likelihood(model, x, num_samples=50_000)
    for row, value, size in zip(x, measured.values, measured.effective_sample_size, strict=True):
        seen = ~np.isnan(row)
        exact = 0.0
        if seen.any():
            exact = scipy.stats.multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).logpdf(row[seen])
        assert abs(value - exact) < 5 / np.sqrt(size) + 1e-4


def test_imputations_are_conditional_means_and_draws():
    model, mean, covariance = _linear_gaussian()
    x = np.float32(RNG.multivariate_normal(mean, covariance, 3))
    x[0, 0] = x[1, [1, 3]] = np.nan
    found = imputation.impute(model, x, num_samples=20_000, num_draws=500)
    np.testing.assert_array_equal(found.x[2], x[2])
    assert np.isnan(found.effective_sample_size[2])
    for row in range(2):
        lost, seen = np.isnan(x[row]), ~np.isnan(x[row])
        gain = covariance[np.ix_(lost, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
        exact = mean[lost] + gain @ (x[row, seen] - mean[seen])
        spread = covariance[np.ix_(lost, lost)] - gain @ covariance[np.ix_(seen, lost)]
        stddev = np.sqrt(np.diag(spread))
        assert np.all(np.abs(found.x[row, lost] - exact) < 5 * stddev / np.sqrt(found.effective_sample_size[row]))
        draws = np.float64(found.draws[:, row][:, lost])
        # Resampled draws repeat samples, so there are no more than the effective number of them.
        number = min(500.0, found.effective_sample_size[row])
        assert np.all(np.abs(draws.mean(axis=0) - exact) < 5 * stddev / np.sqrt(number))
        np.testing.assert_allclose(draws.std(axis=0), stddev, rtol=5 / np.sqrt(2 * number))


def _factor_analysis(x, latent, num_steps):
    """Trains a linear Gaussian model by full batches, without noise at the optimum; returns it."""
    moments = layers.Moments(x.mean(axis=0), x.var(axis=0))
    likelihood = functools.partial(layers.GaussianLikelihoodLayer, moments=moments)
    input_layer = layers.Preprocessing(moments.mean, moments.stddev)
    pair = networks.paper_networks(x.shape[1], (latent,), [()], likelihood=likelihood, input_layer=input_layer)
    model = models.ImportanceWeightedAutoencoder(*pair, "vae", "stl", num_samples=1)
    schedule = keras.optimizers.schedules.CosineDecay(2e-2, num_steps, alpha=1e-3)
    model.compile(keras.optimizers.Adam(schedule, epsilon=1e-8))
    steps = 500  # An epoch of a single step would spend its time outside of it.
    many = np.tile(np.float32(x), [steps, 1])
    model.fit(many, batch_size=len(x), epochs=num_steps // steps, shuffle=False, verbose=0)
    return model


def _exact_score(x, latent, noise_variance):
    """The mean log-likelihood of scikit-learn's factor analysis, in the units of x.

    Its EM algorithm needs a start near the maximum: from its own, it stops 0.9 nats below for the breast cancer table.
    """
    standardized = (x - x.mean(axis=0)) / x.std(axis=0)
    analysis = sklearn.decomposition.FactorAnalysis(
        latent, tol=1e-7, max_iter=5000, svd_method="lapack", noise_variance_init=noise_variance / x.var(axis=0)
    )
    return analysis.fit(standardized).score(standardized) - np.log(x.std(axis=0)).sum()


def _closed_form(model, x):
    """The mean log-likelihood of x under the Gaussian that a trained linear model is, and the variances of its noise.

    It is computed for standardised x: the scales of the columns differ by a factor of 10^6.
    """
    decoder = model.generative.conditionals[0]
    loadings, spread = np.float64(decoder.loc.kernel), np.float64(decoder.spread)
    values = decoder(np.zeros([1, len(loadings)], np.float32)).distribution
    noise = np.square(np.float64(values.stddev()[0]) / spread)
    mean = (np.float64(values.mean()[0]) - np.float64(decoder.shift)) / spread
    gaussian = scipy.stats.multivariate_normal(mean, loadings.T @ loadings + np.diag(noise))
    standardized = (x - np.float64(decoder.shift)) / spread
    return gaussian.logpdf(standardized).mean() - np.log(spread).sum(), noise * np.square(spread)


@pytest.mark.parametrize(
    ("load", "latent", "num_steps"),
    [
        (sklearn.datasets.load_wine, 3, 4000),
        pytest.param(sklearn.datasets.load_breast_cancer, 3, 20000, marks=pytest.mark.slow),
    ],
)
def test_a_linear_gaussian_model_is_factor_analysis(load, latent, num_steps):
    x = load().data
    model = _factor_analysis(x, latent, num_steps)
    measured = iwae_tf.log_likelihood(model, np.float32(x), 5000)
    closed_form, noise_variance = _closed_form(model, x)
    error = 5 * np.mean(1 / np.sqrt(measured.effective_sample_size)) / np.sqrt(len(x)) + 2e-3
    assert abs(measured.mean - closed_form) < error
    exact = _exact_score(x, latent, noise_variance)
    assert exact - 0.1 < measured.mean < exact + error


@pytest.mark.slow
def test_simulated_counts_have_the_nll_of_their_model():
    """Independent counts need no latent variables, so the NLL of the truth is a sum."""
    num_rows, mean, size = 4000, np.array([2.0, 10.0, 40.0]), np.array([1.0, 3.0, 8.0])
    x = RNG.negative_binomial(size, size / (size + mean), [num_rows, 3])
    moments = layers.Moments(x.mean(axis=0), x.var(axis=0))
    likelihood = functools.partial(layers.NegativeBinomialLayer, moments=moments)
    logs = np.log1p(x)
    input_layer = layers.Preprocessing(logs.mean(axis=0), logs.std(axis=0), logarithm=True)
    pair = networks.paper_networks(3, (1,), [(8,)], likelihood=likelihood, input_layer=input_layer)
    model = models.ImportanceWeightedAutoencoder(*pair, "iwae", "dreg", num_samples=5)
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(np.float32(x), batch_size=100, epochs=20, verbose=0)
    test = RNG.negative_binomial(size, size / (size + mean), [1000, 3])
    exact = scipy.stats.nbinom.logpmf(test, size, size / (size + mean)).sum(axis=1)
    difference = iwae_tf.log_likelihood(model, np.float32(test), 500).values - exact
    # No model is better than the truth but by chance; a fitted one loses about 1/2 nat a parameter over all rows.
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(len(test)) + 30 * 0.5 / num_rows
