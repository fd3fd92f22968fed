"""Measures the validation images during training."""

import tensorflow as tf

from iwae_tf import noise

_VALIDATION_BATCH = 100


class Validation:
    """Measures the validation images, with fixed binarisation and fixed noise.

    Under a strategy every replica measures all images: this costs little, and nothing needs to be added up.

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      images: x as a float array [num_images, event].

    Attributes:
      images: as above.
    """

    def __init__(self, model, images):
        self.images = images
        self._model = model
        run = model.distribute_strategy.run
        self._step = tf.function(lambda x, i: run(self._measure, (x, i)), jit_compile=model.jit_compile)

    def means(self):
        """Returns the means of the model's metrics over the images, name -> float."""
        self._model.reset_metrics()
        for index, start in enumerate(range(0, len(self.images), _VALIDATION_BATCH)):
            self._step(tf.constant(self.images[start : start + _VALIDATION_BATCH]), tf.constant(index))
        return {metric.name: float(metric.result()) for metric in self._model.curve_metrics}

    def _measure(self, x, index):
        model = self._model
        key = noise.key(model.seed, "validation", index)
        model.measure(model.log_weight_terms(x, model.draw_epsilon(model.num_samples, tf.shape(x)[0], key)))
