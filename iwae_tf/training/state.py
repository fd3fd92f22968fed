"""The variables that continue a training run: preparing, restoring, averaging."""

import contextlib

import tensorflow as tf

from iwae_tf.runs import checkpoints
from iwae_tf.runtime import distribute
from iwae_tf.training import history


def prepare(model, plan, steps_per_epoch=1):
    """Gives the model its optimizer and creates all variables, so that checkpoints can be restored."""
    with model.distribute_strategy.scope():
        model(tf.zeros([1, model.generative.event_size]))
        model.compile(optimizer=plan.optimizer(steps_per_epoch), jit_compile=plan.jit)
        model.optimizer.build(model.trainable_variables)


def restore(model, run):
    """Restores a prepared model and its optimizer from the run's last checkpoint that is undamaged.

    Under a strategy the chief reads, and the others, whose run is None, get their values from it.

    Returns:
      The `history.History` of the training so far; the model's `optimizer.iterations` tells how far that is.

    Raises:
      UserError: all checkpoints are damaged, or of another model.
    """
    workers = distribute.Workers(model.distribute_strategy)
    state = variables_of_training(model)
    found = None
    if run:
        shapes = {name: tuple(variable.shape) for name, variable in state.items()}
        found = checkpoints.read_last(run.checkpoints, {**shapes, **history.ARRAY_SHAPES})
    # All workers read all, for reading a metric's variable adds it up over them.
    values = values_of_training(model) | (found or {})
    for name, variable in state.items():
        variable.assign(workers.from_chief(values[name].astype(variable.dtype)))
    return history.History.from_arrays(found) if found else history.History()


def variables_of_training(model):
    """All variables that decide how a training goes on, name -> variable."""
    groups = {
        "networks": model.variables_of_networks,
        "optimizer": model.optimizer.variables,
        "metrics": [variable for metric in model.metrics for variable in metric.variables],
    }
    return {f"{group}/{i:03}": variable for group, variables in groups.items() for i, variable in enumerate(variables)}


def values_of_training(model):
    """The values of `_state`, name -> array."""
    return {name: variable.numpy() for name, variable in variables_of_training(model).items()}


def use_averages(model):
    """Replaces the weights by their averages over training, if the optimizer keeps any."""
    model.optimizer.finalize_variable_values(model.trainable_variables)


@contextlib.contextmanager
def averaged_weights(model):
    """Within the context the model has the weights that `use_averages` would give it."""
    weights = [variable.numpy() for variable in model.trainable_variables]
    use_averages(model)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)
