"""What the model accepts as data, and the errors for everything else.

A condition on values raises a ValueError in eager mode and is an assertion in a graph. XLA removes assertions, so
`execution` checks the batches before they enter a compiled step.
"""

import contextlib
import numbers
import re
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from iwae_tf.supports import REAL, Support

_MARK = "iwae_tf: "


def checked(
    data: Any, event_size: int, support: Support, missing_values: bool = False, dtype: str = "float32"
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Returns the images and the weights in what Keras hands to a step.

    Args:
      data: x, (x,), (x, y) or (x, y, sample_weight): an array or tensor x [batch, event] of numbers or booleans,
        targets y, which an autoencoder ignores, and weights [batch] or [batch, 1]; y and the weights may be None.
      event_size: the number of values in an image.
      support: the values that are possible.
      missing_values: whether values may be NaN.
      dtype: the type of the returned tensors.

    Returns:
      x [batch, event], and the weights [batch] or None.

    Raises:
      ValueError: x is not one tensor of this shape, has values that are not finite or not possible, or the weights do
        not fit.
    """
    x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    x = checked_images(x, event_size, support, missing_values, dtype)
    if sample_weight is None or isinstance(sample_weight, tf.experimental.Optional):
        return x, None
    return x, _weights(sample_weight, x)


def checked_images(
    x: Any, event_size: int, support: Support, missing_values: bool = False, dtype: str = "float32"
) -> tf.Tensor:
    """Returns images as a tensor [batch, event].

    Args:
      x: an array, a tensor, or rows of numbers.
      event_size: as for `checked`.
      support: as for `checked`.
      missing_values: as for `checked`.
      dtype: the type of the tensor.

    Raises:
      ValueError: see `checked`.
    """
    x = _images(x, event_size, dtype)
    # A missing value is replaced by one that is possible.
    values = tf.where(tf.math.is_nan(x), tf.zeros_like(x), x) if missing_values else x
    is_finite = tf.reduce_all(tf.math.is_finite(values))
    require(is_finite, "The images have values that are not numbers (NaN) or infinite.")
    if support != REAL:
        low, high = tf.reduce_min(values), tf.reduce_max(values)
        require(_are_possible(values, support), "The images have values from", low, "to", high, _reason(support))
    return x


def _are_possible(values, support):
    """Whether all values are in a support."""
    if support.is_binary:
        return tf.reduce_all((values == 0.0) | (values == 1.0))
    are_inside = (values >= support.low) & (values <= support.high)
    return tf.reduce_all(are_inside & (tf.round(values) == values) if support.is_integer else are_inside)


def _reason(support):
    """The end of the sentence about values that are not in a support."""
    remedy = "; binarise grey images (see iwae_tf.datasets.binarization)" if support.is_binary else ""
    return f", but p(x | z) is {support.distribution} and has {support.text}{remedy}."


def _images(x, event_size, dtype):
    expected = f"but must be one tensor of shape [batch, {event_size}]"
    if isinstance(x, dict):
        keys = ", ".join(map(repr, x))
        raise ValueError(f"The images are a dict with {keys}, {expected}; pick one, for example with dataset.map.")
    if isinstance(x, (tf.RaggedTensor, tf.SparseTensor)) or _is_nested(x):
        raise ValueError(f"The images are a {type(x).__name__}, {expected}.")
    x = tf.convert_to_tensor(x)
    if not (x.dtype.is_floating or x.dtype.is_integer or x.dtype.is_bool):
        raise ValueError(f"The images have the type {x.dtype.name}, but must be numbers.")
    if not x.shape.is_compatible_with([None, event_size]):
        raise ValueError(f"The images have shape {tuple(x.shape)}, {expected}.")
    if x.shape.rank is None or x.shape[1] is None:
        shape = tf.shape(x)
        fits = tf.equal(tf.size(shape), 2) & tf.equal(shape[-1], event_size)
        with tf.control_dependencies(require(fits, "The images have shape", shape, f", {expected}.")):
            x = tf.ensure_shape(x, [None, event_size])
    return tf.cast(x, dtype)


def _is_nested(x):
    """Whether x is several tensors rather than a list of numbers."""
    return isinstance(x, (list, tuple)) and any(tf.is_tensor(part) or hasattr(part, "shape") for part in x)


def _weights(sample_weight, x):
    sample_weight = tf.cast(sample_weight, x.dtype)
    shape = sample_weight.shape
    if not (shape.is_compatible_with(x.shape[:1]) or shape.is_compatible_with([*x.shape[:1], 1])):
        raise ValueError(f"The sample weights have shape {tuple(shape)}, but must be one number per image.")
    sample_weight = tf.reshape(sample_weight, [-1])
    are_as_many = tf.equal(tf.size(sample_weight), tf.shape(x)[0])
    with tf.control_dependencies(require(are_as_many, "The sample weights must be one number per image.")):
        sample_weight = tf.ensure_shape(sample_weight, x.shape[:1])
    is_valid = tf.math.is_finite(sample_weight) & (sample_weight >= 0.0)
    require(tf.reduce_all(is_valid), "The sample weights must be finite and not negative.")
    return sample_weight


def require(condition: tf.Tensor, *parts: str | tf.Tensor) -> list[tf.Operation]:
    """Raises a ValueError in eager mode, or adds an assertion to a graph, unless a condition holds.

    Args:
      condition: a boolean scalar.
      *parts: the sentence: texts and tensors, joined by spaces.

    Returns:
      The assertion, on which the use of what was checked may depend, or nothing in eager mode.
    """
    if not tf.executing_eagerly():
        return [tf.debugging.Assert(condition, [_MARK, *parts])]
    if not condition:
        raise ValueError(_sentence(part if isinstance(part, str) else str(part.numpy()) for part in parts))
    return []


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Within this context, an assertion of `require` that fails in a graph raises a ValueError with its sentence."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        failed = re.search(rf"assertion failed: \[{_MARK}\] (.*)", error.message or "")
        if not failed:
            raise
        raise ValueError(_sentence(re.findall(r"\[(\[.*?\]|.*?)\](?= |$)", failed[1]))) from None


def _sentence(parts):
    return " ".join(parts).replace(" ,", ",")


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raises a ValueError unless the value of an argument is an integer, at least `least` and at most `most`."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):
        expected = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} is {value!r}, but must be an integer, {expected}.")


# A seed is an int32.
LARGEST_SEED = 2**31 - 1
