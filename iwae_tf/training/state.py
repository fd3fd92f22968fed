"""The variables that continue a training run: preparing, restoring, averaging."""

import contextlib

import numpy as np

from iwae_tf.errors import UserError
from iwae_tf.models import ImportanceWeightedAutoencoder
from iwae_tf.runs import RunDirectory, checkpoints
from iwae_tf.runtime import distribute, files
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


# The arrays of weights.npz: these groups of `variables_of_training`, and the finished steps.
_NETWORKS, _STEPS = "networks", "steps"


def restore(model: ImportanceWeightedAutoencoder, run: RunDirectory | None) -> History:
    """Restores a model and its optimizer from the run's last undamaged checkpoint, if there is one.

    A released model has only its weights, which are averages already: its training cannot be continued.

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
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    arrays, history = None, History()
    if workers.any(bool(run and run.is_released())):
        model.optimizer.use_ema = False
    if run and run.is_released():
        arrays, history = _read_weights(model, run, shapes), _history_of_file(run)
    elif run:
        arrays = checkpoints.read_last(run.checkpoints, {**shapes, **ARRAY_SHAPES})
        history = History.from_arrays(arrays) if arrays else history
    # Every worker reads all variables, since reading a metric's variable sums it over the workers.
    values = values_of_training(model) | (arrays or {})
    for name, variable in variables.items():
        variable.assign(workers.from_chief(values[name].astype(variable.dtype)))
    return history


def save_weights(model: ImportanceWeightedAutoencoder, run: RunDirectory) -> None:
    """Writes weights.npz: the weights of a trained model after `use_averages`, and the number of its steps."""
    weights = {name: array for name, array in values_of_training(model).items() if name.startswith(_NETWORKS)}
    files.write_arrays(run.weights, {**weights, _STEPS: np.int64(model.num_steps)})


def _read_weights(model, run, shapes):
    """The content of weights.npz as in a checkpoint, name -> array."""
    arrays = files.read_arrays(run.weights)
    needed = {_STEPS: ()} | {name: shape for name, shape in shapes.items() if name.startswith(_NETWORKS)}
    problem = checkpoints.problem(arrays, needed)
    if problem:
        raise UserError(f"{run.weights} {problem}; copy the released model again.")
    steps = arrays.pop(_STEPS)
    iterations = next(name for name, v in variables_of_training(model).items() if v is model.optimizer.iterations)
    return arrays | {iterations: steps}


def _history_of_file(run):
    rows = run.read_history()
    return History(rows=rows, seconds=rows[-1]["seconds"] if rows else 0.0)


def variables_of_training(model):
    """Returns all variables that decide how the training continues, name -> variable."""
    groups = {
        _NETWORKS: model.variables_of_networks,
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
