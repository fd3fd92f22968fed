"""A small model of binary images for the tests of Keras' workflows."""

import numpy as np

import iwae_tf

EVENT = 8


def build(latent_dims=(3,), inference="bottom_up", layer_kwargs=None, **kwargs):
    """Returns an `ImportanceWeightedAutoencoder` that is neither built nor compiled."""
    hidden_dims = ((6,), (5,))[: len(latent_dims)]
    bias = np.linspace(-1.0, 1.0, EVENT)
    networks = iwae_tf.paper_networks(
        EVENT, latent_dims, hidden_dims, inference=inference, output_bias=bias, seed=1, **layer_kwargs or {}
    )
    return iwae_tf.ImportanceWeightedAutoencoder(*networks, **{"num_samples": 5, "seed": 2, **kwargs})


def compiled(jit_compile=False, steps_per_execution=1, optimizer="adam", run_eagerly=False, **kwargs):
    """Returns the same after `compile`; without XLA it is compiled sooner."""
    model = build(**kwargs)
    model.compile(optimizer, jit_compile=jit_compile, steps_per_execution=steps_per_execution, run_eagerly=run_eagerly)
    return model


def data(num_images=11):
    """Returns images [num_images, EVENT] of zeros and ones, labels [num_images] and weights [num_images]."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, [num_images, EVENT]).astype(np.float32)
    return x, rng.integers(0, 3, num_images), rng.uniform(0.2, 2.0, num_images).astype(np.float32)


def assert_same_weights(first, second):
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a, b)
