"""Removes latent units from the networks of a model and changes what they compute as little as possible.

A unit of layer l appears in four places: it is an output of q(z_l | z_{l-1}) (in both heads), an input of
q(z_{l+1} | z_l), an input of p(z_{l-1} | z_l), and an output of p(z_l | z_{l+1}) or a dimension of the prior. In the
Ladder VAE the upward pass does not go through z: there the unit is an output of the upward layer, and the conditionals
are shared. A removed unit is replaced by a constant, whose contribution moves into the biases of the next layers.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from iwae_tf import models, networks
from iwae_tf.evaluation.units import Units


def units_to_keep(measured: Sequence[Units], threshold: float) -> list[np.ndarray]:
    """Chooses the units with a variance above the threshold, but at least the most active unit of every layer.

    Args:
      measured: the `units.Units` of each layer, bottom first.
      threshold: the threshold of Cov_x(E_q[u]).

    Returns:
      For each layer the indices of the kept units, ascending, int arrays.
    """
    active = [np.flatnonzero(layer.variances > threshold) for layer in measured]
    return [
        kept if len(kept) else np.array([np.argmax(layer.variances)])
        for kept, layer in zip(active, measured, strict=True)
    ]


def transfer(
    source: models.ImportanceWeightedAutoencoder,
    target: models.ImportanceWeightedAutoencoder,
    kept: Sequence[np.ndarray],
    constants: Sequence[np.ndarray],
) -> None:
    """Copies the weights of a model to a model with fewer latent units.

    Args:
      source: an `ImportanceWeightedAutoencoder` with the networks of `networks.paper_networks`.
      target: a built model that differs from the source only in its latent_dims.
      kept: for each stochastic layer, bottom first, the units of the source that the target has, in its order.
      constants: for each stochastic layer, the constants that replace the removed units, float array [units]; the
        values for kept units have no effect.
    """
    pairs = zip(_stochastic_layers(source), _stochastic_layers(target), strict=True)
    for (layer, input_index, output_index), (smaller, *_) in pairs:
        inputs = None if input_index is None else (kept[input_index], constants[input_index])
        _transfer_layer(layer, smaller, inputs, slice(None) if output_index is None else kept[output_index])


def _stochastic_layers(model):
    """Returns (layer, index of its input z or None, index of its output z or None) for every layer."""
    p_x, *between = model.generative.conditionals
    generative = [(p_x, 0, None), *((layer, above, above - 1) for above, layer in enumerate(between, start=1))]
    if isinstance(model.inference, networks.LadderInference):
        return [*((layer, None, i) for i, layer in enumerate(model.inference.upward_layers)), *generative]
    upward = [(layer, i - 1 if i else None, i) for i, layer in enumerate(model.inference.stochastic_layers)]
    return [*upward, *generative]


def _transfer_layer(layer, smaller, inputs, outputs):
    """Slices the weights of one `layers.StochasticLayer`.

    Args:
      layer: the layer of the source.
      smaller: the layer of the target.
      inputs: (kept units, constants) of its input, or None if the whole input is kept.
      outputs: the kept units of its output.
    """
    parts, smaller_parts = ([*whole.hidden, *whole.heads] for whole in (layer, smaller))
    weights = [[weight.numpy() for weight in part.weights] for part in parts]
    if inputs:
        # z is the input of the first hidden layer, or of every head if there are no hidden layers.
        for first in range(1 if layer.hidden else len(parts)):
            kernel, share = _without_inputs(weights[first][0], *inputs)
            weights[first][0] = kernel
            if len(weights[first]) > 1:
                weights[first][1] += share
            else:
                # Batch normalisation follows, [gamma, beta, moving mean, moving variance], and subtracts its mean.
                weights[first + 1][2] -= share
    for head in range(len(layer.hidden), len(parts)):
        weights[head] = [weight[..., outputs] for weight in weights[head]]
    for part, values in zip(smaller_parts, weights, strict=True):
        part.set_weights(values)
    for weight, trained in zip(_other_weights(smaller), _other_weights(layer), strict=True):
        weight.assign(trained)


def _other_weights(layer):
    """The weights of a layer that do not depend on its input, such as a scale of each value of x."""
    of_parts = {id(weight) for part in (*layer.hidden, *layer.heads) for weight in part.weights}
    return [weight for weight in layer.weights if id(weight) not in of_parts]


def _without_inputs(kernel, kept, constants):
    """Returns the kernel of the kept inputs, and the contribution of the removed inputs at their constants."""
    removed = np.setdiff1d(np.arange(len(kernel)), kept)
    return kernel[kept], np.float32(constants[removed] @ np.float64(kernel[removed]))


class OnSharedEpsilon:
    """A smaller model that gets its units' part of the epsilon that the larger model draws.

    Both models are then measured on the same samples, so only the removal of units makes a difference.

    Args:
      smaller: the target of `transfer`.
      larger: the source of `transfer`.
      kept: as for `transfer`.
    """

    def __init__(
        self,
        smaller: models.ImportanceWeightedAutoencoder,
        larger: models.ImportanceWeightedAutoencoder,
        kept: Sequence[np.ndarray],
    ) -> None:
        self._larger, self._kept = larger, kept
        self.log_weight_terms = smaller.log_weight_terms
        self.num_samples = smaller.num_samples
        self.jit_compile = larger.jit_compile
        self.distribute_strategy = larger.distribute_strategy

    def draw_epsilon(self, num_samples: int, batch_size: int | tf.Tensor, key: tf.Tensor) -> list[tf.Tensor]:
        """As `ImportanceWeightedAutoencoder.draw_epsilon`."""
        epsilon = self._larger.draw_epsilon(num_samples, batch_size, key)
        return [tf.gather(epsilon_l, units, axis=-1) for epsilon_l, units in zip(epsilon, self._kept, strict=True)]
