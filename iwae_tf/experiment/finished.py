"""Whether a run is finished.

This module does not import TensorFlow, so a finished run shows its results at once.
"""

import msgspec

from iwae_tf.experiment.flags import Options
from iwae_tf.experiment.stored import covers
from iwae_tf.runs import Results, RunDirectory, checkpoints
from iwae_tf.runs.results import Annealing


def stored_results(options: Options, run: RunDirectory) -> Results | None:
    """Returns the stored results of the whole training with these options.

    Args:
      options: the options that are asked for.
      run: the run directory.

    Returns:
      The results as `measured_results` returns them, or None if their figures are missing.

    Raises:
      UserError: results.json is damaged.
    """
    results = measured_results(options, run)
    return results if results and _is_drawn(options, run) else None


def measured_results(options: Options, run: RunDirectory) -> Results | None:
    """Returns the stored results of the whole training with these options, whether or not they are drawn.

    Args:
      options: the options that are asked for.
      run: the run directory.

    Returns:
      The results, or None if there are none yet, or only those of a shorter training, of other options or of another
      checkpoint. Those of a released model do not count with --notrain, which measures them again.

    Raises:
      UserError: results.json is damaged.
    """
    results = run.read_results()
    measures_again = run.is_released() and not options.train
    if results is None or measures_again or not covers(results.flags, options):
        return None
    is_whole = results.training.epochs == options.num_epochs and belongs_to_weights(results, run)
    return results if is_whole else None


def belongs_to_weights(results: Results, run: RunDirectory) -> bool:
    """Whether the last checkpoint is that of the results, or there is none."""
    steps = checkpoints.steps(run.checkpoints)
    return not steps or results.training.steps in (steps[-1], msgspec.UNSET)


def annealing_of(results: Results, run: RunDirectory) -> Annealing | None:
    """Returns what ais.json says of the model that the results are of, or None if there is nothing.

    Raises:
      UserError: ais.json is damaged.
    """
    annealing = run.read_annealing()
    return annealing if annealing and annealing.steps == results.training.steps else None


def _is_drawn(options, run):
    # The learning curves are drawn last.
    return not run.figures.exists() or all((run.figures / f"bounds.{form}").exists() for form in options.figure_format)


def finished_results(options: Options, run: RunDirectory) -> Results | None:
    """Like `stored_results`, but None if other files that the options ask for are missing."""
    complete = run.data.exists() and (run.saved_model.exists() or not options.export)
    return stored_results(options, run) if complete else None
