"""How the layers compute: matrix products in the precision of a policy, and gradients that are cheap for XLA.

Within `fast_gradients()`, some gradients are written down instead of derived, which takes fewer passes over
[num_samples, batch, event]. They can be differentiated again. Elsewhere the derived ones serve, because a SavedModel
cannot hold the others.

Evaluation has the precision of the variables. Within `training()`, a mixed precision policy rounds the operands of the
matrix products, among them the sums that are the gradients of biases, except for few rows on a CPU. The results are
rounded, too, on GPUs, in float16 and where they are from `matrix_units`. Weights, activations, log-densities, other
sums and bounds stay in float32.
"""

import contextlib
import contextvars
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from iwae_tf import matrix_units
from iwae_tf.runtime import machine

# Under which Keras finds the classes of this package in saved models.
PACKAGE = "iwae_tf"
# On a CPU with AVX512-BF16, with one layer and batches of 20 images, a step with k = 1 takes 0.43 ms if products of 20
# rows are rounded and 0.39 ms if not; with k = 5, it takes 0.72 ms if those of 100 rows are rounded and 0.87 ms if not.
_LEAST_ROUNDED_ROWS = 50
_is_training = contextvars.ContextVar("is_training", default=False)
_has_fast_gradients = contextvars.ContextVar("has_fast_gradients", default=False)


@contextlib.contextmanager
def training() -> Iterator[None]:
    """The context in which a training step computes its gradients; it includes `fast_gradients`."""
    with _set(_is_training), fast_gradients():
        yield


@contextlib.contextmanager
def fast_gradients() -> Iterator[None]:
    """A context for gradients; see the module."""
    with _set(_has_fast_gradients):
        yield


@contextlib.contextmanager
def _set(variable):
    token = variable.set(True)
    try:
        yield
    finally:
        variable.reset(token)


def density_dtype(dtype: str) -> str:
    """Returns the type of samples and log-densities for weights of a type: the same, but at least float32."""
    return keras.backend.result_type(dtype, "float32")


class Factors(NamedTuple):
    """The outputs of a linear layer before they are computed: rows @ kernel + bias, as [..., units].

    Attributes:
      rows: [n, features].
      kernel: [features, units].
      bias: [units].
      shape: that of the outputs.
    """

    rows: tf.Tensor
    kernel: keras.Variable
    bias: keras.Variable
    shape: list[int | tf.Tensor]


@keras.saving.register_keras_serializable(PACKAGE)
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` whose products may be less precise than all else.

    Inputs have any leading shape.

    Args:
      units: the size of the outputs.
      product_dtype: the type of the operands of the products in training; None means that of the variables.
      **kwargs: arguments of `keras.layers.Dense`.
    """

    def __init__(self, units: int, product_dtype: str | None = None, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.product_dtype = product_dtype or self.variable_dtype
        self.autocast = False  # The inputs are cast for the product.

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "product_dtype": self.product_dtype}

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Maps [..., features] to [..., units], at least float32."""
        dtype = density_dtype(self.variable_dtype)
        product_dtype = self.product_dtype if _is_training.get() else dtype
        rows, shape = tf.reshape(inputs, [-1, inputs.shape[-1]]), [*leading_shape(inputs), self.units]
        if self._leaves_xla(rows):
            return self._on_matrix_units(rows, shape)
        bias = tf.cast(self.bias, dtype) if self.use_bias else None
        outputs = _affine(tf.cast(rows, dtype), tf.cast(self.kernel, dtype), bias, product_dtype)
        return self.activation(tf.reshape(outputs, shape))

    def factors(self, inputs: tf.Tensor) -> Factors | None:
        """Returns what the outputs for these inputs are made of, if the layer is linear and the product leaves XLA."""
        rows = tf.reshape(inputs, [-1, inputs.shape[-1]])
        is_linear = self.use_bias and self.activation is keras.activations.linear
        if not (is_linear and self._leaves_xla(rows)):
            return None
        return Factors(rows, self.kernel, self.bias, [*leading_shape(inputs), self.units])

    def _leaves_xla(self, rows):
        return _is_training.get() and matrix_units.multiply(rows.shape, self.product_dtype)

    def _on_matrix_units(self, rows, shape):
        outputs = matrix_units.product(rows, self.kernel)
        if not self.use_bias:
            return self.activation(tf.cast(tf.reshape(outputs, shape), tf.float32))
        bias = tf.convert_to_tensor(self.bias)
        if self.activation is keras.activations.tanh:
            return tf.reshape(matrix_units.tanh(outputs, bias), shape)
        return self.activation(tf.reshape(matrix_units.plus_bias(outputs, bias), shape))


class Convolution(keras.layers.Layer):
    """A convolution with a kernel of 2 x 2, without padding, whose products may be less precise than all else.

    It is a sum of four matrix products. XLA's own convolutions, and their gradients still more, take ten times as long
    on a CPU when they are in a loop, as the steps of a compiled call are.

    Args:
      units: the channels of the output.
      seed: seed of Glorot's uniform initialisation.
      product_dtype: as for `Dense`.
      **kwargs: arguments of `keras.layers.Layer`.

    Attributes:
      num_positions: how often each weight is used for an image.
    """

    def __init__(self, units: int, seed: int, product_dtype: str, **kwargs: Any) -> None:
        super().__init__(**{"autocast": False, **kwargs})
        self.units, self.seed, self.product_dtype = units, seed, product_dtype
        self.num_positions = 1

    def build(self, input_shape: tuple) -> None:
        """Creates the kernel for inputs [n, height, width, channels]."""
        shape = [2, 2, input_shape[-1], self.units]
        self.kernel = self.add_weight(shape, keras.initializers.GlorotUniform(self.seed), name="kernel", autocast=False)
        self.num_positions = (input_shape[1] - 1) * (input_shape[2] - 1)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Maps [n, height, width, channels] to [n, height - 1, width - 1, units]."""
        dtype = density_dtype(self.variable_dtype)
        product_dtype = self.product_dtype if _is_training.get() else dtype
        _, height, width, channels = inputs.shape
        rows, kernel = tf.cast(tf.reshape(inputs, [-1, channels]), dtype), tf.cast(self.kernel, dtype)
        outputs = []
        for i, j in itertools.product(range(2), repeat=2):
            values = tf.reshape(_affine(rows, kernel[i, j], None, product_dtype), [-1, height, width, self.units])
            outputs.append(values[:, i : i + height - 1, j : j + width - 1])
        return tf.add_n(outputs)


def leading_shape(inputs: tf.Tensor) -> list[int | tf.Tensor]:
    """Returns the sizes of all axes but the last, for `tf.reshape`."""
    return [tf.shape(inputs)[i] if size is None else size for i, size in enumerate(inputs.shape[:-1])]


def _affine(rows, kernel, bias, product_dtype):
    """rows [n, features] @ kernel [features, units] + bias [units] or None; the product may be less precise."""
    if product_dtype == tf.bfloat16.name and not machine.has_gpu():
        if rows.shape[0] is not None and rows.shape[0] < _LEAST_ROUNDED_ROWS:
            product_dtype = rows.dtype
        elif not matrix_units.are_in_use():
            return _product_of_rounded(rows, kernel) if bias is None else _affine_of_rounded(rows, kernel, bias)
    outputs = _product(rows, kernel, product_dtype)
    return outputs if bias is None else plus_bias(outputs, bias)


@tf.custom_gradient
def _affine_of_rounded(rows, kernel, bias):
    """rows @ kernel + bias with rounded operands; those of the products in its gradient are rounded, too."""

    def gradient(upstream):
        of_rows = _product_of_rounded(upstream, kernel, transpose_b=True)
        # The gradient of the bias, the sum of the rows, is that of a kernel for a further feature that is always 1.
        features = tf.concat([rows, tf.ones_like(rows[:, :1])], axis=1)
        of_weights = _product_of_rounded(_transposed(features), upstream)
        return of_rows, of_weights[:-1], of_weights[-1]

    return _product_of_rounded(rows, kernel) + bias, gradient


def _product_of_rounded(a, b, transpose_b=False):
    """a @ b, or a @ transpose(b), with the operands rounded to bfloat16."""

    @tf.custom_gradient
    def product(a, b):
        def gradient(upstream):
            of_a = _product_of_rounded(upstream, b, not transpose_b)
            pair = (upstream, a) if transpose_b else (a, upstream)
            return of_a, _product_of_rounded(_transposed(pair[0]), pair[1])

        # Without the gradients stopped, a tape would derive those of the compiled function, too.
        operands = [tf.stop_gradient(tf.cast(operand, tf.bfloat16)) for operand in (a, b)]
        return tf.cast(_matmul(*operands, transpose_b), a.dtype), gradient

    return product(a, b)


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _matmul(a, b, transpose_b):
    """The product of bfloat16 matrices in float32, which `tf.matmul` has only within XLA on a CPU.

    On CPUs with instructions for it, XLA (that of TensorFlow 2.21, not of 2.19) computes such a product up to twice as
    fast as one of float32 matrices, but not if its first operand is transposed or its result is in bfloat16.
    """
    return tf.matmul(a, b, transpose_b=transpose_b, output_type=tf.float32)


def _transposed(matrix):
    """The transposed matrix, in two halves: XLA would make a single transposition a part of the product."""
    if matrix.shape[0] is None:  # XLA might pad the halves of as many rows as there happen to be.
        return tf.transpose(matrix)
    middle = matrix.shape[0] // 2
    return tf.concat([tf.transpose(matrix[:middle]), tf.transpose(matrix[middle:])], axis=1)


def _product(rows, kernel, dtype):
    """rows [n, features] times the kernel [features, units], computed in a type that may be less precise."""
    return tf.cast(tf.matmul(tf.cast(rows, dtype), tf.cast(kernel, dtype)), rows.dtype)


def plus_bias(rows: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Returns rows [n, units] + bias [units]."""
    return _plus_bias_with_gradient(rows, bias) if _has_fast_gradients.get() else rows + bias


@tf.custom_gradient
def _plus_bias_with_gradient(rows, bias):
    return rows + bias, lambda upstream: (upstream, _sum_of_rows(upstream))


def _sum_of_rows(rows):
    """The sum of [n, units] over n, elementwise as far as possible: XLA is slow at sums over many rows on a CPU."""
    count = next((n for n in range(64, 1, -1) if (rows.shape[0] or 1) % n == 0), 1)
    return tf.reduce_sum(tf.add_n(tf.split(rows, count)), axis=0)


def sum_bernoulli_log_prob(x: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns sum_j x_j l_j - log(1 + exp(l_j)) over the last axis, for x and logits l that broadcast [..., event]."""
    return (_sum_with_gradient if _has_fast_gradients.get() else _sum)(x, logits)


@tf.custom_gradient
def _sum_with_gradient(x, logits):
    """`_sum`, with a gradient that takes one tanh for each logit and one pass."""

    def gradient(upstream):
        upstream = upstream[..., tf.newaxis]
        return _unbroadcast(upstream * logits, logits, x), _unbroadcast(upstream * _residuals(x, logits), x, logits)

    return _sum(x, logits), gradient


def _residuals(x, logits):
    """x - sigmoid(l), with the sigmoid by tanh, which XLA computes faster."""
    return x - 0.5 - 0.5 * tf.tanh(0.5 * logits)


def sum_bernoulli_log_prob_of_product(x: tf.Tensor, factors: Factors, observed: Callable) -> tf.Tensor:
    """Returns `sum_bernoulli_log_prob` of the outputs of a layer, which has no gradient for x.

    In the gradient, the derivatives x_j - sigmoid(l_j) are the operand of the products, and the upstream gradient, one
    number for each row, multiplies the smaller rows.

    Args:
      x: tensor that broadcasts with the outputs.
      factors: the `Factors` of the outputs, which are the logits.
      observed: maps (x, logits) to those that count.
    """

    @matrix_units.part
    def sum_and_residuals(x, products, bias):
        values, logits = observed(x, tf.reshape(tf.cast(products, bias.dtype) + bias, factors.shape))
        residuals = tf.cast(_residuals(values, logits), matrix_units.DTYPE)
        return _sum(values, logits), tf.reshape(residuals, products.shape)

    @tf.custom_gradient
    def sum_of_product(rows, kernel, bias):
        values, residuals = sum_and_residuals(x, matrix_units.product(rows, kernel), bias)
        return values, lambda upstream: matrix_units.gradients_of_scaled(
            tf.reshape(upstream, [-1, 1]), residuals, rows, kernel
        )

    # Rounded first, so that the gradient keeps them rounded.
    rows = tf.cast(factors.rows, matrix_units.DTYPE)
    return sum_of_product(rows, matrix_units.read(factors.kernel), tf.convert_to_tensor(factors.bias))


def _unbroadcast(gradient, other, tensor):
    """The gradient of a tensor that was broadcast with another one, of the shape of the tensor."""
    _, axes = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(other), s1=tf.shape(tensor))
    return tf.reshape(tf.reduce_sum(gradient, axes), tf.shape(tensor))


def _sum(x, logits):
    """sum_j x_j l_j - log(1 + exp(l_j)) over the last axis.

    For the decoder's [num_samples, batch, event] the plain form costs half as much as the last matrix product, because
    logarithms are slow and XLA does not vectorise sums over the last axis on a CPU. So the axis is cut into at most 16
    slices, which are added elementwise, and their factors 1 + exp(-|l_j|), each at most 2, are multiplied before one
    logarithm is taken. This takes a fifth of the time.
    """
    slices = list(zip(_slices(x), _slices(logits), strict=True))
    # At l_j = 0 the gradients of this maximum and this minimum add up to x_j - 1/2.
    linear = [x_j * l_j - tf.maximum(l_j, 0.0) for x_j, l_j in slices]
    factors = [1.0 + tf.exp(tf.minimum(-l_j, l_j)) for _, l_j in slices]
    value = functools.reduce(tf.add, linear) - tf.math.log(functools.reduce(tf.multiply, factors))
    return tf.reduce_sum(value, axis=-1)


def _slices(values):
    """At most 16 equal slices of the last axis, each a multiple of 8 long to fill vector registers, or one slice."""
    event = values.shape[-1]
    count = next(count for count in range(16, 0, -1) if event % (8 * count) == 0 or count == 1)
    return tf.split(values, count, axis=-1)
