"""A pruned model computes the same as the larger model wherever the removed units have their constants."""

import types

import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import models, networks, noise
from iwae_tf.evaluation import log_likelihood, pruning

EVENT, BATCH, NUM_SAMPLES = 7, 5, 3
KEPT = [np.array([0, 2, 3]), np.array([1, 2])]
CONSTANTS = [np.array([9.0, 0.7, 9.0, 9.0, -1.3]), np.array([-0.4, 9.0, 9.0])]
ARCHITECTURES = [
    {"latent_dims": (5,), "hidden_dims": ((6, 4),)},
    {"latent_dims": (5,), "hidden_dims": ((),)},
    {"latent_dims": (5, 3), "hidden_dims": ((6, 4), (8,))},
    {"latent_dims": (5, 3), "hidden_dims": ((6, 4), (8,)), "batch_norm": True},
    {"latent_dims": (5, 3), "hidden_dims": ((6, 4), (8,)), "inference": "ladder"},
    {"latent_dims": (5, 3), "hidden_dims": ((6, 4), (8,)), "inference": "ladder", "batch_norm": True},
]
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def _model(**architecture):
    """Returns a model in which every weight is random, so that a test fails if one is not copied."""
    model = models.ImportanceWeightedAutoencoder(*networks.paper_networks(EVENT, **architecture), num_samples=2)
    model.compile(jit_compile=False)
    model(tf.zeros([1, EVENT]))
    rng = np.random.default_rng(3)
    for variable in model.variables_of_networks:
        is_variance = variable.name == "moving_variance"
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) if is_variance else rng.normal(0.0, 0.5, variable.shape))
    return model


def _pruned(source, architecture):
    num_layers = len(architecture["latent_dims"])
    smaller = _model(**{**architecture, "latent_dims": tuple(len(kept) for kept in KEPT[:num_layers])})
    pruning.transfer(source, smaller, KEPT[:num_layers], CONSTANTS[:num_layers])
    return smaller


def _images():
    return np.float32(np.random.default_rng(0).integers(0, 2, [BATCH, EVENT]))


@architectures
def test_pruning_keeps_every_distribution_if_removed_units_have_their_constants(architecture):
    """This holds for q and p of every kept unit and every pixel; units in the middle and at the end are removed."""
    source = _model(**architecture)
    smaller = _pruned(source, architecture)
    x, rng = _images(), np.random.default_rng(1)
    z = []
    for units, kept, constants in zip(architecture["latent_dims"], KEPT, CONSTANTS, strict=False):
        values = np.tile(np.float32(constants), [NUM_SAMPLES, BATCH, 1])
        values[..., kept] = rng.normal(size=(NUM_SAMPLES, BATCH, len(kept)))
        assert values.shape[-1] == units
        z.append(values)
    kept_z = [values[..., kept] for values, kept in zip(z, KEPT, strict=False)]
    larger_q, smaller_q = source.inference.distributions(x, z), smaller.inference.distributions(x, kept_z)
    (larger_x, *larger_p), (smaller_x, *smaller_p) = source.generative(z), smaller.generative(kept_z)
    np.testing.assert_allclose(smaller_x.mean(), larger_x.mean(), atol=2e-6)
    for larger, smaller in ((larger_q, smaller_q), (larger_p, smaller_p)):
        for before, after, kept in zip(larger, smaller, KEPT, strict=False):
            np.testing.assert_allclose(after.mean(), tf.gather(before.mean(), kept, axis=-1), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(after.stddev(), tf.gather(before.stddev(), kept, axis=-1), rtol=1e-5)


def _make_inactive(model):
    """Makes the units outside KEPT inactive: q = p for every x, and nothing depends on them."""
    is_ladder = isinstance(model.inference, networks.LadderInference)
    upward = model.inference.upward_layers if is_ladder else model.inference.stochastic_layers
    p_x, *between = model.generative.conditionals
    inputs = [(p_x, 0), *((layer, above) for above, layer in enumerate(between, start=1))]
    inputs += [] if is_ladder else [(layer, below) for below, layer in enumerate(upward[1:])]
    for layer, i in inputs:
        first = layer.hidden[0] if layer.hidden else layer.logits
        kernel, *others = (weight.numpy() for weight in first.weights)
        kernel[_removed(i)] = 0.0
        first.set_weights([kernel, *others])
    for i, layer in enumerate(upward):
        is_top = i == len(upward) - 1
        # In the Ladder VAE an upward Gaussian with almost no precision leaves p unchanged.
        _set_heads(layer, _removed(i), 0.0 if is_top else 0.3, 0.0 if is_top else (15.0 if is_ladder else -0.5))
        if not is_top:
            _set_heads(between[i], _removed(i), 0.3, -0.5)


def _removed(layer):
    return np.setdiff1d(np.arange(len(CONSTANTS[layer])), KEPT[layer])


def _set_heads(layer, units, loc, log_scale):
    for head, bias in ((layer.loc, loc), (layer.log_scale, log_scale)):
        kernel, biases = (weight.numpy() for weight in head.weights)
        kernel[:, units], biases[units] = 0.0, bias
        head.set_weights([kernel, biases])


@architectures
def test_removing_inactive_units_keeps_every_log_weight(architecture):
    source = _model(**architecture)
    _make_inactive(source)
    smaller = _pruned(source, architecture)
    on_shared_epsilon = pruning.OnSharedEpsilon(smaller, source, KEPT[: len(architecture["latent_dims"])])
    x, key = _images(), noise.key(0, "test")
    terms = source.log_weight_terms(x, source.draw_epsilon(NUM_SAMPLES, BATCH, key))
    fewer = on_shared_epsilon.log_weight_terms(x, on_shared_epsilon.draw_epsilon(NUM_SAMPLES, BATCH, key))
    np.testing.assert_allclose(fewer.log_p_x_given_z, terms.log_p_x_given_z, rtol=1e-5)
    np.testing.assert_allclose(fewer.log_weights, terms.log_weights, rtol=2e-6)
    before, after = (log_likelihood.evaluate_images(model, x, 20).arrays() for model in (source, on_shared_epsilon))
    for name, values in before.items():
        np.testing.assert_allclose(values, after[name], rtol=1e-4)


def test_units_above_the_threshold_are_kept_and_at_least_one_per_layer():
    measured = [types.SimpleNamespace(variances=np.array(values)) for values in ([0.5, 0.01, 0.02], [1e-9, 3e-9])]
    for threshold, expected in ((0.01, [[0, 2], [1]]), (0.0, [[0, 1, 2], [0, 1]]), (1.0, [[0], [1]])):
        kept = pruning.units_to_keep(measured, threshold)
        assert [units.tolist() for units in kept] == expected
