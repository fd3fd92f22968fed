"""Training steps whose large products run on the bfloat16 matrix units of a CPU (AMX).

TensorFlow's own products use these units, and XLA's with results in bfloat16 do not. Within `steps()` a training step
is therefore not one compiled function: the products of many rows are TensorFlow's, and XLA compiles all else in parts.
What lies between two products is what takes the time then, so each of the functions here reads and writes its
[rows, units] once, in bfloat16 where a product follows. Sums, log-densities and everything else stay in float32.

The gradients cannot be differentiated again.
"""

import contextlib
import contextvars
import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from iwae_tf.runtime import machine

# On two cores with AMX and with k = 50, a step in parts is as fast as one function of float32 with batches of 20 (1,000
# rows) and 1.2 to 1.9 times as fast with batches of 100; with k = 5 and batches of 100 it is slower. One function
# with results in float32 (`products`) has not been measured there. See docs/experiments.md#mixed-precision.
_LEAST_ROWS_OF_STEP = 1000
# Smaller products stay within the compiled parts: each one outside ends a part, which costs more than it gains.
_LEAST_ROWS = 600
DTYPE = tf.bfloat16
_is_in_use = contextvars.ContextVar("matrix_units_are_in_use", default=False)


def are_faster(model, num_samples: int, batch_size: int | None) -> bool:
    """Returns whether the training steps of a model are faster with `steps()` than as one compiled function.

    Args:
      model: an `ImportanceWeightedAutoencoder`; the user may have turned off XLA, or products in bfloat16.
      num_samples: samples per image.
      batch_size: images per step, or None if it is not known.
    """
    policy = model.generative.dtype_policy
    is_mixed = (policy.compute_dtype, policy.variable_dtype) == (DTYPE.name, "float32")
    is_compiled = model.jit_compile and not tf.config.functions_run_eagerly()
    return is_compiled and is_mixed and num_samples * (batch_size or 0) >= _LEAST_ROWS_OF_STEP and _exist()


@functools.cache
def _exist():
    """Whether TensorFlow computes on a CPU with AMX, with the library that uses it."""
    cpu = pathlib.Path("/proc/cpuinfo")
    has_amx = cpu.exists() and "amx_bf16" in cpu.read_text()
    return has_amx and os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0" and not machine.has_gpu()


@contextlib.contextmanager
def steps() -> Iterator[None]:
    """A context in a `tf.function` that is not compiled by XLA, for training steps; see the module."""
    token = _is_in_use.set(True)
    try:
        with tf.xla.experimental.jit_scope():
            yield
    finally:
        _is_in_use.reset(token)


def are_in_use() -> bool:
    """Returns whether a step is within `steps()`."""
    return _is_in_use.get()


def multiply(shape: tf.TensorShape, dtype: str) -> bool:
    """Returns whether a product of [..., features] with operands of a type is one of those that leave XLA."""
    num_rows = shape[:-1].num_elements() or 0
    return _is_in_use.get() and dtype == DTYPE.name and num_rows >= _LEAST_ROWS


_outside_xla = functools.partial(tf.xla.experimental.jit_scope, compile_ops=False)


def part(function: Callable) -> Callable:
    """Returns a function of tensors that XLA compiles as one part of `steps()`; the caller defines its gradient."""
    compiled = tf.function(function, jit_compile=True, autograph=False)
    # Without the gradients stopped, a tape would have it return its intermediate results, too.
    return lambda *tensors: compiled(*map(tf.stop_gradient, tensors))


def one_part(function: Callable[[], Any]) -> Any:
    """Calls a function, within `steps()` compiled as one part, even if it reads variables that it has changed."""
    return tf.function(function, jit_compile=True, autograph=False)() if _is_in_use.get() else function()


def product(rows: tf.Tensor, kernel: keras.Variable | tf.Tensor) -> tf.Tensor:
    """Returns rows [n, features] times kernel [features, units] in bfloat16, [n, units]."""
    return _product(tf.cast(rows, DTYPE), read(kernel))


def read(weight: keras.Variable | tf.Tensor) -> tf.Tensor:
    """Returns the value of a weight, read outside the parts: to run a part for it alone takes longer."""
    with _outside_xla():
        return tf.convert_to_tensor(weight)


@tf.custom_gradient
def _product(rows, kernel):
    with _outside_xla():
        rounded_kernel = tf.cast(kernel, DTYPE)
        outputs = tf.matmul(rows, rounded_kernel)

    def gradient(upstream):
        with _outside_xla():
            of_rows = tf.matmul(upstream, rounded_kernel, transpose_b=True)
            return of_rows, tf.cast(tf.matmul(rows, upstream, transpose_a=True), kernel.dtype)

    return outputs, gradient


def gradients_of_scaled(scales: tf.Tensor, residuals: tf.Tensor, rows: tf.Tensor, kernel: tf.Tensor) -> tuple:
    """Returns the gradients of rows, kernel and bias for the upstream gradient scales * residuals of the outputs.

    Args:
      scales: [n, 1].
      residuals: [n, units], in bfloat16.
      rows: [n, features], in bfloat16.
      kernel: [features, units].
    """
    scaled_rows, rounded_scales = tf.cast(scales * tf.cast(rows, scales.dtype), DTYPE), tf.cast(scales, DTYPE)
    with _outside_xla():
        of_rows = tf.matmul(residuals, tf.cast(kernel, DTYPE), transpose_b=True)
        of_kernel = tf.cast(tf.matmul(scaled_rows, residuals, transpose_a=True), kernel.dtype)
    of_rows = tf.cast(scales * tf.cast(of_rows, scales.dtype), DTYPE)
    return of_rows, of_kernel, _sum_of_rows(residuals, rounded_scales)


def _sum_of_rows(rows, weights=None):
    """The sum of [n, units] over n, weighted by [n, 1], as a product: it adds in float32 and rounds the sum."""
    with _outside_xla():
        row = tf.ones([1, rows.shape[0]], DTYPE) if weights is None else tf.reshape(weights, [1, -1])
        return tf.cast(tf.matmul(row, rows)[0], tf.float32)


@tf.custom_gradient
def plus_bias(outputs: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Returns the outputs of a product [n, units] + bias [units], in float32."""

    def gradient(upstream):
        of_outputs = tf.cast(upstream, DTYPE)
        return of_outputs, _sum_of_rows(of_outputs)

    return tf.cast(outputs, tf.float32) + bias, gradient


@tf.custom_gradient
def tanh(outputs: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Returns tanh of the outputs of a product [n, units] + bias [units], rounded to bfloat16 for the next product.

    The derivative is computed from the outputs again: from a rounded tanh near 1 it would be wrong by its own size, and
    to keep it would take more passes over [n, units].
    """

    def gradient(upstream):
        of_outputs = _times_derivative_of_tanh(upstream, outputs, bias)
        return of_outputs, _sum_of_rows(of_outputs)

    return tf.cast(_rounded_tanh(outputs, bias), tf.float32), gradient


@part
def _rounded_tanh(outputs, bias):
    return tf.cast(tf.tanh(tf.cast(outputs, tf.float32) + bias), DTYPE)


@part
def _times_derivative_of_tanh(upstream, outputs, bias):
    values = tf.tanh(tf.cast(outputs, tf.float32) + bias)
    return tf.cast(upstream * (1.0 - tf.square(values)), DTYPE)
