"""What an inference network does with x before its first hidden layer."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from iwae_tf.products import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class Preprocessing(keras.layers.Layer):
    """Shifts and scales values, and replaces missing ones by zeros.

    Args:
      shift: what is subtracted, a number or one for each value.
      scale: what is divided by, a number or one for each value.
      logarithm: whether log(1 + x) is taken first, as for counts.
      missing_values: whether values may be NaN; these become zero, which is the mean after standardisation.
      mask_input: whether a mask of the values that are there, 1 or 0, follows the values.
    """

    # Weights, so that a checkpoint restores them.
    shift: keras.Variable
    scale: keras.Variable

    def __init__(
        self,
        shift: float | Sequence[float] | np.ndarray = 0.0,
        scale: float | Sequence[float] | np.ndarray = 1.0,
        logarithm: bool = False,
        missing_values: bool = False,
        mask_input: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"autocast": False, **kwargs})
        self.logarithm, self.missing_values, self.mask_input = logarithm, missing_values, mask_input
        self._initial = [np.asarray(values, np.float32) for values in (shift, scale)]
        self.shift, self.scale = (
            self.add_weight(
                values.shape, keras.initializers.Constant(values), trainable=False, name=name, autocast=False
            )
            for name, values in zip(("shift", "scale"), self._initial, strict=True)
        )

    def get_config(self) -> dict[str, Any]:
        values = dict(zip(("shift", "scale"), (values.tolist() for values in self._initial), strict=True))
        names = ("logarithm", "missing_values", "mask_input")
        return {**super().get_config(), **values, **{name: getattr(self, name) for name in names}}

    def build(self, x_shape: tuple) -> None:
        """Does nothing: the constructor creates the weights."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Maps x [..., event] to [..., event], or with a mask to [..., 2 * event]."""
        observed = tf.math.logical_not(tf.math.is_nan(x))
        if self.missing_values:
            x = tf.where(observed, x, tf.zeros_like(x))
        x = tf.math.log1p(x) if self.logarithm else x
        x = (x - self.shift) / self.scale
        if self.missing_values:
            x = tf.where(observed, x, tf.zeros_like(x))
        return tf.concat([x, tf.cast(observed, x.dtype)], axis=-1) if self.mask_input else x
