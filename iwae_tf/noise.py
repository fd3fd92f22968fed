"""Every random number of the package, stateless and keyed by what it is for.

A key is an int32 tensor of shape [2] made of (seed, purpose, counters such as the step). The same key gives the same
numbers on every call, in eager mode, in a `tf.function` and under XLA, so a run that is resumed at step n draws what
the uninterrupted run drew. That holds for the bits of the Philox generator only. TensorFlow's default algorithm gives
other bits inside XLA than outside and is several times slower there; and even with Philox, TensorFlow makes floats of
the low bits outside XLA and of the high bits inside. So the floats are made here.
"""

import math
import zlib

import tensorflow as tf

_ALGORITHM = "philox"


def key(seed, purpose, *counters):
    """Returns the key of one purpose.

    Args:
      seed: the run's seed, an integer or an int32 scalar.
      purpose: what the numbers are for, such as "training". Different purposes give independent numbers.
      *counters: integers or int32 scalars that tell one draw of this purpose from another.

    Returns:
      An int32 tensor of shape [2].
    """
    purpose_number = zlib.crc32(purpose.encode()) & 0x7FFFFFFF
    return fold_in(tf.stack([tf.cast(seed, tf.int32), purpose_number]), *counters)


def fold_in(base_key, *counters):
    """Returns `base_key` [2] refined by further integers: independent keys for different counters."""
    for counter in counters:
        base_key = tf.random.fold_in(base_key, tf.cast(counter, tf.int32), alg=_ALGORITHM)
    return base_key


def normal(shape, noise_key):
    """Returns float32 standard normal noise of the given shape, within +-5.3.

    By the inverse of the distribution function: under XLA on a CPU, sine and cosine would cost three times as much.
    Outside XLA and inside, roundings differ by up to some 1e-4 in the tails.
    """
    return _normal_from_words(_words(shape, noise_key))


def _normal_from_words(words):
    signed = tf.cast(tf.bitcast(words, tf.int32), tf.float32)
    # Outside XLA erfinv takes (1 + x) / 2 on its way, which for a larger x would round to 1, and give infinity.
    inside = 1.0 - 2.0**-23
    return math.sqrt(2.0) * tf.math.erfinv(tf.clip_by_value((signed + 0.5) * 2.0**-31, -inside, inside))


def uniform(shape, noise_key):
    """Returns float32 uniform noise in [0, 1) of the given shape, in steps of 2^-24."""
    return tf.cast(_words(shape, noise_key) // 2**8, tf.float32) * 2.0**-24


def _words(shape, noise_key):
    """Random uint32 of the given shape: halves of 64-bit words, of which XLA makes as many three times as fast."""
    size = tf.reduce_prod(shape)
    pairs = tf.random.stateless_uniform(
        [(size + 1) // 2], noise_key, minval=None, maxval=None, dtype=tf.uint64, alg=_ALGORITHM
    )
    halves = tf.concat([pairs // 2**32, pairs % 2**32], axis=0)
    return tf.reshape(tf.cast(halves[:size], tf.uint32), shape)


def permutation(size, noise_key):
    """Returns a random order of 0 ... size - 1, int32 [size]."""
    return tf.random.experimental.stateless_shuffle(tf.range(size), noise_key, alg=_ALGORITHM)
