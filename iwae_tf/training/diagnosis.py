"""Finds what went wrong in a training run whose bounds or weights are not finite."""

import functools
import math

import numpy as np
import tensorflow as tf

from iwae_tf import execution
from iwae_tf.runs import checkpoints
from iwae_tf.training import batches, state


def not_finite(model, split, means):
    """Describes the first mean that is not finite or, in the validation, the first such weight.

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      split: "training" or "validation", on which the means were measured.
      means: the metrics' means, name -> float.

    Returns:
      A phrase such as "the training iwae_bound is nan after step 5", or None if all are finite.
    """
    weights = model.trainable_variables if split == "validation" else ()
    problems = [f"the {split} {name} is {mean}" for name, mean in means.items() if not math.isfinite(mean)]
    problems += [f"{weight.path} is not finite" for weight in weights if not np.isfinite(weight.numpy()).all()]
    return f"{problems[0]} after step {model.num_steps}" if problems else None


def first_bad_step(model, images, plan, saved_values):
    """Repeats the steps since the last checkpoint, one by one, until a bound or a gradient is not finite.

    Args:
      model: the prepared `ImportanceWeightedAutoencoder`; its variables are left as they are after the last repeated
        step.
      images: uint8 tensor [num_images, event], the training images.
      plan: a `Plan`.
      saved_values: the values to start from, as `state.values_of_training` returned them.

    Returns:
      A phrase that names the step, its bound and the first bad gradient; None if no step fails this time.
    """
    last_step = model.num_steps
    for name, variable in state.variables_of_training(model).items():
        variable.assign(saved_values[name])
    run_step = _checked_step(model, images)
    steps_per_epoch = plan.steps_per_epoch(len(images))
    for step in range(model.num_steps, last_step):
        epoch = step // steps_per_epoch
        indices = batches.epoch_order(len(images), plan, model.seed, epoch)[step % steps_per_epoch]
        bound, are_finite = run_step(indices, plan.samples_in_epoch(epoch, model))
        pairs = zip(model.trainable_variables, are_finite, strict=True)
        bad_gradients = [variable.path for variable, is_finite in pairs if not is_finite]
        if bad_gradients or not math.isfinite(bound):
            return f"in step {step + 1} the bound is {bound}{_gradients_phrase(bad_gradients)}"
    return None


def _checked_step(model, images):
    """Returns a function (indices, num_samples) -> (bound, whether each gradient is finite) that runs one step."""

    @functools.cache
    def compiled(num_samples):
        def replica_step(indices):
            terms, gradients = model.gradients(batches.batch(model, images, indices), num_samples)
            model.optimizer.apply(gradients, model.trainable_variables)
            bound = tf.reduce_mean(model.objective.generative.value(terms.log_weights))
            return bound, [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients]

        def run_step(in_step, indices):
            with in_step():
                return model.distribute_strategy.run(lambda: replica_step(indices))

        return execution.compiled_steps(run_step, model, num_samples)

    def first_replica(value):
        return model.distribute_strategy.experimental_local_results(value)[0]

    def call(indices, num_samples):
        bound, are_finite = compiled(num_samples)(len(indices), indices)
        return float(first_replica(bound)), [bool(first_replica(is_finite)) for is_finite in are_finite]

    return call


def _gradients_phrase(bad_gradients):
    """Ends the phrase of `first_bad_step`; bad_gradients are the paths of weights."""
    if not bad_gradients:
        return ""
    if len(bad_gradients) == 1:
        return f" and the gradient of {bad_gradients[0]} is not finite"
    return f" and {len(bad_gradients)} gradients are not finite (the first is of {bad_gradients[0]})"


def message(problem, run):
    """The error message of a training run that failed.

    Args:
      problem: a phrase that `not_finite` or `first_bad_step` returned.
      run: the `runs.RunDirectory`, or None.

    Returns:
      One line.
    """
    steps = checkpoints.steps(run.checkpoints) if run else []
    saved = f"the last checkpoint before it is {checkpoints.path(run.checkpoints, steps[-1])}" if steps else ""
    return (
        f"Training failed: {problem}; {saved or 'nothing was saved yet'}; "
        "try a smaller learning_rate or set clip_norm, and overwrite the run."
    )
