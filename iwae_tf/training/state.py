"""The variables that continue a training run: preparing, restoring, averaging."""

import contextlib

from iwae_tf.models import ImportanceWeightedAutoencoder
from iwae_tf.runs import RunDirectory, checkpoints
from iwae_tf.runtime import distribute
from iwae_tf.training.history import ARRAY_SHAPES, History
from iwae_tf.training.plan import Plan


def prepare(model: ImportanceWeightedAutoencoder, plan: Plan, steps_per_epoch: int = 1) -> None:
    """Compiles a model with the plan's optimizer and creates all variables, so that checkpoints can be restored.

    Args:
      model: an `ImportanceWeightedAutoencoder`.
      plan: a `Plan`.
      steps_per_epoch: training steps in an epoch, on which the learning rates depend; any number will do if the model
        is not trained.
    """
    with model.distribute_strategy.scope():
        model.compile(optimizer=plan.optimizer(steps_per_epoch), jit_compile=plan.jit)


def restore(model: ImportanceWeightedAutoencoder, run: RunDirectory | None) -> History:
    """Restores a model and its optimizer from the run's last undamaged checkpoint, if there is one.

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared; under a `tf.distribute` strategy every worker calls this
        function.
      run: the `runs.RunDirectory`; None in workers other than the chief, which receive the chief's values.

    Returns:
      The `History` of the training so far; `optimizer.iterations` is then the number of finished steps.

    Raises:
      UserError: every checkpoint is damaged, or from another model.
    """
    workers = distribute.Workers(model.distribute_strategy)
    variables = variables_of_training(model)
    arrays = None
    if run:
        shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
        arrays = checkpoints.read_last(run.checkpoints, {**shapes, **ARRAY_SHAPES})
    # Every worker reads all variables, since reading a metric's variable sums it over the workers.
    values = values_of_training(model) | (arrays or {})
    for name, variable in variables.items():
        variable.assign(workers.from_chief(values[name].astype(variable.dtype)))
    return History.from_arrays(arrays) if arrays else History()


def variables_of_training(model):
    """Returns all variables that decide how the training continues, name -> variable."""
    groups = {
        "networks": model.variables_of_networks,
        "optimizer": model.optimizer.variables,
        "metrics": [variable for metric in model.curve_metrics for variable in metric.variables],
    }
    return {f"{group}/{i:03}": variable for group, variables in groups.items() for i, variable in enumerate(variables)}


def values_of_training(model):
    """Returns the values of `variables_of_training`, name -> array."""
    return {name: variable.numpy() for name, variable in variables_of_training(model).items()}


def use_averages(model: ImportanceWeightedAutoencoder) -> None:
    """Replaces the weights by their averages over training, if the optimizer keeps averages."""
    model.optimizer.finalize_variable_values(model.trainable_variables)


@contextlib.contextmanager
def averaged_weights(model):
    """Within this context the model has the weights that `use_averages` would give it."""
    weights = [variable.numpy() for variable in model.trainable_variables]
    use_averages(model)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)
