"""A small model under a dtype policy, and the errors of its gradients."""

import numpy as np

import iwae_tf

PIXELS, BATCH, SAMPLES = 48, 30, 12
# By the number of stochastic layers.
LATENT_DIMS = {1: (4,), 2: (6, 3)}
_HIDDEN_DIMS = {1: ((20, 20),), 2: ((20, 20), (10, 10))}


def images():
    """Returns binary images, float32 [BATCH, PIXELS]."""
    return np.random.default_rng(0).integers(0, 2, [BATCH, PIXELS]).astype(np.float32)


def build(num_layers, dtype="mixed_bfloat16", networks=None, **kwargs):
    """Returns an `ImportanceWeightedAutoencoder` that is not compiled.

    Args:
      num_layers: stochastic layers, 1 or 2.
      dtype: the policy.
      networks: further arguments of `paper_networks`.
      **kwargs: further arguments of the model.
    """
    built = iwae_tf.paper_networks(
        PIXELS, LATENT_DIMS[num_layers], _HIDDEN_DIMS[num_layers], seed=3, dtype=dtype, **networks or {}
    )
    return iwae_tf.ImportanceWeightedAutoencoder(*built, num_samples=SAMPLES, dtype=dtype, seed=4, **kwargs)


def errors(gradients, reference):
    """Returns the relative error of the gradient of each variable."""
    return np.array([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(gradients, reference, strict=True)])
