"""The scikit-learn estimator: scikit-learn's own checks, closed forms, missing values, model selection, copies."""

import functools
import importlib
import itertools
import pickle
import sys

import keras
import numpy as np
import pytest
import scipy.stats
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import iwae_tf
import iwae_tf.sklearn
from iwae_tf import models, supports
from iwae_tf.errors import UserError
from iwae_tf.sklearn import IWAE

SMALL = {"latent_dim": 2, "hidden_dims": (4,), "k": 3, "epochs": 2, "num_samples": 10, "random_state": 0}
TINY = {**SMALL, "hidden_dims": (), "gradient_estimator": "standard", "epochs": 1}
COLUMNS = 5
WINE = load_wine().data[:, :COLUMNS]
INCOMPLETE = np.where(np.random.default_rng(0).uniform(size=WINE.shape) < 0.2, np.nan, WINE)


@pytest.fixture
def eager_training(monkeypatch):
    """Training without compiling, which takes longer than a few steps."""
    compile_eagerly = functools.partialmethod(models.ImportanceWeightedAutoencoder.compile, run_eagerly=True)
    monkeypatch.setattr(models.ImportanceWeightedAutoencoder, "compile", compile_eagerly)


@pytest.mark.usefixtures("eager_training")
@parametrize_with_checks([IWAE(**TINY)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


class FactorAnalysis:
    """The Gaussian p(x) of an `IWAE` without hidden layers; float64 `mean` [columns] and `cov` [columns, columns]."""

    def __init__(self, iwae):
        self.mean, *rest = iwae.inverse_transform(np.eye(3, 2, -1))
        loadings = np.array(rest) - self.mean
        stddev = np.float64(iwae.model_.decode(np.zeros([1, 2])).stddev()[0])
        self.cov = loadings.T @ loadings + np.diag(stddev**2)

    def log_prob(self, row):
        """log p of what is observed in a row [columns]."""
        seen = ~np.isnan(row)
        return scipy.stats.multivariate_normal(self.mean[seen], self.cov[np.ix_(seen, seen)]).logpdf(row[seen])

    def posterior(self, row):
        """The mean and the standard deviations of what is missing in a row, given what is observed."""
        seen, lost = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
        gain = np.linalg.solve(self.cov[np.ix_(seen, seen)], self.cov[np.ix_(seen, lost)]).T
        variance = np.diag(self.cov[np.ix_(lost, lost)] - gain @ self.cov[np.ix_(seen, lost)])
        return self.mean[lost] + gain @ (row[seen] - self.mean[seen]), np.sqrt(variance)


@pytest.fixture(scope="module")
def linear():
    """An estimator with two factors, and rows that have missing values."""
    settings = {"hidden_dims": (), "k": 20, "epochs": 100, "learning_rate": 0.02, "num_samples": 1000}
    return IWAE(**{**SMALL, **settings}).fit(INCOMPLETE), INCOMPLETE[::6]


def test_log_densities_are_those_of_factor_analysis(linear):
    iwae, rows = linear
    analysis = FactorAnalysis(iwae)
    expected = np.array([analysis.log_prob(row) for row in rows])
    measured = iwae_tf.log_likelihood(iwae.model_, rows, 1000)
    stderr = np.sqrt(1.0 / measured.effective_sample_size)
    assert stderr.max() < 0.1
    assert np.all(np.abs(iwae.score_samples(rows) - expected) < 5 * stderr)
    assert np.all(np.abs(iwae.score_samples(rows) - measured.values) < 5 * np.sqrt(2.0) * stderr)
    assert iwae.score(rows) == pytest.approx(iwae.score_samples(rows).mean())
    # The factors say something: independent columns have a lower density.
    independent = scipy.stats.norm(WINE.mean(axis=0), WINE.std(axis=0)).logpdf(WINE).sum(axis=1)
    assert iwae.score(WINE) > independent.mean() + 0.1


def test_imputed_values_are_posterior_means(linear):
    iwae, rows = linear
    analysis = FactorAnalysis(iwae)
    imputed = iwae.impute(rows)
    is_missing = np.isnan(rows)
    np.testing.assert_array_equal(imputed[~is_missing], rows[~is_missing])
    effective_sample_size = iwae_tf.log_likelihood(iwae.model_, rows, 1000).effective_sample_size
    for i in np.flatnonzero(is_missing.any(axis=1)):
        mean, stddev = analysis.posterior(rows[i])
        tolerance = 5 * stddev / np.sqrt(effective_sample_size[i])
        assert np.all(np.abs(imputed[i, is_missing[i]] - mean) < tolerance)
    assert np.isfinite(iwae.impute(np.full([1, COLUMNS], np.nan))).all()


def test_results_do_not_depend_on_other_rows_or_the_sign_of_zero_and_nan(linear):
    iwae, rows = linear
    for method in (iwae.score_samples, iwae.impute, iwae.transform):
        result = method(rows)
        np.testing.assert_array_equal(method(rows[::-1])[::-1], result)
        np.testing.assert_array_equal(method(rows[7:8]), result[7:8])
    row = np.array([[0.0, 2.0, np.nan, 3.0, 4.0]])
    assert iwae.score(row) == iwae.score(np.array([[-0.0, 2.0, -np.nan, 3.0, 4.0]]))
    assert iwae.transform(np.float32(rows)).dtype == np.float32


def test_copies_give_the_same_results(linear):
    iwae, rows = linear
    copy = pickle.loads(pickle.dumps(iwae))
    for method in ("score_samples", "impute", "transform"):
        np.testing.assert_array_equal(getattr(copy, method)(rows), getattr(iwae, method)(rows))
    assert copy.history_ == iwae.history_
    assert len(copy.history_) == iwae.epochs
    assert clone(iwae).get_params() == iwae.get_params()
    with pytest.raises(NotFittedError):
        clone(iwae).score(rows)


@pytest.mark.usefixtures("eager_training")
def test_everything_random_follows_from_random_state():
    def fitted(random_state, global_seed):
        keras.utils.set_random_seed(global_seed)
        iwae = IWAE(**{**TINY, "batch_size": 90, "random_state": random_state}).fit(WINE)
        return iwae, [iwae.history_, iwae.transform(WINE), iwae.sample(3)]

    iwae, results = fitted(7, global_seed=1)
    for again, result in zip(fitted(7, global_seed=2)[1], results, strict=True):
        np.testing.assert_array_equal(again, result)
    np.testing.assert_array_equal(iwae.sample(3), results[-1])
    for other, result in zip(fitted(np.random.RandomState(7), global_seed=1)[1][:2], results[:2], strict=True):
        np.testing.assert_array_equal(other, result)
    iwae, others = fitted(8, global_seed=1)
    assert not any(np.allclose(other, result) for other, result in zip(others, results, strict=True))
    iwae.set_params(random_state=None)
    assert np.all(iwae.sample(3) != iwae.sample(3))


@pytest.mark.usefixtures("eager_training")
@pytest.mark.parametrize("likelihood", supports.LIKELIHOODS)
def test_every_likelihood_is_fitted_to_values_of_its_support(likelihood):
    support = supports.of_likelihood(likelihood)
    x = np.random.default_rng(0).uniform(0, min(support.high, 9), [11, COLUMNS])
    x = np.round(x) if support.is_integer else x
    x[2, 3], x[:, 4] = np.nan, x[0, 4]  # A missing value, and a constant.
    iwae = IWAE(likelihood, scale="sample", **TINY).fit(x)
    assert np.isfinite(iwae.history_).all()
    z = iwae.transform(x)
    assert z.shape == (11, 2)
    assert np.isfinite(z).all()
    assert iwae.inverse_transform(z).shape == x.shape
    draws = iwae.sample(100)
    assert draws.shape == (100, COLUMNS)
    assert support.low <= draws.min() <= draws.max() <= support.high
    assert not support.is_integer or np.all(draws == np.round(draws))
    assert iwae.get_feature_names_out().tolist() == ["iwae0", "iwae1"]


@pytest.mark.usefixtures("eager_training")
def test_a_constant_column_has_scale_one():
    """Also if its mean is rounded to something else."""
    x = WINE.copy()
    x[:, 2] = 0.1
    model = IWAE(**TINY).fit(x).model_
    scale = next(variable for variable in model.inference.non_trainable_variables if variable.name == "scale").numpy()
    np.testing.assert_allclose(scale, np.where(np.arange(COLUMNS) == 2, 1.0, x.std(axis=0)), rtol=1e-6)
    unchanged = IWAE(**TINY, standardize=False).fit(x / 100.0).model_
    assert all(np.all(v == 1.0) for v in unchanged.inference.non_trainable_variables if v.name == "scale")


def _with(value, row=1, column=2):
    x = np.ones([4, 3])
    x[row, column] = value
    return x


MIXED = np.array([[0.5, 1.0], [1.0, -2.0]])
EMPTY = np.where(np.arange(3) == 1, np.nan, np.ones([4, 3]))
REFUSED = [
    ({"likelihood": "poisson"}, _with(-2), "Negative values in data: X has -2 in row 1, column 2, but likelihood='po"),
    ({"likelihood": "poisson"}, MIXED, "Negative values in data: X has -2 in row 1, column 1"),
    ({"likelihood": "negative_binomial"}, _with(2.5), "X has 2.5 in row 1, column 2, .* for whole numbers from 0;"),
    ({"likelihood": "bernoulli"}, _with(2), "X has 2 in row 1, column 2, .* is for only 0 and 1;"),
    ({"likelihood": "discretized_logistic"}, _with(256), "X has 256 .* whole numbers from 0 to 255;"),
    ({}, _with(1e300), "X has 1e.300 .* numbers of a size below 3e.38;"),
    ({}, EMPTY, "Column 1 of X has no values"),
    ({"likelihood": "normal"}, WINE, "likelihood is 'normal', but must be one of bernoulli, .*gaussian"),
    ({"scale": "row"}, WINE, "scale is 'row', but must be one of feature, sample"),
    ({"hidden_dims": 64}, WINE, "hidden_dims is 64, but must be widths of layers, such as"),
    ({"hidden_dims": (4, 0)}, WINE, "hidden_dims is"),
    ({"latent_dim": 0}, WINE, "latent_dim is 0, but must be an integer, at least 1"),
    ({"k": 2.5}, WINE, "k is 2.5, but must be an integer"),
    ({"learning_rate": 0}, WINE, "learning_rate is 0, but must be a positive number"),
    ({"objective": "elbo"}, WINE, "objective is 'elbo', but must be one of"),
    ({"gradient_estimator": "score"}, WINE, "gradient_estimator is 'score', but must be one of"),
]


@pytest.mark.parametrize(("arguments", "x", "text"), REFUSED)
def test_refused_values_and_parameters(arguments, x, text):
    with pytest.raises(ValueError, match=f"^{text}") as caught:
        IWAE(**{**SMALL, **arguments}).fit(x)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("eager_training")
def test_a_diverging_training_is_refused():
    with pytest.raises(ValueError, match="^The training diverged: L_k is nan in the last epoch; use a learning_rate"):
        IWAE(**{**SMALL, "learning_rate": 1e30}).fit(WINE)


@pytest.mark.usefixtures("eager_training")
def test_refused_rows_and_codes_of_a_fitted_estimator():
    iwae = IWAE("bernoulli", **TINY).fit(np.eye(COLUMNS))
    for method in (iwae.score_samples, iwae.transform, iwae.impute):
        with pytest.raises(ValueError, match="only 0 and 1"):
            method(np.full([1, COLUMNS], 0.5))
    with pytest.raises(ValueError, match="Z has 3 columns, but must have 2"):
        iwae.inverse_transform(np.zeros([1, 3]))
    with pytest.raises(ValueError, match="n_samples is 0, but must be an integer, at least 1"):
        iwae.sample(0)


@pytest.mark.slow
@pytest.mark.usefixtures("eager_training")
def test_a_grid_search_over_a_pipeline():
    pipeline = make_pipeline(StandardScaler(), IWAE(**TINY))
    search = GridSearchCV(pipeline, {"iwae__latent_dim": np.array([1, 3])}, cv=2).fit(WINE)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.transform(WINE).shape == (len(WINE), search.best_params_["iwae__latent_dim"])
    best = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(best.transform(WINE), search.transform(WINE))


@pytest.mark.slow
def test_long_trainings_are_compiled_by_xla(monkeypatch):
    plain = IWAE(**TINY).fit(INCOMPLETE)
    monkeypatch.setattr(iwae_tf.sklearn, "_LEAST_STEPS_FOR_XLA", 2)
    compiled = IWAE(**TINY).fit(INCOMPLETE)
    assert (plain.model_.jit_compile, compiled.model_.jit_compile) == (False, True)
    np.testing.assert_allclose(compiled.history_, plain.history_, rtol=1e-5)
    np.testing.assert_allclose(compiled.transform(INCOMPLETE), plain.transform(INCOMPLETE), atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "most", "steps", "size"),
    [(178, 100, 2, 89), (10, 100, 1, 10), (100, 100, 1, 100), (101, 100, 2, 51), (10_050, 100, 110, 92)],
)
def test_batches_have_equal_sizes(rows, most, steps, size):
    assert iwae_tf.sklearn._equal_batches(rows, most) == (steps, size)


def test_each_pass_has_every_row_once_in_another_order():
    x = np.arange(30, dtype=np.float32).reshape(15, 2)
    batches = iwae_tf.sklearn._endless_batches(x, 5, seed=3)
    rows = [batch.numpy() for batch in itertools.islice(batches, 6)]
    first, second = np.concatenate(rows[:3]), np.concatenate(rows[3:])
    for one_pass in (first, second):
        np.testing.assert_array_equal(one_pass[np.argsort(one_pass[:, 0])], x)
    assert not np.array_equal(first, second)


def test_without_scikit_learn_the_module_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "iwae_tf.sklearn")
    with pytest.raises(UserError, match=r"^iwae_tf.sklearn needs .* pip install 'iwae-tf\[sklearn\]'.$"):
        importlib.import_module("iwae_tf.sklearn")
