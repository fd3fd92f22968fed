"""Keras layers that return a `tfd.Distribution`: the Gaussians of z, and the likelihoods p(x | z_1).

Any Keras layer can take their place if it returns a distribution over vectors and has an attribute `units`, the size
of those vectors. In an inference network the distribution also needs a `bijector` that maps standard normal epsilon to
samples, as `tfd.MultivariateNormalDiag` and other transformed normal distributions have. A likelihood of one's own
should have an attribute `support`, see `supports.Support`; without it, x may be any finite numbers.
"""

from iwae_tf.layers.convolutions import Convolutions, TransposedConvolutions, check_channels
from iwae_tf.layers.likelihoods import (
    LIKELIHOODS,
    BernoulliLayer,
    ContinuousBernoulliLayer,
    DiscretizedLogisticLayer,
    GaussianLikelihoodLayer,
    LikelihoodLayer,
    Moments,
    NegativeBinomialLayer,
    PoissonLayer,
    StudentTLayer,
    output_bias_from_mean,
)
from iwae_tf.layers.preprocessing import Preprocessing
from iwae_tf.layers.stochastic import (
    DiagonalNormal,
    GaussianLayer,
    StochasticLayer,
    frozen_as_configured,
    precision_weighted,
    serialized,
    standard_normal,
)
from iwae_tf.layers.values import (
    IndependentValues,
    PixelBernoulli,
    PixelContinuousBernoulli,
    PixelLogistic,
    StablePoisson,
)
from iwae_tf.products import PACKAGE, density_dtype

__all__ = [
    "LIKELIHOODS",
    "PACKAGE",
    "BernoulliLayer",
    "ContinuousBernoulliLayer",
    "Convolutions",
    "DiagonalNormal",
    "DiscretizedLogisticLayer",
    "GaussianLayer",
    "GaussianLikelihoodLayer",
    "IndependentValues",
    "LikelihoodLayer",
    "Moments",
    "NegativeBinomialLayer",
    "PixelBernoulli",
    "PixelContinuousBernoulli",
    "PixelLogistic",
    "PoissonLayer",
    "Preprocessing",
    "StablePoisson",
    "StochasticLayer",
    "StudentTLayer",
    "TransposedConvolutions",
    "check_channels",
    "density_dtype",
    "frozen_as_configured",
    "output_bias_from_mean",
    "precision_weighted",
    "serialized",
    "standard_normal",
]
