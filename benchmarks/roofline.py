"""A lower bound on the time of a step: its matrix products, at the rate of this machine."""

import functools
import time
from typing import NamedTuple

import tensorflow as tf

# Small products are repeated in one compiled call; otherwise its overhead would be measured.
_OPERATIONS_PER_CALL = 3e9


class Product(NamedTuple):
    """A product [rows, inner] x [inner, columns]."""

    rows: int
    inner: int
    columns: int

    @property
    def operations(self):
        return 2 * self.rows * self.inner * self.columns


def step_products(model, batch, num_samples):
    """The products of a training step: forward, and backward to inputs and to kernels.

    The first stochastic layer of the encoder is computed once for all samples, and no gradient of x is needed.
    """
    products = []
    for rows, kernel, is_first in _kernels(model, batch, num_samples):
        inner, columns = kernel.shape
        products.append(Product(rows, inner, columns))
        products.append(Product(inner, rows, columns))
        if not is_first:
            products.append(Product(rows, columns, inner))
    return products


def forward_products(model, num_samples):
    """The products of `num_samples` log-weights of one image."""
    return [Product(rows, *kernel.shape) for rows, kernel, _ in _kernels(model, 1, num_samples)]


def _kernels(model, batch, num_samples):
    """(rows, kernel, whether its input is x) for every dense layer."""
    bottom, *others = model.inference.stochastic_layers
    for i, kernel in enumerate(_matrices(bottom)):
        yield batch, kernel, i == 0
    for layer in (*others, *model.generative.conditionals):
        for kernel in _matrices(layer):
            yield num_samples * batch, kernel, False


def _matrices(layer):
    return [variable for variable in layer.trainable_variables if len(variable.shape) == 2]


def measure(products, seconds=1.0, dtype=tf.float32):
    """The rate of these products in operations per second: the fastest of eager TensorFlow and XLA.

    With operands in bfloat16, XLA calls other routines for products in float32 than for those in bfloat16.

    Args:
      products: a list of `Product`.
      seconds: about how long to measure each of them.
      dtype: the type of the operands; the products have this type or float32.

    Returns:
      Operations per second.
    """
    operands = [
        [tf.cast(tf.random.normal(shape), dtype) for shape in ([p.rows, p.inner], [p.inner, p.columns])]
        for p in products
    ]
    operations = sum(product.operations for product in products)
    repeats = max(1, int(_OPERATIONS_PER_CALL / operations))
    rates = [operations / _best_time(lambda: [tf.matmul(a, b) for a, b in operands][-1], seconds)]
    for output_type in {dtype, tf.float32}:
        compiled = tf.function(functools.partial(_repeat_products, output_type), jit_compile=True)
        time_of_call = _best_time(functools.partial(compiled, operands, tf.constant(repeats)), seconds)
        rates.append(repeats * operations / time_of_call)
    return max(rates)


def _repeat_products(output_type, operands, repeats):
    """All products, `repeats` times in one call; each round uses the previous results, so none is optimised away."""

    def one_turn(turn, previous):
        products = [tf.matmul(a, b + tf.cast(0.0 * previous, b.dtype), output_type=output_type) for a, b in operands]
        return turn + 1, tf.cast(tf.add_n([product[0, 0] for product in products]), tf.float32)

    return tf.while_loop(lambda turn, _: turn < repeats, one_turn, [0, 0.0])[1]


def _best_time(run, seconds):
    """The shortest time of a call."""
    run()
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds or len(times) < 3:
        before = time.perf_counter()
        run().numpy()
        times.append(time.perf_counter() - before)
    return min(times)
