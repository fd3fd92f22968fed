"""A scikit-learn estimator for tables: density estimation, dimension reduction and imputation. For example::

  from iwae_tf.sklearn import IWAE

  iwae = IWAE(latent_dim=4, random_state=0).fit(X_train)
  iwae.score(X_test)      # mean log p(x) in nats
  iwae.transform(X_test)  # [n, 4]
  iwae.impute(X_test)     # NaN replaced by posterior means

It needs scikit-learn, which is an optional dependency: pip install 'iwae-tf[sklearn]'.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
[2]: Pierre-Alexandre Mattei, Jes Frellsen. MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets.
    arXiv:1812.02633.
"""

import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import importance, inputs, layers, models, networks, noise, supports
from iwae_tf.datasets import tables
from iwae_tf.errors import UserError
from iwae_tf.latent_variable_model import image_ids
from iwae_tf.layers.likelihoods import SCALES
from iwae_tf.runtime import parallel

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise UserError(
        "iwae_tf.sklearn needs scikit-learn 1.6 or later; install it with pip install 'iwae-tf[sklearn]'."
    ) from error

# Likelihoods with an argument of `IWAE`.
_STANDARDIZED = ("gaussian", "student_t")
_SCALED = (*_STANDARDIZED, "discretized_logistic", "negative_binomial")
_LARGEST = float(np.finfo(np.float32).max)
# With fewer training steps, XLA takes longer to compile than it saves.
_LEAST_STEPS_FOR_XLA = 1000
# Keras runs up to this many steps in one call, and all calls of an epoch run equally many.
_STEPS_PER_CALL = 100
# Rows that pass through one network at once.
_BATCH = 1000


class IWAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """An importance weighted autoencoder [1] with one stochastic layer z and a standard normal prior.

    NaN in X is a missing value: it has no term in the likelihood [2].

    Args:
      likelihood: p(x | z), which decides the values that X may have: "bernoulli" (0 and 1), "continuous_bernoulli"
        (0 to 1), "discretized_logistic" (0, 1, ..., 255), "gaussian" and "student_t" (numbers), "poisson" and
        "negative_binomial" (counts).
      latent_dim: the size of z.
      hidden_dims: widths of the hidden layers of q(z | x); those of p(x | z) mirror them. () is a linear model.
      k: importance samples per row in training.
      objective: a name or an object of `iwae_tf.bounds`, such as "iwae" or "vae".
      gradient_estimator: "standard", "stl", "dreg", "rws" or "resampled".
      epochs: passes over the training rows.
      batch_size: the most rows per step; the batches of an epoch are of equal size.
      learning_rate: Adam's learning rate at the start; it falls to a hundredth along a cosine.
      standardize: for "gaussian" and "student_t", whether the networks work with standardised columns. Densities and
        results are in the units of X in any case.
      scale: "feature" for a scale of each column that is the same for all rows, or "sample" for an output of the
        network; it has no effect where p(x | z) has no scale.
      num_samples: importance samples per row in `score_samples` and `impute`.
      random_state: an integer for results that can be repeated, a `numpy.random.RandomState`, or None.

    Attributes:
      model_: the trained `iwae_tf.ImportanceWeightedAutoencoder`.
      history_: the mean of L_k over the training rows in each epoch, in nats; a list.
      n_features_in_: the number of columns.
      feature_names_in_: the names of the columns, if X had names that are strings.
    """

    def __init__(
        self,
        likelihood: str = "gaussian",
        *,
        latent_dim: int = 8,
        hidden_dims: Sequence[int] = (64, 64),
        k: int = 20,
        objective: Any = "iwae",
        gradient_estimator: str = "dreg",
        epochs: int = 200,
        batch_size: int = 100,
        learning_rate: float = 3e-3,
        standardize: bool = True,
        scale: str = "feature",
        num_samples: int = 1000,
        random_state: Any = None,
    ) -> None:
        self.likelihood = likelihood
        self.latent_dim = latent_dim
        self.hidden_dims = hidden_dims
        self.k = k
        self.objective = objective
        self.gradient_estimator = gradient_estimator
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.standardize = standardize
        self.scale = scale
        self.num_samples = num_samples
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "IWAE":
        """Trains the model.

        Args:
          X: [n, columns], NaN where a value is missing.
          y: ignored.

        Returns:
          The estimator.

        Raises:
          ValueError: a parameter is wrong, the likelihood has no use for a value of X, a column has no values, or the
            training diverges.
        """
        self._check_parameters()
        x = _single(_resolved(self._checked(X, reset=True)))
        seed = self._new_seed()
        steps, batch_size = _equal_batches(len(x), self.batch_size)
        model = self._new_model(x, seed)
        rates = keras.optimizers.schedules.CosineDecay(float(self.learning_rate), self.epochs * steps, alpha=0.01)
        uses_xla = self.epochs * steps >= _LEAST_STEPS_FOR_XLA
        model.compile(keras.optimizers.Adam(rates, epsilon=1e-4), jit_compile=uses_xla)
        batches = _endless_batches(x, batch_size, seed)
        history = model.fit(batches, epochs=self.epochs, steps_per_epoch=steps, shuffle=False, verbose=0)
        bounds = [float(bound) for bound in history.history["iwae_bound"]]
        if not np.isfinite(bounds).all():
            raise ValueError(
                f"The training diverged: L_k is {bounds[-1]} in the last epoch; use a learning_rate below "
                f"{self.learning_rate}."
            )
        self.model_, self.history_, self._compiled = model, bounds, _Compiled(model)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Estimates log p(x) of each row by L_k with k = num_samples.

        Args:
          X: [n, columns]; the missing values of a row are integrated out.

        Returns:
          Nats, float64 [n].
        """
        check_is_fitted(self)
        x = _single(self._checked(X))
        ranges, key = tf.constant([[0, self.num_samples]]), noise.key(self.model_.seed, "evaluation")

        def log_likelihoods(batch):
            return self._compiled.importance_bounds(batch, image_ids(batch), ranges, key).bounds[0]

        return importance.with_infinity(_by_batch(log_likelihoods, x, importance.IMAGES_PER_CALL))

    def score(self, X: Any, y: Any = None) -> float:
        """Returns the mean of `score_samples` in nats; y is ignored."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> np.ndarray:
        """Draws rows from the model; with an integer as random_state they are the same in each call.

        Returns:
          float64 [n_samples, columns].
        """
        check_is_fitted(self)
        inputs.check_integer("n_samples", n_samples, 1)
        return self.model_.draw(int(n_samples), seed=self._new_seed()).numpy().astype(np.float64)

    def transform(self, X: Any) -> np.ndarray:
        """Returns the means of q(z | x) for X [n, columns], [n, latent_dim]."""
        check_is_fitted(self)
        X = self._checked(X)
        return _by_batch(lambda batch: self.model_.mean_path(batch)[0].mean(), _single(X), _BATCH).astype(X.dtype)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """Returns E[x | z] for Z [n, latent_dim], [n, columns]."""
        check_is_fitted(self)
        Z = check_array(Z, dtype=[np.float64, np.float32], input_name="Z")
        if Z.shape[1] != self._n_features_out:
            raise ValueError(f"Z has {Z.shape[1]} columns, but must have {self._n_features_out}, the size of z.")
        return _by_batch(lambda batch: self.model_.decode(batch).mean(), _single(Z), _BATCH).astype(Z.dtype)

    def impute(self, X: Any) -> np.ndarray:
        """Replaces missing values by their posterior means E[x_missing | x_observed], from num_samples samples [2].

        Args:
          X: [n, columns].

        Returns:
          A copy of X without NaN, [n, columns]; for counts and levels, the means are not whole numbers.
        """
        check_is_fitted(self)
        X = self._checked(X).copy()
        is_missing = np.isnan(X)
        rows = np.flatnonzero(is_missing.any(axis=1))
        if not len(rows):
            return X
        num_samples, key = tf.constant(self.num_samples), noise.key(self.model_.seed, "imputation")

        def posterior_means(batch):
            return self._compiled.posterior_means(batch, image_ids(batch), num_samples, key).x

        means = _by_batch(posterior_means, _single(X[rows]), importance.IMAGES_PER_CALL)
        X[rows] = np.where(is_missing[rows], means, X[rows])
        return X

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.positive_only = self._support.low == 0.0
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self):
        """The number of columns of `transform`, which scikit-learn names."""
        return self.model_.inference.latent_dims[0]

    @property
    def _support(self):
        return supports.of_likelihood(self.likelihood)

    def _new_seed(self):
        """An integer that follows from random_state."""
        return int(check_random_state(self.random_state).randint(inputs.LARGEST_SEED))

    def _check_parameters(self):
        """Raises a ValueError for parameters that the model's constructor would not name as they are named here."""
        for name in ("latent_dim", "k", "epochs", "batch_size", "num_samples"):
            inputs.check_integer(name, getattr(self, name), 1)
        for name, choices in (("likelihood", supports.LIKELIHOODS), ("scale", SCALES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(choices)}.")
        widths = self.hidden_dims
        is_sequence = isinstance(widths, Sequence) and not isinstance(widths, str)
        if not is_sequence or not all(isinstance(width, numbers.Integral) and width > 0 for width in widths):
            raise ValueError(f"hidden_dims is {widths!r}, but must be widths of layers, such as (64, 64).")
        rate = self.learning_rate
        if not isinstance(rate, numbers.Real) or not 0.0 < rate < math.inf:
            raise ValueError(f"learning_rate is {rate!r}, but must be a positive number, such as 0.003.")

    def _checked(self, X, reset=False):
        """Returns X as float32 or float64 [n, columns], or raises a ValueError for values that p(x | z) excludes."""
        x = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], ensure_all_finite="allow-nan")
        support = self._support
        is_low = x < max(support.low, -_LARGEST)
        is_wrong = is_low | (x > min(support.high, _LARGEST))
        if support.is_integer:
            is_wrong |= (np.rint(x) != x) & ~np.isnan(x)
        if is_wrong.any():
            row, column = np.argwhere(is_low if is_low.any() else is_wrong)[0]
            # scikit-learn wants these words where the tag `positive_only` is set.
            negative = "Negative values in data: " if is_low.any() and support.low == 0.0 else ""
            expected = support.text if support != supports.REAL else f"numbers of a size below {_LARGEST:.0e}"
            raise ValueError(
                f"{negative}X has {x[row, column]:g} in row {row}, column {column}, but likelihood={self.likelihood!r} "
                f"is for {expected}; choose another likelihood, or change the data."
            )
        return x

    def _new_model(self, x, seed):
        """Builds the model for training rows x, float32 [n, columns]."""
        moments = _moments(x)
        arguments = {"moments": moments, "missing_values": True}
        if self.likelihood in _STANDARDIZED:
            arguments["standardize"] = bool(self.standardize)
        if self.likelihood in _SCALED:
            arguments["scale"] = self.scale
        inference, generative = networks.paper_networks(
            x.shape[1],
            (int(self.latent_dim),),
            (tuple(map(int, self.hidden_dims)),),
            seed=seed,
            likelihood=functools.partial(layers.LIKELIHOODS[self.likelihood], **arguments),
            input_layer=self._preprocessing(x, moments),
        )
        return models.ImportanceWeightedAutoencoder(
            inference, generative, self.objective, self.gradient_estimator, num_samples=int(self.k), seed=seed
        )

    def _preprocessing(self, x, moments):
        """What the inference network does with x first."""
        shift, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])  # Of zeros and ones, and of numbers from 0 to 1.
        if self._support == supports.COUNTS:
            moments = _moments(np.log1p(x))
        if self._support == supports.COUNTS or (self.likelihood in _STANDARDIZED and self.standardize):
            shift, scale = moments.mean, moments.stddev
        elif self.likelihood == "discretized_logistic":
            shift = scale = np.full(x.shape[1], 0.5 * self._support.high)
        return layers.Preprocessing(shift, scale, logarithm=self._support == supports.COUNTS, missing_values=True)


class _Compiled:
    """Functions of a model that are compiled when they are first called; a copy compiles them again."""

    def __init__(self, model: models.ImportanceWeightedAutoencoder) -> None:
        self._model = model
        self.importance_bounds, self.posterior_means = (
            tf.function(functools.partial(function, model), jit_compile=model.jit_compile)
            for function in (importance.importance_bounds, importance.posterior_means)
        )

    def __reduce__(self):
        return _Compiled, (self._model,)


def _resolved(X):
    """Returns X, or raises a ValueError for a column that varies too little for single precision."""
    try:
        for column, values in enumerate(X.T.astype(np.float64)):
            tables.check_resolution(values, "X", str(column))
    except UserError as error:
        raise ValueError(str(error)) from None
    return X


def _single(X):
    """X in single precision; equal numbers have equal bits, on which the noise of a row depends."""
    x = X.astype(np.float32) + np.float32(0.0)  # -0 becomes 0.
    x[np.isnan(x)] = np.nan
    return x


def _moments(x):
    """The `layers.Moments` of what is observed in each column of x [n, columns]; constants have no variance."""
    is_empty = np.isnan(x).all(axis=0)
    if is_empty.any():
        raise ValueError(f"Column {np.argmax(is_empty)} of X has no values, only NaN; leave it out.")
    is_constant = np.nanmin(x, axis=0) == np.nanmax(x, axis=0)
    variance = np.nanvar(x, axis=0, dtype=np.float64)
    return layers.Moments(np.nanmean(x, axis=0, dtype=np.float64), np.where(is_constant, 0.0, variance))


def _equal_batches(num_rows, most):
    """Returns (steps per epoch, batch size): as few batches of equal size, at most `most`, as hold all rows.

    With one batch size, the training step is compiled once.
    """
    steps = -(-num_rows // most)
    if steps > _STEPS_PER_CALL:
        steps += -steps % 10  # A number with large divisors, so that one call runs many steps.
    return steps, -(-num_rows // steps)


def _endless_batches(x, batch_size, seed):
    """Batches of rows of x [n, columns], each pass over them in another order, which follows from the seed.

    Keras would shuffle by the global seed.
    """
    x = tf.constant(x)

    def one_pass(number):
        order = noise.permutation(len(x), noise.key(seed, "order", number))
        return tf.data.Dataset.from_tensor_slices(tf.gather(x, order))

    return tf.data.Dataset.counter(dtype=tf.int32).flat_map(one_pass).batch(batch_size, drop_remainder=True)


def _by_batch(function: Callable[[tf.Tensor], tf.Tensor], x: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns function(x) for x [n, ...], computed in batches of one size.

    The last batch is padded with copies of its last row. Thus a function is compiled once, and the result for a row
    does not depend, not even in the last digit, on how many there are.
    """

    def of_batch(start):
        batch = x[start : start + batch_size]
        padding = np.repeat(batch[-1:], batch_size - len(batch), axis=0)
        return function(tf.constant(np.concatenate([batch, padding]))).numpy()[: len(batch)]

    return np.concatenate(list(parallel.results(of_batch, range(0, len(x), batch_size))))
