"""Batches, and the compiled training steps that draw them."""

import tensorflow as tf

from iwae_tf import execution, noise
from iwae_tf.datasets import observations
from iwae_tf.runtime import distribute


def compiled_steps(model, images, num_samples=None):
    """Returns a function that runs many of the model's train steps in one compiled call.

    Its arguments are (order, start, stop): the images of each step of the epoch, int32 [steps_per_epoch, batch], and
    the range of steps to run. The shapes never change and the loop's bounds are tensors, so it is compiled only once;
    `for step in tf.range(start, stop)` would be compiled again for every pair of bounds.

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      images: uint8 tensor [num_images, event].
      num_samples: samples per image; None for the model's number.

    Returns:
      A function that returns the running means of the model's metrics, name -> scalar tensor.
    """

    def run_steps(in_step, order, start, stop):
        def run_step(step):
            with in_step():
                indices = tf.gather(order, step)
                model.distribute_strategy.run(lambda: model.train_step(batch(model, images, indices), num_samples))
                return [step + 1]

        tf.while_loop(lambda step: step < stop, run_step, [start])
        return {metric.name: metric.result() for metric in model.curve_metrics}

    compiled = execution.compiled_steps(run_steps, model, num_samples or model.num_samples)
    return lambda order, start, stop: compiled(order.shape[1], order, tf.constant(start), tf.constant(stop))


def batch(model, images, indices):
    """Returns this replica's share of the batch of step `optimizer.iterations`; see `observations.drawn`.

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      images: uint8 or float32 tensor [num_images, event].
      indices: int32 [batch], the images of the whole batch.

    Returns:
      Float32 [batch / replicas, event].
    """
    key = noise.key(model.seed, "binarization", model.optimizer.iterations)
    return distribute.replica_share(observations.drawn(tf.gather(images, indices), model.support, key), axis=0)


def epoch_order(num_images, plan, seed, epoch):
    """Returns the images of each step of an epoch, int32 [steps_per_epoch, batch], in a random order.

    Args:
      num_images: training images.
      plan: a `Plan`.
      seed: the run's seed.
      epoch: counted from 0; every epoch has a different order.
    """
    steps = plan.steps_per_epoch(num_images)
    order = noise.permutation(num_images, noise.key(seed, "order", epoch))
    return tf.reshape(order[: steps * plan.batch_size], [steps, plan.batch_size])
