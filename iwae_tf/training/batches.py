"""Batches and the compiled training steps that draw them."""

import tensorflow as tf

from iwae_tf import noise
from iwae_tf.datasets import binarization
from iwae_tf.runtime import distribute


def compiled_steps(model, images, num_samples=None):
    """Returns a function that runs many of the model's train steps in one compiled call.

    Its arguments are (order, start, stop): the images of each step of the epoch, int32 [steps_per_epoch, batch], and
    the steps to run. Shapes never change and the loop's bounds are tensors, so it is compiled once. (`for step in
    tf.range(start, stop)` would be compiled anew for every pair of bounds.)

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      images: uint8 tensor [num_images, event].
      num_samples: samples per image, if not the model's number.

    Returns:
      A function to the running means of the model's metrics, name -> tensor.
    """

    @tf.function(jit_compile=model.jit_compile)
    def run_steps(order, start, stop):
        def one_step(step):
            model.distribute_strategy.run(lambda: model.train_step(batch(model, images, order[step]), num_samples))
            return [step + 1]

        tf.while_loop(lambda step: step < stop, one_step, [start])
        return model.get_metrics_result()

    return lambda order, start, stop: run_steps(order, tf.constant(start), tf.constant(stop))


def batch(model, images, indices):
    """This replica's share of the images of step `optimizer.iterations`, binarised as they are drawn.

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      images: uint8 tensor [num_images, event].
      indices: int32 [batch], the whole batch.

    Returns:
      Float32 zeros and ones, [batch / replicas, event].
    """
    key = noise.key(model.seed, "binarization", model.optimizer.iterations)
    return distribute.replica_share(binarization.binarize(tf.gather(images, indices), key), axis=0)


def epoch_order(num_images, plan, seed, epoch):
    """The images of each step of an epoch, int32 [steps_per_epoch, batch]: every epoch has its own random order."""
    steps = plan.steps_per_epoch(num_images)
    order = noise.permutation(num_images, noise.key(seed, "order", epoch))
    return tf.reshape(order[: steps * plan.batch_size], [steps, plan.batch_size])
