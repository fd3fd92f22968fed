"""Stateless random numbers, keyed by their purpose. All random numbers of the package come from here.

A key is an int32 tensor of shape [2] made of (seed, purpose, counters such as the step). The same key gives the same
numbers on every call, in eager mode, in a `tf.function` and under XLA, so a run that is resumed at step n draws the
numbers that an uninterrupted run would draw. This holds only for the bits of the Philox generator: TensorFlow's default
algorithm gives different bits under XLA and is several times slower there. Even with Philox, TensorFlow makes floats
from the low bits outside XLA and from the high bits inside. Therefore the floats are made here.
"""

import math
import zlib
from collections.abc import Sequence

import tensorflow as tf

_ALGORITHM = "philox"
# Coefficients of erfinv(u) / u, highest power first, in w - 2.5 and, in the tails, in sqrt(w) - 3; w = -log(1 - u^2).
_COEFFICIENTS = (
    # Center, tails.
    (2.81022636e-08, -0.000200214257),
    (3.43273939e-07, 0.000100950558),
    (-3.5233877e-06, 0.00134934322),
    (-4.39150654e-06, -0.00367342844),
    (0.00021858087, 0.00573950773),
    (-0.00125372503, -0.0076224613),
    (-0.00417768164, 0.00943887047),
    (0.246640727, 1.00167406),
    (1.50140941, 2.83297682),
)


def key(seed: int | tf.Tensor, purpose: str, *counters: int | tf.Tensor) -> tf.Tensor:
    """Returns the key for one purpose.

    Args:
      seed: the run's seed, an integer or an int32 scalar.
      purpose: what the numbers are used for, such as "training". Different purposes give independent numbers.
      *counters: integers or int32 scalars that distinguish the draws for this purpose, such as the step.

    Returns:
      An int32 tensor of shape [2].
    """
    purpose_number = zlib.crc32(purpose.encode()) & 0x7FFFFFFF
    return fold_in(tf.stack([tf.cast(seed, tf.int32), purpose_number]), *counters)


def fold_in(base_key: tf.Tensor, *counters: int | tf.Tensor) -> tf.Tensor:
    """Returns `base_key` [2] refined by further integers; different counters give independent keys."""
    for counter in counters:
        base_key = tf.random.fold_in(base_key, tf.cast(counter, tf.int32), alg=_ALGORITHM)
    return base_key


def normal(shape: Sequence[int | tf.Tensor] | tf.Tensor, noise_key: tf.Tensor) -> tf.Tensor:
    """Returns float32 standard normal numbers of the given shape, within +-5.3.

    They come from the inverse of the distribution function, as sine and cosine would cost three times as much under
    XLA on a CPU.
    """
    return _normal_from_words(_words(shape, noise_key))


def _normal_from_words(words):
    """sqrt(2) erfinv(u) of words that stand for u from -1 to 1.

    The approximation of erfinv is that of Giles, "Approximating the erfinv function", GPU Computing Gems 2, 2010.
    `tf.math.erfinv` has the same polynomials, but takes log1p, which is slow, and other roundings under XLA.
    """
    signed = tf.cast(tf.bitcast(words, tf.int32), tf.float32)
    # For a larger u, 1 - u would round to 0 and give infinity.
    inside = 1.0 - 2.0**-23
    u = tf.clip_by_value((signed + 0.5) * 2.0**-31, -inside, inside)
    w = -1.0 * tf.math.log((1.0 - u) * (1.0 + u))  # TensorFlow would merge a negation with the logarithm, outside XLA.
    is_central = w < 5.0
    w = tf.where(is_central, w - 2.5, tf.sqrt(w) - 3.0)
    polynomial = tf.zeros_like(w)
    for central, tail in _COEFFICIENTS:
        polynomial = polynomial * w + tf.where(is_central, central, tail)
    return math.sqrt(2.0) * polynomial * u


def uniform(shape: Sequence[int | tf.Tensor] | tf.Tensor, noise_key: tf.Tensor) -> tf.Tensor:
    """Returns float32 uniform numbers in [0, 1) of the given shape, in steps of 2^-24."""
    return tf.cast(_words(shape, noise_key) // 2**8, tf.float32) * 2.0**-24


def _words(shape, noise_key):
    """Random uint32 of the given shape: halves of 64-bit words, which XLA generates three times as fast."""
    size = tf.reduce_prod(shape)
    pairs = tf.random.stateless_uniform(
        [(size + 1) // 2], noise_key, minval=None, maxval=None, dtype=tf.uint64, alg=_ALGORITHM
    )
    halves = tf.concat([pairs // 2**32, pairs % 2**32], axis=0)
    return tf.reshape(tf.cast(halves[:size], tf.uint32), shape)


def permutation(size: int, noise_key: tf.Tensor) -> tf.Tensor:
    """Returns a random order of 0 ... size - 1, int32 [size]."""
    return tf.random.experimental.stateless_shuffle(tf.range(size), noise_key, alg=_ALGORITHM)
