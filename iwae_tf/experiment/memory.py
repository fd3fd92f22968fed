"""Refuses models and batches that cannot fit in the memory of the machine."""

import itertools

import psutil

from iwae_tf.errors import UserError
from iwae_tf.experiment.flags import Options

_BYTES = 4  # Of a float32 number.
# The weights, their gradients, and Adam's two averages.
_COPIES_OF_WEIGHTS = 4


def refuse_impossible(options: Options, num_pixels: int) -> None:
    """Raises a UserError if a lower bound on the memory that training needs is more than the machine has."""
    if options.strategy != "default":
        return  # The batches are split over several devices or machines.
    largest, num_weights = max(options.total_samples, options.first_total_samples), _num_weights(options, num_pixels)
    step = largest * options.batch_size * _units_per_sample(options, num_pixels)
    needed = _BYTES * (_COPIES_OF_WEIGHTS * num_weights + step)
    available = _total_memory()
    if needed > available:
        raise UserError(
            f"Training needs at least {needed / 2**30:,.0f} GiB of memory ({num_weights:,} weights, and {largest:,} "
            f"samples of {options.batch_size:,} images in each step), but this machine has {available / 2**30:,.0f} "
            "GiB; use fewer samples, smaller batches or smaller layers."
        )


def _total_memory():
    return psutil.virtual_memory().total


def _units_per_sample(options, num_pixels):
    """The activations of a sample that the backward pass needs: those of the decoder."""
    return sum(options.latent_dims) + sum(sum(layers) for layers in options.hidden_dims) + num_pixels


def _num_weights(options, num_pixels):
    """The weights of the bottom-up encoder's hidden layers; the decoder has about as many."""
    inputs = [num_pixels, *options.latent_dims]
    sizes = [[units, *hidden] for units, hidden in zip(inputs, options.hidden_dims, strict=False)]
    return 2 * sum(a * b for layers in sizes for a, b in itertools.pairwise(layers))
