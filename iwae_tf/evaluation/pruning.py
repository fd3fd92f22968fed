"""Removing latent units from a model's networks, such that what is left computes as nearly as possible the same.

A unit of layer l has its place in four: it is an output of q(z_l | z_{l-1}) (in both heads), an input of
q(z_{l+1} | z_l), an input of p(z_{l-1} | z_l), and an output of p(z_l | z_{l+1}), or else a dimension of the prior. In
the Ladder VAE, whose way upwards does not pass through z, it is an output of the upward layer, and the conditionals
are shared. A removed unit is held at a constant, which moves into the biases of the layers that it was an input of.
"""

import numpy as np
import tensorflow as tf

from iwae_tf import layers, networks


def units_to_keep(measured, threshold):
    """Chooses the units with a variance above the threshold; at least the most active one of every layer.

    Args:
      measured: the `units.Units` of each layer, bottom first.
      threshold: of Cov_x(E_q[u]).

    Returns:
      For each layer the kept units' numbers from 0, ascending, int arrays.
    """
    active = [np.flatnonzero(layer.variances > threshold) for layer in measured]
    return [
        kept if len(kept) else np.array([np.argmax(layer.variances)])
        for kept, layer in zip(active, measured, strict=True)
    ]


def transfer(source, target, kept, constants):
    """Gives a model with fewer latent units the weights of another one.

    Args:
      source: an `ImportanceWeightedAutoencoder` with the networks of `networks.paper_networks`.
      target: another one that differs from it in its latent_dims only, built.
      kept: for each stochastic layer, bottom first, the source's units that the target has, in its order.
      constants: for each stochastic layer the values at which removed units are held, float array [units]; those of
        the others have no meaning.
    """
    pairs = zip(_stochastic_layers(source), _stochastic_layers(target), strict=True)
    for (layer, below, of), (smaller, *_) in pairs:
        inputs = None if below is None else (kept[below], constants[below])
        _transfer_layer(layer, smaller, inputs, slice(None) if of is None else kept[of])


def _stochastic_layers(model):
    """Returns (layer, the number of its input z or None, the number of its output z or None) of every layer."""
    p_x, *between = model.generative.conditionals
    generative = [(p_x, 0, None), *((layer, above, above - 1) for above, layer in enumerate(between, start=1))]
    if isinstance(model.inference, networks.LadderInference):
        return [*((layer, None, i) for i, layer in enumerate(model.inference.upward_layers)), *generative]
    upward = [(layer, i - 1 if i else None, i) for i, layer in enumerate(model.inference.stochastic_layers)]
    return [*upward, *generative]


def _transfer_layer(layer, smaller, inputs, outputs):
    """Slices the weights of one `layers.StochasticLayer`.

    Args:
      layer: the source's.
      smaller: the target's.
      inputs: (kept units, constants) of its input, or None where all of it is kept.
      outputs: kept units of its output.
    """
    parts, others = ([*one.hidden, *_heads(one)] for one in (layer, smaller))
    weights = [[weight.numpy() for weight in part.weights] for part in parts]
    if inputs:
        # Without hidden layers the heads are what z enters.
        for entrance in range(1 if layer.hidden else len(parts)):
            kernel, share = _without_inputs(weights[entrance][0], *inputs)
            weights[entrance][0] = kernel
            if len(weights[entrance]) > 1:
                weights[entrance][1] += share
            else:
                # Batch normalisation follows, [gamma, beta, moving mean, moving variance], which subtracts its mean.
                weights[entrance + 1][2] -= share
    for part in range(len(layer.hidden), len(parts)):
        weights[part] = [weight[..., outputs] for weight in weights[part]]
    for other, values in zip(others, weights, strict=True):
        other.set_weights(values)


def _heads(layer):
    return [layer.loc, layer.log_scale] if isinstance(layer, layers.GaussianLayer) else [layer.logits]


def _without_inputs(kernel, kept, constants):
    """Returns the kernel of the kept inputs, and what the others contribute where they are constant."""
    removed = np.setdiff1d(np.arange(len(kernel)), kept)
    return kernel[kept], np.float32(constants[removed] @ np.float64(kernel[removed]))


class OnSharedNoise:
    """A smaller model that gets, of the noise that the larger one draws, what belongs to its units.

    So both are measured on the same samples, and their difference has no more noise than the removal makes.

    Args:
      smaller: what `transfer` filled.
      larger: where from.
      kept: as for `transfer`.
    """

    def __init__(self, smaller, larger, kept):
        self._larger, self._kept = larger, kept
        self.log_weight_terms = smaller.log_weight_terms
        self.num_samples = smaller.num_samples
        self.jit_compile = larger.jit_compile
        self.distribute_strategy = larger.distribute_strategy

    def draw_noise(self, num_samples, batch_size, key):
        """As that of `ImportanceWeightedAutoencoder`."""
        drawn = self._larger.draw_noise(num_samples, batch_size, key)
        return [tf.gather(eps, units, axis=-1) for eps, units in zip(drawn, self._kept, strict=True)]
